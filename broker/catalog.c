/* The catalogue in LMDB: tables `meta`, `files`, `entries`, `tokens`, `plans`; keys are 64-bit integers.
 *
 * Durability. The environment runs with MDB_NOMETASYNC: a commit syncs its pages, the meta page follows with the next commit. A
 * killed process loses nothing; a lost machine may lose the last transaction, which is a miss for what was added. What was
 * removed must not come back, because its extents are about to be overwritten: a group with removals ends with a forced sync.
 *
 * Threads. One writer takes everything that is queued into one transaction (grouped commit). Readers are short transactions of
 * the caller's thread. The map may only grow while no transaction is open in the process: the writer holds `map_lock` for
 * writing then, readers hold it for reading.
 *
 * Memory. Pages that were read stay mapped and count as the broker's, although the page cache has them anyway: after a walk, and
 * every TRIM_READS reads, the writer lets go of the mapping's pages.
 *
 * Damage. Records have checksums (catalog_format.c); LMDB's own pages have none, and a damaged one can make LMDB crash. So a
 * child process walks all of it first; when it dies or finds nonsense, the file is renamed and a new one begun. */
#include "broker/catalog.h"

#include "broker/catalog_format.h"
#include "broker/crash.h"
#include "ipc/log.h"

#include <lmdb.h>

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIRST_MAP_BYTES (1ull << 30)
#define MAX_MAP_BYTES (1ull << 40)
#define WALK_LIMIT_MS 120000
#define META_VERSION 1u /* keys of table meta */
#define GROUP_OPS 4096u
#define TRIM_READS 256u

enum table { META, FILES, ENTRIES, TOKENS, PLANS, N_TABLES };
static const char *const table_names[N_TABLES] = {"meta", "files", "entries", "tokens", "plans"};

struct crn_cat_op {
    enum table table;
    uint64_t key;
    void *value; /* NULL: remove */
    size_t bytes;
};

struct crn_catalog {
    char path[PATH_MAX];
    MDB_env *env;
    MDB_dbi tables[N_TABLES];
    uint64_t max_map_bytes;
    pthread_rwlock_t map_lock;
    uint64_t next_id; /* caller's thread */
    uint32_t reads;   /* caller's thread; since pages were let go */

    pthread_t writer;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work, done_changed;
    struct crn_cat_batch *queue, *queue_tail, *done, *done_tail;
    struct crn_catalog_stats stats;
    bool stopping, started, trim;
    int done_fd;
};

/* LMDB's own codes are positive errno or its negative band; ours are negative. */
static int status_of(int rc)
{
    if (rc > 0)
        return -rc;
    switch (rc) {
    case 0:
        return 0;
    case MDB_NOTFOUND:
        return CAIRN_E_MISS;
    case MDB_MAP_FULL:
        return CAIRN_E_FULL;
    case MDB_VERSION_MISMATCH:
        return CAIRN_E_VERSION;
    default:
        return CAIRN_E_CORRUPT;
    }
}

static MDB_val key_of(uint64_t *key)
{
    return (MDB_val){sizeof *key, key};
}

/* ---- batches ---- */

struct crn_cat_batch *crn_cat_batch_new(void)
{
    return calloc(1, sizeof(struct crn_cat_batch));
}

void crn_cat_batch_free(struct crn_cat_batch *b)
{
    for (uint32_t i = 0; b != NULL && i < b->n_ops; i++)
        free(b->ops[i].value);
    if (b != NULL)
        free(b->ops);
    free(b);
}

/* Takes value over, in every case. */
static int add_op(struct crn_cat_batch *b, enum table table, uint64_t key, void *value, size_t bytes)
{
    struct crn_cat_op *ops = reallocarray(b->ops, b->n_ops + 1u, sizeof *ops);
    if (ops == NULL) {
        free(value);
        return -ENOMEM;
    }
    b->ops = ops;
    ops[b->n_ops++] = (struct crn_cat_op){table, key, value, bytes};
    return 0;
}

