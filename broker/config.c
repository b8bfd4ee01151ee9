/* Settings: one table, four sources. Each source is applied to settings that no stronger one has set, strongest first, so that
 * a weak source with a bad value still fails loudly only where it counts. Values are checked against their range when they are
 * read; relations between them (arena within memory, namespaces within memory) at the end.
 *
 * It knows nothing about what the settings do. */
#include "broker/config.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

enum setting_kind { TEXT, SIZE, COUNT, DURATION, LEVEL, SPACE, NVME, ENGINE, FLAG };

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t at; /* offset in struct crn_config */
    uint64_t min, max;
    const char *fallback; /* default as text; NULL: computed (see finish) */
    const char *argument; /* NULL: a flag */
    const char *help;
};

#define AT(field) offsetof(struct crn_config, field)

static const struct setting settings[CRN_SETTING_COUNT] = {
    {"socket", TEXT, AT(socket), 0, 0, NULL, "PATH",
     "where workers connect [$XDG_RUNTIME_DIR/cairn/cairn.sock, else /tmp/cairn-UID/cairn.sock]"},
    {"device", TEXT, AT(device), 0, 0, "host", "host|cuda:N|auto",
     "where payloads live: host memory, a GPU's, or a GPU's when one answers"},
    {"mem-kind", TEXT, AT(mem_kind), 0, 0, "auto", "auto|cuda-vmm|cuda-ipc",
     "how workers get at a GPU's memory; cuda-ipc lets them write it"},
    {"memory", SIZE, AT(memory_bytes), MIB, UINT64_C(1) << 46, NULL, "SIZE",
     "limit of all arenas together [half of RAM, or of the device's memory]"},
    {"host-tier", SIZE, AT(host_tier_bytes), 0, UINT64_C(1) << 46, NULL, "SIZE",
     "page-locked host memory for cold payloads of a GPU, before NVMe; 0: none [as --memory, at most a quarter of RAM]"},
    {"arena-size", SIZE, AT(arena_bytes), 256 * KIB, UINT64_C(1) << 45, NULL, "SIZE",
     "size of one arena [the smaller of 1G and a namespace's share of memory]"},
    {"namespace", SPACE, AT(spaces), 0, 0, NULL, "NAME[:uid=N,...][:memory=SIZE][:spill-int8]",
     "a tenant, repeatable; who may use it and how much [default, for the broker's own uid]"},
    {"lease-ttl", DURATION, AT(lease_ttl_ms), 100, 86400000, "300s", "TIME",
     "leases end after so long without any message from their worker (0.1s..24h)"},
    {"landing-max", SIZE, AT(landing_max_bytes), 64 * KIB, UINT64_C(1) << 36, "256M", "SIZE",
     "largest landing zone of one draft (64K..64G)"},
    {"max-sessions", COUNT, AT(max_sessions), 1, 4096, "256", "N",
     "workers and tools connected at a time (1..4096)"},
    {"copy-threads", COUNT, AT(copy_threads), 1, 64, "1", "N",
     "threads that copy published layers into arenas (1..64)"},
    {"nvme", NVME, AT(nvme), 0, 0, NULL, "PATH[:SIZE]",
     "keep cold payloads in this file or directory, repeatable [none; SIZE: half of what is free]"},
    {"high", COUNT, AT(high_percent), 1, 100, "90", "PERCENT",
     "of a namespace's memory, and of its host tier: above it, payloads go a tier down (1..100)"},
    {"low", COUNT, AT(low_percent), 0, 100, "75", "PERCENT", "... until below this (0..100)"},
    {"write-through", FLAG, AT(write_through), 0, 0, NULL, NULL,
     "copy every entry to NVMe as soon as it is published, so that all survive a restart"},
    {"spill-int8", FLAG, AT(spill_int8), 0, 0, NULL, NULL,
     "code keys and values as int8 on their way to NVMe: half the bytes, no longer the same numbers"},
    {"io-engine", ENGINE, AT(nvme.engine), 0, 0, "auto", "NAME",
     "how NVMe is read and written: auto, uring or threads"},
    {"log-level", LEVEL, AT(log_level), 0, 0, "info", "LEVEL", "error, warn, info or debug"},
    {"config", TEXT, AT(file), 0, 0, NULL, "FILE", "read `name = value` lines from FILE"},
    {"print-config", FLAG, AT(print_config), 0, 0, NULL, NULL,
     "print every setting and where it came from, then exit"},
};

