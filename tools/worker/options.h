/* options - the command line of cairn-worker as one checked structure. */
#ifndef CRN_WORKER_OPTIONS_H
#define CRN_WORKER_OPTIONS_H

#include "tools/worker/answer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRN_MAX_ASKS 256u

struct crn_worker_options {
    const char *model;
    struct crn_adapter_spec adapters[CRN_MAX_ADAPTERS];
    char *adapter_paths[CRN_MAX_ADAPTERS]; /* owned */
    size_t n_adapters;
    const char *label; /* shown by tools; default: name of the last adapter's or the model's file */
    const char *context_file;
    const char *asks[CRN_MAX_ASKS];
    size_t n_asks;
    const char *requests_file; /* "-": standard input */
    const char *socket;
    const char *device;  /* host, auto or cuda:N */
    const char *backend; /* kernels of the host: cpu or ref */
    uint32_t weights;    /* enum crn_weights_form, on a device */
    struct crn_reuse_choice reuse;
    struct crn_publish_choice publish;
    uint16_t states[CAIRN_MAX_STATES];
    struct crn_pyramid_rule rule;
    struct crn_gen_rule gen;
    char settings[CRN_PYRAMID_TEXT]; /* of a prefill pyramid */
    struct crn_compress compress; /* after the commit; no selector: none */
    uint32_t kv_dtype; /* private K and V */
    uint32_t n_threads;
    uint32_t batch; /* questions of one context decoded together */
    struct crn_decode_options decode;
    bool pin, json, score, private_int8, digest_only;
};

/* argv -> options, checked. own: crn_worker_options_free.
 * returns 0, 1 when --help or --version was printed (exit 0), CAIRN_E_ARG after one line on stderr
 * (exit 2) */
int crn_worker_options_parse(int argc, char **argv, struct crn_worker_options *out);
void crn_worker_options_free(struct crn_worker_options *o);

#endif