int crn_cat_put_entry(struct crn_cat_batch *b, const struct crn_cat_entry *entry, const int32_t *tokens)
{
    void *rec, *text;
    size_t rec_bytes, text_bytes;
    int status = crn_cat_encode_tokens(entry->id, tokens, entry->n_tokens, &text, &text_bytes);
    if (status != 0)
        return status;
    status = add_op(b, TOKENS, entry->id, text, text_bytes);
    if (status == 0)
        status = crn_cat_encode_entry(entry, &rec, &rec_bytes);
    return status == 0 ? add_op(b, ENTRIES, entry->id, rec, rec_bytes) : status;
}

int crn_cat_drop_entry(struct crn_cat_batch *b, uint64_t id)
{
    int status = add_op(b, ENTRIES, id, NULL, 0);
    return status == 0 ? add_op(b, TOKENS, id, NULL, 0) : status;
}

int crn_cat_put_plan(struct crn_cat_batch *b, const struct crn_cat_plan *plan)
{
    void *rec;
    size_t bytes;
    int status = crn_cat_encode_plan(plan, &rec, &bytes);
    return status == 0 ? add_op(b, PLANS, plan->id, rec, bytes) : status;
}

int crn_cat_drop_plan(struct crn_cat_batch *b, uint64_t id)
{
    return add_op(b, PLANS, id, NULL, 0);
}

/* ---- the writer ---- */