enum {
    ROW_SOCKET = 0, ROW_DEVICE, ROW_MEM_KIND, ROW_MEMORY, ROW_HOST_TIER, ROW_ARENA, ROW_SPACE, ROW_WRITE_THROUGH = 14, ROW_SPILL_INT8,
    ROW_FILE = 18
};

/* Where a value is being read from, for messages. */
struct reader {
    struct crn_config *config;
    FILE *errors;
    enum crn_config_source source;
    const char *where; /* "--memory", "CAIRN_MEMORY", "cairnd.conf:3: memory" */
};

static int refuse(FILE *errors, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(FILE *errors, const char *format, ...)
{
    va_list args;
    fputs("cairnd: ", errors);
    va_start(args, format);
    vfprintf(errors, format, args);
    va_end(args);
    fputc('\n', errors);
    return CAIRN_E_ARG;
}

/* ---- values ---- */

static int parse_number(const char *text, uint64_t *out_value, const char **out_rest)
{
    if (!isdigit((unsigned char)text[0]))
        return CAIRN_E_ARG;
    char *end;
    errno = 0;
    *out_value = strtoull(text, &end, 10);
    *out_rest = end;
    return errno == 0 ? 0 : CAIRN_E_ARG;
}

int crn_config_parse_size(const char *text, uint64_t *out_bytes)
{
    static const char units[] = "KMGT";
    uint64_t value;
    const char *rest;
    if (parse_number(text, &value, &rest) != 0)
        return CAIRN_E_ARG;
    const char *unit = *rest != '\0' ? strchr(units, toupper((unsigned char)*rest)) : NULL;
    if (unit != NULL) {
        uint64_t factor = UINT64_C(1) << (10 * (unit - units + 1));
        if (__builtin_mul_overflow(value, factor, &value))
            return CAIRN_E_ARG;
        rest++;
        if (strcmp(rest, "iB") == 0 || strcmp(rest, "B") == 0)
            rest = "";
    }
    if (*rest != '\0')
        return CAIRN_E_ARG;
    *out_bytes = value;
    return 0;
}

static int parse_duration(const char *text, uint64_t *out_ms)
{
    static const struct {
        const char *suffix;
        uint64_t ms;
    } units[] = {{"", 1000}, {"s", 1000}, {"ms", 1}, {"m", 60000}, {"h", 3600000}};
    uint64_t value;
    const char *rest;
    if (parse_number(text, &value, &rest) != 0)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(rest, units[i].suffix) == 0)
            return __builtin_mul_overflow(value, units[i].ms, out_ms) ? CAIRN_E_ARG : 0;
    }
    return CAIRN_E_ARG;
}

static int parse_count(const char *text, uint64_t *out_count)
{
    const char *rest;
    int status = parse_number(text, out_count, &rest);
    return status == 0 && *rest == '\0' ? 0 : CAIRN_E_ARG;
}

static int parse_uids(char *text, struct crn_config_space *space)
{
    char *save = NULL;
    for (char *one = strtok_r(text, ",", &save); one != NULL; one = strtok_r(NULL, ",", &save)) {
        uint64_t uid;
        if (parse_count(one, &uid) != 0 || uid >= UINT32_MAX || space->n_uids == CRN_CONFIG_UIDS)
            return CAIRN_E_ARG;
        space->uids[space->n_uids++] = (uid_t)uid;
    }
    return space->n_uids > 0 ? 0 : CAIRN_E_ARG;
}

static int good_name(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof((struct crn_config_space *)0)->name)
        return 0;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static int parse_space(char *text, struct crn_config_space *out_space)
{
    struct crn_config_space space = {.n_uids = 0};
    char *save = NULL;
    char *part = strtok_r(text, ":", &save);
    if (part == NULL || !good_name(part))
        return CAIRN_E_ARG;
    snprintf(space.name, sizeof space.name, "%s", part);
    while ((part = strtok_r(NULL, ":", &save)) != NULL) {
        int status = CAIRN_E_ARG;
        if (strncmp(part, "uid=", 4) == 0)
            status = parse_uids(part + 4, &space);
        else if (strncmp(part, "memory=", 7) == 0)
            status = crn_config_parse_size(part + 7, &space.memory_bytes);
        else if (strcmp(part, "spill-int8") == 0)
            status = 0, space.spill_int8 = true;
        if (status != 0)
            return status;
    }
    *out_space = space;
    return 0;
}

