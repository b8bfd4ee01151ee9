/* config - every setting of cairnd in one table: name, default, unit, range, help. Flag beats environment (CAIRN_NAME) beats file
 * beats default; where each value came from is kept and shown by --print-config. */
#ifndef CRN_BROKER_CONFIG_H
#define CRN_BROKER_CONFIG_H

#include "broker/store.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define CRN_CONFIG_SPACES 64u
#define CRN_CONFIG_UIDS 32u

enum crn_config_source {
    CRN_FROM_DEFAULT = 0,
    CRN_FROM_FILE = 1,
    CRN_FROM_ENVIRONMENT = 2,
    CRN_FROM_FLAG = 3,
};

/* NAME[:uid=N,...][:memory=SIZE][:spill-int8] */
struct crn_config_space {
    char name[64];
    uid_t uids[CRN_CONFIG_UIDS]; /* who may use it; none given: the broker's own uid */
    uint32_t n_uids;
    bool spill_int8;       /* of its entries, whatever --spill-int8 says */
    uint64_t memory_bytes; /* 0: an equal share of what the others leave */
};

/* One row per setting, in the order of --help. */
#define CRN_SETTING_COUNT 20

struct crn_config {
    char *socket;
    char *device, *mem_kind;
    uint64_t memory_bytes;
    bool memory_default; /* nobody set it: half of RAM */
    uint64_t host_tier_bytes; /* 0: none */
    bool host_tier_default;   /* nobody set it: at most a quarter of RAM */
    uint64_t arena_bytes;
    struct crn_config_space spaces[CRN_CONFIG_SPACES];
    uint32_t n_spaces;
    uint64_t lease_ttl_ms;
    uint64_t landing_max_bytes;
    uint64_t max_sessions;
    uint64_t copy_threads;
    struct crn_store_config nvme; /* paths are owned; no files: no NVMe */
    uint64_t high_percent, low_percent;
    bool write_through, spill_int8;
    uint64_t log_level; /* enum crn_log_level */
    char *file;         /* --config; NULL: none */
    bool print_config, show_version, show_help;
    uint8_t source[CRN_SETTING_COUNT]; /* enum crn_config_source */
};

/* Reads argv, the environment and the file. On failure writes one line to `errors` and returns CAIRN_E_ARG (or the file's
 * -errno). own: end with crn_config_free, in every case. */
int crn_config_load(int argc, char *const argv[], FILE *errors, struct crn_config *out_config);
void crn_config_free(struct crn_config *config);

/* May a peer of this uid use the namespace? */
bool crn_config_space_allows(const struct crn_config_space *space, uid_t uid);

void crn_config_print(const struct crn_config *config, FILE *to);
void crn_config_help(FILE *to);

/* "64M", "1G", "4096", "2GiB" -> bytes; CAIRN_E_ARG. */
int crn_config_parse_size(const char *text, uint64_t *out_bytes);

#endif