static int write_op(const struct crn_catalog *c, MDB_txn *txn, struct crn_cat_op *op)
{
    MDB_val key = key_of(&op->key), value = {op->bytes, op->value};
    if (op->value != NULL)
        return mdb_put(txn, c->tables[op->table], &key, &value, 0);
    int rc = mdb_del(txn, c->tables[op->table], &key, NULL);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* All batches of the list in one transaction. */
static int write_group(struct crn_catalog *c, struct crn_cat_batch *list)
{
    MDB_txn *txn;
    bool removes = false;
    int rc = mdb_txn_begin(c->env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    for (struct crn_cat_batch *b = list; b != NULL; b = b->next) {
        for (uint32_t i = 0; i < b->n_ops && rc == 0; i++) {
            rc = write_op(c, txn, &b->ops[i]);
            removes = removes || b->ops[i].value == NULL;
        }
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 && removes ? mdb_env_sync(c->env, 1) : rc;
}

static int grow_map(struct crn_catalog *c)
{
    MDB_envinfo info;
    mdb_env_info(c->env, &info);
    uint64_t bytes = (uint64_t)info.me_mapsize * 2;
    if (bytes > c->max_map_bytes)
        return MDB_MAP_FULL;
    pthread_rwlock_wrlock(&c->map_lock);
    int rc = mdb_env_set_mapsize(c->env, bytes);
    pthread_rwlock_unlock(&c->map_lock);
    if (rc == 0)
        crn_log(CRN_LOG_INFO, "catalogue %s: map grown to %llu bytes", c->path, (unsigned long long)bytes);
    return rc;
}

static int commit(struct crn_catalog *c, struct crn_cat_batch *list)
{
    CRN_CRASH("catalog-commit");
    int rc = write_group(c, list);
    CRN_CRASH("catalog-written");
    while (rc == MDB_MAP_FULL && (rc = grow_map(c)) == 0)
        rc = write_group(c, list);
    if (rc != 0)
        crn_log(CRN_LOG_WARN, "catalogue %s: commit: %s", c->path, mdb_strerror(rc));
    return status_of(rc);
}

/* Takes up to GROUP_OPS operations' worth of batches off the queue. Lock held. */
static struct crn_cat_batch *take_group(struct crn_catalog *c)
{
    struct crn_cat_batch *list = c->queue, *last = list;
    uint32_t ops = list->n_ops;
    while (last->next != NULL && ops + last->next->n_ops <= GROUP_OPS) {
        last = last->next;
        ops += last->n_ops;
    }
    c->queue = last->next;
    last->next = NULL;
    return list;
}

static void finish_group_locked(struct crn_catalog *c, struct crn_cat_batch *list, int status)
{
    c->stats.commits += status == 0;
    for (struct crn_cat_batch *b = list, *next; b != NULL; b = next) {
        next = b->next;
        b->next = NULL;
        b->status = status;
        c->stats.batches++;
        c->stats.ops += b->n_ops;
        c->stats.failed += status != 0;
        if (c->done == NULL)
            c->done = b;
        else
            c->done_tail->next = b;
        c->done_tail = b;
    }
    uint64_t one = 1;
    ssize_t n = write(c->done_fd, &one, sizeof one);
    (void)n; /* EAGAIN: it is readable already */
    pthread_cond_broadcast(&c->done_changed);
}

/* LMDB does not tell where its map is. 0: not found. */
static size_t find_map(const char *path, void **out_base)
{
    char line[PATH_MAX + 128];
    size_t bytes = 0;
    unsigned long long from, to;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && bytes == 0 && fgets(line, sizeof line, maps) != NULL) {
        size_t n = strcspn(line, "\n"), path_bytes = strlen(path);
        bool ours = n > path_bytes && line[n - path_bytes - 1] == ' ' && memcmp(line + n - path_bytes, path, path_bytes) == 0;
        if (ours && sscanf(line, "%llx-%llx", &from, &to) == 2) {
            *out_base = (void *)(uintptr_t)from;
            bytes = (size_t)(to - from);
        }
    }
    if (maps != NULL)
        fclose(maps);
    return bytes;
}

/* The map is shared and read-only: its pages come back from the page cache when they are looked at. */
static void let_go_of_pages(struct crn_catalog *c)
{
    void *base = NULL;
    char path[PATH_MAX];
    if (realpath(c->path, path) == NULL)
        return;
    pthread_rwlock_rdlock(&c->map_lock);
    size_t bytes = find_map(path, &base);
    if (bytes > 0)
        madvise(base, bytes, MADV_DONTNEED);
    pthread_rwlock_unlock(&c->map_lock);
}

static void ask_to_trim(struct crn_catalog *c)
{
    c->reads = 0;
    pthread_mutex_lock(&c->lock);
    c->trim = true;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
}

static void *writer_main(void *arg)
{
    struct crn_catalog *c = arg;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        if (c->queue == NULL && c->trim && !c->stopping) {
            c->trim = false;
            pthread_mutex_unlock(&c->lock);
            let_go_of_pages(c);
            pthread_mutex_lock(&c->lock);
            continue;
        }
        if (c->queue == NULL) {
            if (c->stopping)
                break;
            pthread_cond_wait(&c->work, &c->lock);
            continue;
        }
        struct crn_cat_batch *list = take_group(c);
        pthread_mutex_unlock(&c->lock);
        int status = commit(c, list);
        pthread_mutex_lock(&c->lock);
        finish_group_locked(c, list, status);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void crn_catalog_submit(struct crn_catalog *c, struct crn_cat_batch *b)
{
    b->next = NULL;
    pthread_mutex_lock(&c->lock);
    if (c->queue == NULL)
        c->queue = b;
    else
        c->queue_tail->next = b;
    c->queue_tail = b;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
}

struct crn_cat_batch *crn_catalog_take(struct crn_catalog *c)
{
    pthread_mutex_lock(&c->lock);
    struct crn_cat_batch *b = c->done;
    if (b != NULL) {
        c->done = b->next;
        b->next = NULL;
    } else {
        uint64_t count;
        ssize_t n = read(c->done_fd, &count, sizeof count);
        (void)n; /* EAGAIN: nothing was signalled */
    }
    pthread_mutex_unlock(&c->lock);
    return b;
}

int crn_catalog_fd(const struct crn_catalog *c)
{
    return c->done_fd;
}

int crn_catalog_wait(struct crn_catalog *c, uint64_t timeout_ns)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t end = (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec + timeout_ns;
    t = (struct timespec){.tv_sec = (time_t)(end / 1000000000ull), .tv_nsec = (long)(end % 1000000000ull)};
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    while (c->done == NULL && rc == 0)
        rc = pthread_cond_timedwait(&c->done_changed, &c->lock, &t);
    bool any = c->done != NULL;
    pthread_mutex_unlock(&c->lock);
    return any ? 0 : CAIRN_E_TIMEOUT;
}

int crn_catalog_apply(struct crn_catalog *c, struct crn_cat_batch *b)
{
    b->next = NULL;
    int status = commit(c, b); /* LMDB lets one writer in at a time */
    crn_cat_batch_free(b);
    return status;
}

/* ---- opening ---- */

static int open_env(const char *path, uint64_t map_bytes, unsigned flags, MDB_env **out_env)
{
    MDB_env *env;
    int rc = mdb_env_create(&env);
    if (rc != 0)
        return rc;
    rc = mdb_env_set_maxdbs(env, N_TABLES);
    if (rc == 0)
        rc = mdb_env_set_mapsize(env, map_bytes);
    if (rc == 0)
        rc = mdb_env_open(env, path, flags | MDB_NOSUBDIR | MDB_NOTLS | MDB_NORDAHEAD, 0600);
    if (rc != 0) {
        mdb_env_close(env);
        return rc;
    }
    *out_env = env;
    return 0;
}

/* Free pages must be pages of the file: a damaged free list would hand out live ones. */
static int walk_free_list(MDB_txn *txn, uint64_t n_pages)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, 0, &cursor);
    while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t n = value.mv_size / sizeof(uint64_t), count = 0;
        const char *p = value.mv_data;
        uint64_t page = 0;
        if (value.mv_size < sizeof page)
            return MDB_CORRUPTED;
        memcpy(&page, p, sizeof page);
        count = page;
        if (count >= n)
            return MDB_CORRUPTED;
        for (size_t i = 1; i <= count; i++) {
            memcpy(&page, p + i * sizeof page, sizeof page);
            if (page < 2 || page >= n_pages)
                return MDB_CORRUPTED;
        }
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Touches every byte of a table. */
static int walk_table(MDB_txn *txn, const char *name)
{
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, value;
    static volatile uint64_t sink;
    int rc = mdb_dbi_open(txn, name, MDB_INTEGERKEY, &dbi);
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc == 0)
        rc = mdb_cursor_open(txn, dbi, &cursor);
    while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        uint64_t sum = 0;
        const unsigned char *p = value.mv_data;
        for (size_t i = 0; i < value.mv_size; i += 64)
            sum += p[i];
        sink = sink + sum + (value.mv_size > 0 ? p[value.mv_size - 1] : 0);
        if (key.mv_size != sizeof(uint64_t))
            return MDB_CORRUPTED;
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Runs in a child process: dying is an answer, too. */
static int walk_all(const char *path, uint64_t map_bytes)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_envinfo info;
    int rc = open_env(path, map_bytes, MDB_RDONLY | MDB_NOLOCK, &env);
    if (rc == 0)
        rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_env_info(env, &info);
    if (rc == 0)
        rc = walk_free_list(txn, (uint64_t)info.me_last_pgno + 1);
    for (int i = 0; i < N_TABLES && rc == 0; i++)
        rc = walk_table(txn, table_names[i]);
    return rc;
}

/* 0 sound, CAIRN_E_CORRUPT not, -errno could not tell. */
static int probe(const char *path, uint64_t map_bytes)
{
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0) {
        fclose(stderr); /* a sanitizer's report of the crash is not news */
        alarm(WALK_LIMIT_MS / 1000);
        _exit(walk_all(path, map_bytes) == 0 ? 0 : 1);
    }
    int wait_status;
    while (waitpid(child, &wait_status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0 ? 0 : CAIRN_E_CORRUPT;
}

static int set_aside(const char *path, int why)
{
    char aside[PATH_MAX];
    int n = snprintf(aside, sizeof aside, "%s.damaged", path);
    if (n < 0 || n >= PATH_MAX)
        return -ENAMETOOLONG;
    if (rename(path, aside) != 0)
        return -errno;
    crn_log(CRN_LOG_WARN, "catalogue %s: %s: set aside as %s, starting with an empty one", path, cairn_strerror(why), aside);
    return 0;
}

static int check_version(struct crn_catalog *c, MDB_txn *txn)
{
    uint64_t version = CRN_CATALOG_VERSION, at = META_VERSION;
    MDB_val key = key_of(&at), value;
    int rc = mdb_get(txn, c->tables[META], &key, &value);
    if (rc == MDB_NOTFOUND) {
        value = (MDB_val){sizeof version, &version};
        return mdb_put(txn, c->tables[META], &key, &value, 0);
    }
    if (rc != 0)
        return rc;
    bool same = value.mv_size == sizeof version && memcmp(value.mv_data, &version, sizeof version) == 0;
    return same ? 0 : MDB_VERSION_MISMATCH;
}

static int last_key(MDB_txn *txn, MDB_dbi dbi, uint64_t *inout_max)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    uint64_t id;
    int rc = mdb_cursor_open(txn, dbi, &cursor);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    if (rc == 0) {
        memcpy(&id, key.mv_data, sizeof id);
        *inout_max = id > *inout_max ? id : *inout_max;
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int open_tables(struct crn_catalog *c)
{
    MDB_txn *txn;
    uint64_t max = 0;
    int rc = mdb_txn_begin(c->env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    for (int i = 0; i < N_TABLES && rc == 0; i++)
        rc = mdb_dbi_open(txn, table_names[i], MDB_CREATE | MDB_INTEGERKEY, &c->tables[i]);
    if (rc == 0)
        rc = check_version(c, txn);
    if (rc == 0)
        rc = last_key(txn, c->tables[ENTRIES], &max);
    if (rc == 0)
        rc = last_key(txn, c->tables[PLANS], &max);
    c->next_id = max + 1;
    if (rc == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return rc;
}

static int open_file(struct crn_catalog *c, uint64_t map_bytes)
{
    int rc = open_env(c->path, map_bytes, MDB_NOMETASYNC, &c->env);
    if (rc == 0)
        rc = open_tables(c);
    return rc;
}

static int start_writer(struct crn_catalog *c)
{
    c->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->done_fd < 0)
        return -errno;
    int error = pthread_create(&c->writer, NULL, writer_main, c);
    c->started = error == 0;
    return -error;
}

/* LMDB's file is at least as large as it says; its map must reach that far. */
static uint64_t map_for(const char *path, uint64_t want)
{
    MDB_env *env;
    MDB_envinfo info;
    uint64_t bytes = want;
    if (open_env(path, 0, MDB_RDONLY | MDB_NOLOCK, &env) != 0)
        return want;
    if (mdb_env_info(env, &info) == 0 && info.me_mapsize > want)
        bytes = info.me_mapsize;
    mdb_env_close(env);
    return bytes;
}

static int prepare(struct crn_catalog *c, const struct crn_catalog_config *config, bool *out_damaged)
{
    uint64_t map_bytes = config->map_bytes == 0 ? FIRST_MAP_BYTES : config->map_bytes;
    int status = 0;
    *out_damaged = false;
    if (access(c->path, F_OK) == 0) {
        map_bytes = map_for(c->path, map_bytes);
        status = probe(c->path, map_bytes);
    }
    if (status == 0) {
        int rc = open_file(c, map_bytes);
        status = status_of(rc);
    }
    if (status == CAIRN_E_CORRUPT || status == CAIRN_E_VERSION) {
        if (c->env != NULL)
            mdb_env_close(c->env);
        c->env = NULL;
        *out_damaged = true;
        int aside = set_aside(c->path, status);
        map_bytes = config->map_bytes == 0 ? FIRST_MAP_BYTES : config->map_bytes;
        status = aside == 0 ? status_of(open_file(c, map_bytes)) : aside;
    }
    return status;
}

int crn_catalog_open(const struct crn_catalog_config *config, bool *out_damaged, struct crn_catalog **out_catalog)
{
    struct crn_catalog *c = calloc(1, sizeof *c);
    if (c == NULL)
        return -ENOMEM;
    c->done_fd = -1;
    c->max_map_bytes = config->max_map_bytes == 0 ? MAX_MAP_BYTES : config->max_map_bytes;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->done_changed, NULL);
    pthread_rwlock_init(&c->map_lock, NULL);
    int n = snprintf(c->path, sizeof c->path, "%s", config->path);
    int status = n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : prepare(c, config, out_damaged);
    if (status == 0)
        status = start_writer(c);
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "catalogue %s: %s", config->path, cairn_strerror(status));
        crn_catalog_close(c);
        return status;
    }
    *out_catalog = c;
    return 0;
}

void crn_catalog_close(struct crn_catalog *c)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    if (c->started)
        pthread_join(c->writer, NULL);
    while (c->done != NULL) {
        struct crn_cat_batch *b = c->done;
        c->done = b->next;
        crn_cat_batch_free(b);
    }
    if (c->env != NULL) {
        mdb_env_sync(c->env, 1);
        mdb_env_close(c->env);
    }
    if (c->done_fd >= 0)
        close(c->done_fd);
    pthread_rwlock_destroy(&c->map_lock);
    pthread_cond_destroy(&c->done_changed);
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

uint64_t crn_catalog_next_id(struct crn_catalog *c)
{
    return c->next_id++;
}

/* ---- reading ---- */

static int begin_read(struct crn_catalog *c, MDB_txn **out_txn)
{
    pthread_rwlock_rdlock(&c->map_lock);
    int rc = mdb_txn_begin(c->env, NULL, MDB_RDONLY, out_txn);
    if (rc != 0)
        pthread_rwlock_unlock(&c->map_lock);
    return rc;
}

static void end_read(struct crn_catalog *c, MDB_txn *txn)
{
    mdb_txn_abort(txn);
    pthread_rwlock_unlock(&c->map_lock);
}

/* Small values lie in leaf pages at any even address: a copy in memory of our own. */
static void *aligned_copy(const MDB_val *value)
{
    void *copy = malloc(value->mv_size > 0 ? value->mv_size : 1);
    if (copy != NULL && value->mv_size > 0)
        memcpy(copy, value->mv_data, value->mv_size);
    return copy;
}

static int get(struct crn_catalog *c, enum table table, uint64_t id, void **out_copy, size_t *out_n)
{
    MDB_txn *txn;
    MDB_val key = key_of(&id), value;
    int rc = begin_read(c, &txn);
    if (rc != 0)
        return status_of(rc);
    rc = mdb_get(txn, c->tables[table], &key, &value);
    int status = status_of(rc);
    if (status == 0) {
        *out_copy = aligned_copy(&value);
        *out_n = value.mv_size;
        status = *out_copy == NULL ? -ENOMEM : 0;
    }
    end_read(c, txn);
    if (++c->reads >= TRIM_READS)
        ask_to_trim(c);
    return status;
}

int crn_catalog_entry(struct crn_catalog *c, uint64_t id, struct crn_cat_entry **out_entry)
{
    void *rec;
    size_t n;
    struct crn_cat_entry view;
    int status = get(c, ENTRIES, id, &rec, &n);
    if (status != 0)
        return status;
    /* the views must live as long as the struct: one block, the record behind it */
    _Static_assert(sizeof(struct crn_cat_entry) % 8 == 0, "the record behind it must be aligned");
    char *block = malloc(sizeof view + n);
    if (block == NULL) {
        free(rec);
        return -ENOMEM;
    }
    memcpy(block + sizeof view, rec, n);
    free(rec);
    status = crn_cat_decode_entry(block + sizeof view, n, id, &view);
    if (status != 0) {
        free(block);
        return status;
    }
    memcpy(block, &view, sizeof view);
    *out_entry = (void *)block;
    return 0;
}

int crn_catalog_tokens(struct crn_catalog *c, uint64_t id, uint32_t n_tokens, int32_t *out_tokens)
{
    void *rec;
    size_t bytes;
    const int32_t *tokens;
    uint32_t n;
    int status = get(c, TOKENS, id, &rec, &bytes);
    if (status != 0)
        return status;
    status = crn_cat_decode_tokens(rec, bytes, id, &tokens, &n);
    if (status == 0 && n != n_tokens)
        status = CAIRN_E_CORRUPT;
    if (status == 0)
        memcpy(out_tokens, tokens, n * sizeof *tokens);
    free(rec);
    return status;
}

static int visit(const struct crn_cat_visitor *v, bool is_plan, uint64_t id, const MDB_val *value)
{
    struct crn_cat_entry entry;
    struct crn_cat_plan plan;
    void *rec = aligned_copy(value);
    if (rec == NULL)
        return -ENOMEM;
    int status = is_plan ? crn_cat_decode_plan(rec, value->mv_size, id, &plan)
                         : crn_cat_decode_entry(rec, value->mv_size, id, &entry);
    int result = 0;
    if (status != 0)
        v->bad(v->ctx, is_plan, id, status);
    else
        result = is_plan ? v->plan(v->ctx, &plan) : v->entry(v->ctx, &entry);
    free(rec);
    return result;
}

static int walk(struct crn_catalog *c, MDB_txn *txn, const struct crn_cat_visitor *v, bool is_plan)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int result = 0, rc = mdb_cursor_open(txn, c->tables[is_plan ? PLANS : ENTRIES], &cursor);
    if (rc != 0)
        return status_of(rc);
    while (result == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        uint64_t id;
        memcpy(&id, key.mv_data, sizeof id);
        result = visit(v, is_plan, id, &value);
    }
    mdb_cursor_close(cursor);
    return result != 0 ? result : rc == MDB_NOTFOUND ? 0 : status_of(rc);
}