static int set_space(const struct reader *r, const char *text)
{
    struct crn_config *c = r->config;
    if (c->n_spaces == CRN_CONFIG_SPACES)
        return refuse(r->errors, "%s: more than %u namespaces", r->where, CRN_CONFIG_SPACES);
    char *copy = strdup(text);
    int status = copy != NULL ? parse_space(copy, &c->spaces[c->n_spaces]) : -ENOMEM;
    free(copy);
    if (status != 0)
        return refuse(r->errors, "%s: `%s` is not NAME[:uid=N,...][:memory=SIZE][:spill-int8]", r->where, text);
    for (uint32_t i = 0; i < c->n_spaces; i++) {
        if (strcmp(c->spaces[i].name, c->spaces[c->n_spaces].name) == 0)
            return refuse(r->errors, "%s: namespace %s is given twice", r->where,
                          c->spaces[i].name);
    }
    c->n_spaces++;
    return 0;
}

static int set_nvme(const struct reader *r, const char *text)
{
    struct crn_store_config *nvme = &r->config->nvme;
    if (nvme->n_files == CRN_SPILL_MAX_FILES)
        return refuse(r->errors, "%s: more than %u files", r->where, CRN_SPILL_MAX_FILES);
    char *path = strdup(text), *colon = path != NULL ? strrchr(path, ':') : NULL;
    uint64_t bytes = 0;
    if (path == NULL)
        return -ENOMEM;
    if (colon != NULL && crn_config_parse_size(colon + 1, &bytes) == 0)
        *colon = '\0';
    if (path[0] == '\0' || (colon != NULL && *colon == '\0' && bytes < MIB)) {
        free(path);
        return refuse(r->errors, "%s: `%s` is not PATH[:SIZE] of at least 1M", r->where, text);
    }
    nvme->files[nvme->n_files++] = (struct crn_store_file_config){path, bytes};
    return 0;
}

static int set_engine(const struct reader *r, enum crn_spill_engine *field, const char *text)
{
    return crn_spill_engine_parse(text, field) == 0
               ? 0
               : refuse(r->errors, "%s: `%s` is not auto, uring or threads", r->where, text);
}

static int set_switch(const struct reader *r, bool *field, const char *text)
{
    bool on = text[0] == '\0' || strcmp(text, "yes") == 0 || strcmp(text, "1") == 0;
    if (!on && strcmp(text, "no") != 0 && strcmp(text, "0") != 0)
        return refuse(r->errors, "%s: `%s` is not yes or no", r->where, text);
    *field = on;
    return 0;
}

static int set_text(const struct reader *r, char **field, const char *text)
{
    if (text[0] == '\0')
        return refuse(r->errors, "%s: empty", r->where);
    char *copy = strdup(text);
    if (copy == NULL)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}

static int set_level(const struct reader *r, uint64_t *field, const char *text)
{
    enum crn_log_level level;
    if (crn_log_level_parse(text, &level) != 0)
        return refuse(r->errors, "%s: `%s` is not error, warn, info or debug", r->where, text);
    *field = (uint64_t)level;
    return 0;
}

static int set_number(const struct reader *r, const struct setting *s, uint64_t *field,
                      const char *text)
{
    uint64_t value = 0;
    int status = s->kind == SIZE       ? crn_config_parse_size(text, &value)
                 : s->kind == DURATION ? parse_duration(text, &value)
                                       : parse_count(text, &value);
    if (status != 0)
        return refuse(r->errors, "%s: `%s` is not %s", r->where, text,
                      s->kind == SIZE       ? "a size like 512M"
                      : s->kind == DURATION ? "a time like 300s"
                                            : "a number");
    if (value < s->min || value > s->max)
        return refuse(r->errors, "%s: %s is not within %llu .. %llu%s", r->where, text,
                      (unsigned long long)s->min, (unsigned long long)s->max,
                      s->kind == SIZE       ? " bytes"
                      : s->kind == DURATION ? " ms"
                                            : "");
    *field = value;
    return 0;
}

/* Takes a value unless a stronger source has set it. Repeatable settings add up within one source. */
static int set(const struct reader *r, size_t row, const char *text)
{
    const struct setting *s = &settings[row];
    if (r->config->source[row] > r->source)
        return 0;
    r->config->source[row] = (uint8_t)r->source;
    void *field = (char *)r->config + s->at;
    switch (s->kind) {
    case TEXT:
        return set_text(r, field, text);
    case LEVEL:
        return set_level(r, field, text);
    case SPACE:
        return set_space(r, text);
    case NVME:
        return set_nvme(r, text);
    case ENGINE:
        return set_engine(r, field, text);
    case FLAG:
        return set_switch(r, field, text);
    default:
        return set_number(r, s, field, text);
    }
}

/* ---- sources ---- */

static int row_named(const char *name, size_t n, size_t *out_row)
{
    for (size_t row = 0; row < CRN_SETTING_COUNT; row++) {
        if (strlen(settings[row].name) == n && memcmp(settings[row].name, name, n) == 0) {
            *out_row = row;
            return 0;
        }
    }
    return CAIRN_E_ARG;
}

static int read_flag(struct reader *r, char *const argv[], int argc, int *at)
{
    const char *arg = argv[*at];
    if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)
        return r->config->show_help = true, 0;
    if (strcmp(arg, "--version") == 0)
        return r->config->show_version = true, 0;
    const char *equals = strchr(arg, '=');
    size_t row, n = equals != NULL ? (size_t)(equals - arg) : strlen(arg);
    if (n < 3 || strncmp(arg, "--", 2) != 0 || row_named(arg + 2, n - 2, &row) != 0)
        return refuse(r->errors, "unknown option `%s`; --help lists them", arg);
    char where[40];
    snprintf(where, sizeof where, "--%s", settings[row].name);
    r->where = where;
    if (settings[row].argument == NULL)
        return equals == NULL ? set(r, row, "") : refuse(r->errors, "%s takes no value", where);
    if (equals != NULL)
        return set(r, row, equals + 1);
    if (*at + 1 >= argc)
        return refuse(r->errors, "%s needs a value: %s", where, settings[row].argument);
    return set(r, row, argv[++*at]);
}

static int read_flags(struct crn_config *c, int argc, char *const argv[], FILE *errors)
{
    struct reader r = {c, errors, CRN_FROM_FLAG, ""};
    for (int i = 1; i < argc; i++) {
        int status = read_flag(&r, argv, argc, &i);
        if (status != 0)
            return status;
    }
    return 0;
}

static int read_environment(struct crn_config *c, FILE *errors)
{
    for (size_t row = 0; row < CRN_SETTING_COUNT; row++) {
        char name[48];
        int n = snprintf(name, sizeof name, "CAIRN_%s", settings[row].name);
        for (int i = 0; i < n; i++)
            name[i] = name[i] == '-' ? '_' : (char)toupper((unsigned char)name[i]);
        bool anywhere = settings[row].argument != NULL || row == ROW_WRITE_THROUGH;
        const char *value = anywhere ? getenv(name) : NULL;
        if (value == NULL || value[0] == '\0')
            continue;
        struct reader r = {c, errors, CRN_FROM_ENVIRONMENT, name};
        int status = set(&r, row, value);
        if (status != 0)
            return status;
    }
    return 0;
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t n = strlen(text);
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        text[--n] = '\0';
    return text;
}

static int read_line(struct crn_config *c, char *line, unsigned number, FILE *errors)
{
    char *text = trim(line);
    if (text[0] == '\0' || text[0] == '#')
        return 0;
    char *equals = strchr(text, '=');
    if (equals == NULL)
        return refuse(errors, "%s:%u: no `name = value`: %s", c->file, number, text);
    *equals = '\0';
    char *name = trim(text);
    size_t row;
    if (row_named(name, strlen(name), &row) != 0 || row == ROW_FILE ||
        (settings[row].argument == NULL && row != ROW_WRITE_THROUGH))
        return refuse(errors, "%s:%u: unknown setting `%s`", c->file, number, name);
    char where[256];
    snprintf(where, sizeof where, "%s:%u: %s", c->file, number, name);
    struct reader r = {c, errors, CRN_FROM_FILE, where};
    return set(&r, row, trim(equals + 1));
}

static int read_file(struct crn_config *c, FILE *errors)
{
    if (c->file == NULL)
        return 0;
    FILE *f = fopen(c->file, "re");
    if (f == NULL) {
        int status = -errno;
        refuse(errors, "%s: %s", c->file, cairn_strerror(status));
        return status;
    }
    char *line = NULL;
    size_t capacity = 0;
    int status = 0;
    for (unsigned number = 1; status == 0 && getline(&line, &capacity, f) >= 0; number++)
        status = read_line(c, line, number, errors);
    free(line);
    fclose(f);
    return status;
}

/* ---- defaults and relations ---- */

static int default_socket(struct crn_config *c)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int n = runtime != NULL && runtime[0] == '/'
                ? asprintf(&c->socket, "%s/cairn/cairn.sock", runtime)
                : asprintf(&c->socket, "/tmp/cairn-%u/cairn.sock", (unsigned)getuid());
    if (n >= 0)
        return 0;
    c->socket = NULL;
    return -ENOMEM;
}