int crn_catalog_walk(struct crn_catalog *c, const struct crn_cat_visitor *visitor)
{
    MDB_txn *txn;
    int rc = begin_read(c, &txn);
    if (rc != 0)
        return status_of(rc);
    int status = walk(c, txn, visitor, true);
    if (status == 0)
        status = walk(c, txn, visitor, false);
    end_read(c, txn);
    ask_to_trim(c);
    return status;
}

int crn_catalog_file(struct crn_catalog *c, const struct cairn_digest *uuid, uint16_t *out_file)
{
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    uint64_t id = 0;
    int rc = mdb_txn_begin(c->env, NULL, 0, &txn);
    if (rc != 0)
        return status_of(rc);
    bool known = false;
    rc = mdb_cursor_open(txn, c->tables[FILES], &cursor);
    while (!known && rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        memcpy(&id, key.mv_data, sizeof id);
        known = value.mv_size == sizeof *uuid && memcmp(value.mv_data, uuid, sizeof *uuid) == 0;
    }
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    if (rc == MDB_NOTFOUND && id + 1 < CRN_CATALOG_NO_FILE) {
        id++;
        key = key_of(&id);
        value = (MDB_val){sizeof *uuid, (void *)(uintptr_t)uuid->b};
        rc = mdb_put(txn, c->tables[FILES], &key, &value, 0);
    }
    if (rc != 0 || known)
        mdb_txn_abort(txn);
    else
        rc = mdb_txn_commit(txn);
    if (rc != 0)
        return rc == MDB_NOTFOUND ? CAIRN_E_FULL : status_of(rc);
    *out_file = (uint16_t)id;
    return 0;
}

void crn_catalog_stats(struct crn_catalog *c, struct crn_catalog_stats *out_stats)
{
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(c->env, &info);
    mdb_env_stat(c->env, &stat);
    pthread_mutex_lock(&c->lock);
    *out_stats = c->stats;
    pthread_mutex_unlock(&c->lock);
    out_stats->map_bytes = info.me_mapsize;
    out_stats->used_bytes = ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
}