static uint64_t half_of_ram(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t half = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : GIB;
    return half / MIB * MIB;
}

static int read_fallbacks(struct crn_config *c, FILE *errors)
{
    for (size_t row = 0; row < CRN_SETTING_COUNT; row++) {
        if (settings[row].fallback == NULL)
            continue;
        struct reader r = {c, errors, CRN_FROM_DEFAULT, settings[row].name};
        int status = set(&r, row, settings[row].fallback);
        if (status != 0)
            return status;
    }
    c->memory_bytes = c->memory_bytes != 0 ? c->memory_bytes : half_of_ram();
    c->host_tier_default = c->source[ROW_HOST_TIER] == CRN_FROM_DEFAULT;
    if (c->host_tier_default)
        c->host_tier_bytes = half_of_ram() / 2;
    if (c->n_spaces == 0)
        snprintf(c->spaces[c->n_spaces++].name, sizeof c->spaces[0].name, "default");
    return c->socket != NULL ? 0 : default_socket(c);
}

/* Namespaces without a size of their own share what the others leave. */
static int share_memory(struct crn_config *c, FILE *errors)
{
    uint64_t given = 0;
    uint32_t open = 0;
    for (uint32_t i = 0; i < c->n_spaces; i++) {
        if (__builtin_add_overflow(given, c->spaces[i].memory_bytes, &given))
            given = UINT64_MAX;
        open += c->spaces[i].memory_bytes == 0;
    }
    uint64_t least = open * settings[ROW_MEMORY].min;
    if (given > c->memory_bytes || c->memory_bytes - given < least)
        return refuse(errors, "namespaces need %llu bytes, --memory is %llu",
                      (unsigned long long)(given > UINT64_MAX - least ? given : given + least),
                      (unsigned long long)c->memory_bytes);
    for (uint32_t i = 0; i < c->n_spaces; i++) {
        if (c->spaces[i].memory_bytes == 0)
            c->spaces[i].memory_bytes = (c->memory_bytes - given) / open;
        if (c->spaces[i].memory_bytes < settings[ROW_MEMORY].min)
            return refuse(errors, "namespace %s: memory %llu is below 1 MiB", c->spaces[i].name,
                          (unsigned long long)c->spaces[i].memory_bytes);
        if (c->spaces[i].n_uids == 0)
            c->spaces[i].uids[c->spaces[i].n_uids++] = getuid();
    }
    return 0;
}

static int check_device(const struct crn_config *c, FILE *errors)
{
    static const char *const kinds[] = {"auto", "cuda-vmm", "cuda-ipc"};
    const char *d = c->device;
    bool numbered = strncmp(d, "cuda:", 5) == 0 && d[5] != '\0' && strspn(d + 5, "0123456789") == strlen(d + 5);
    if (!numbered && strcmp(d, "host") != 0 && strcmp(d, "auto") != 0)
        return refuse(errors, "device: `%s` is not host, auto or cuda:N", d);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(c->mem_kind, kinds[i]) == 0)
            return 0;
    }
    return refuse(errors, "mem-kind: `%s` is not auto, cuda-vmm or cuda-ipc", c->mem_kind);
}

static int finish(struct crn_config *c, FILE *errors)
{
    c->memory_default = c->source[ROW_MEMORY] == CRN_FROM_DEFAULT;
    int status = check_device(c, errors);
    if (status == 0)
        status = share_memory(c, errors);
    if (status != 0)
        return status;
    if (c->arena_bytes == 0)
        c->arena_bytes = c->memory_bytes < GIB ? c->memory_bytes : GIB;
    if (c->host_tier_bytes > 0 && c->host_tier_bytes < MIB)
        return refuse(errors, "host-tier %llu is below 1 MiB; 0: none", (unsigned long long)c->host_tier_bytes);
    if (c->low_percent >= c->high_percent)
        return refuse(errors, "low %llu is not below high %llu", (unsigned long long)c->low_percent,
                      (unsigned long long)c->high_percent);
    if (c->arena_bytes > c->memory_bytes)
        return refuse(errors, "arena-size %llu is larger than memory %llu",
                      (unsigned long long)c->arena_bytes, (unsigned long long)c->memory_bytes);
    return 0;
}

int crn_config_load(int argc, char *const argv[], FILE *errors, struct crn_config *out_config)
{
    struct crn_config *c = out_config;
    *c = (struct crn_config){.n_spaces = 0};
    int status = read_flags(c, argc, argv, errors);
    if (status == 0 && (c->show_help || c->show_version))
        return 0;
    if (status == 0)
        status = read_environment(c, errors);
    if (status == 0)
        status = read_file(c, errors);
    if (status == 0)
        status = read_fallbacks(c, errors);
    return status == 0 ? finish(c, errors) : status;
}

void crn_config_free(struct crn_config *config)
{
    free(config->socket);
    free(config->device);
    free(config->mem_kind);
    free(config->file);
    for (uint32_t i = 0; i < config->nvme.n_files; i++)
        free((char *)(uintptr_t)config->nvme.files[i].path);
    *config = (struct crn_config){.n_spaces = 0};
}

bool crn_config_space_allows(const struct crn_config_space *space, uid_t uid)
{
    for (uint32_t i = 0; i < space->n_uids; i++) {
        if (space->uids[i] == uid)
            return true;
    }
    return false;
}

/* ---- for people ---- */

static const char *const source_names[] = {"default", "file", "environment", "flag"};

static void print_space(const struct crn_config_space *space, FILE *to)
{
    fprintf(to, "namespace = %s:uid=", space->name);
    for (uint32_t i = 0; i < space->n_uids; i++)
        fprintf(to, "%s%u", i > 0 ? "," : "", (unsigned)space->uids[i]);
    fprintf(to, ":memory=%llu", (unsigned long long)space->memory_bytes);
}

static void print_nvme(const struct crn_store_file_config *file, FILE *to)
{
    fprintf(to, "nvme = %s", file->path);
    if (file->bytes > 0)
        fprintf(to, ":%llu", (unsigned long long)file->bytes);
}

static void print_value(const struct crn_config *c, const struct setting *s, FILE *to)
{
    static const char *const levels[] = {"", "error", "warn", "info", "debug"};
    static const char *const engines[] = {"auto", "uring", "threads"};
    const void *field = (const char *)c + s->at;
    if (s->kind == TEXT)
        fprintf(to, "%s = %s", s->name, *(char *const *)field);
    else if (s->kind == FLAG)
        fprintf(to, "%s = %s", s->name, *(const bool *)field ? "yes" : "no");
    else if (s->kind == ENGINE)
        fprintf(to, "%s = %s", s->name, engines[*(const enum crn_spill_engine *)field]);
    else if (s->kind == LEVEL)
        fprintf(to, "%s = %s", s->name, levels[*(const uint64_t *)field]);
    else
        fprintf(to, "%s = %llu%s", s->name, (unsigned long long)*(const uint64_t *)field,
                s->kind == DURATION ? "ms" : "");
}

void crn_config_print(const struct crn_config *c, FILE *to)
{
    for (size_t row = 0; row < CRN_SETTING_COUNT; row++) {
        const struct setting *s = &settings[row];
        uint32_t n = s->kind == SPACE ? c->n_spaces : s->kind == NVME ? c->nvme.n_files : 1u;
        if ((s->kind == FLAG && row != ROW_WRITE_THROUGH && row != ROW_SPILL_INT8) || (row == ROW_FILE && c->file == NULL))
            continue;
        for (uint32_t i = 0; i < n; i++) {
            if (s->kind == SPACE)
                print_space(&c->spaces[i], to);
            else if (s->kind == NVME)
                print_nvme(&c->nvme.files[i], to);
            else
                print_value(c, s, to);
            fprintf(to, "    # %s\n", source_names[c->source[row]]);
        }
    }
}

void crn_config_help(FILE *to)
{
    fputs("cairnd - one KV cache for all sibling models of a host\n\n"
          "usage: cairnd [option]...\n\n"
          "Flags beat the environment (CAIRN_MEMORY for --memory), that beats the file, that the\n"
          "default. Sizes take K, M, G or T (powers of 1024); times take ms, s, m or h.\n\n",
          to);
    for (size_t row = 0; row < CRN_SETTING_COUNT; row++) {
        const struct setting *s = &settings[row];
        fprintf(to, "  --%s%s%s\n        %s%s%s%s\n", s->name, s->argument != NULL ? " " : "",
                s->argument != NULL ? s->argument : "", s->help, s->fallback != NULL ? " [" : "",
                s->fallback != NULL ? s->fallback : "", s->fallback != NULL ? "]" : "");
    }
    fputs("  --version\n  --help\n\n"
          "exit: 0 ended by SIGTERM or SIGINT, 1 could not run, 2 wrong settings\n",
          to);
}
