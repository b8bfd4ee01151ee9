/* LMDB in /dev/shm, as fast as it goes: writable map, no syncs, room reserved in the map and filled
 * by one copy; one transaction per layer. The reader copies out of its own map. */
#include "bench/common.h"
#include "bench/peers.h"

#include <lmdb.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    char dir[64];
    MDB_env *env; /* of this process */
    MDB_dbi dbi;
    uint32_t n_layers;
    uint64_t layer_bytes;
} lmdb;

static void open_here(void)
{
    MDB_txn *txn;
    if (lmdb.env != NULL)
        return;
    bench_must(mdb_env_create(&lmdb.env), "lmdb");
    bench_must(mdb_env_set_mapsize(lmdb.env, 3 * lmdb.n_layers * lmdb.layer_bytes + (1u << 24)),
               "lmdb: size");
    bench_must(mdb_env_open(lmdb.env, lmdb.dir,
                            MDB_WRITEMAP | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NORDAHEAD, 0600),
               "lmdb: open");
    bench_must(mdb_txn_begin(lmdb.env, NULL, 0, &txn), "lmdb: begin");
    bench_must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY | MDB_CREATE, &lmdb.dbi), "lmdb: table");
    bench_must(mdb_txn_commit(txn), "lmdb: commit");
}

static int setup(const char *dir, uint32_t n_layers, uint64_t layer_bytes)
{
    (void)dir;
    snprintf(lmdb.dir, sizeof lmdb.dir, "/dev/shm/cairn-bench-XXXXXX");
    lmdb.n_layers = n_layers;
    lmdb.layer_bytes = layer_bytes;
    return mkdtemp(lmdb.dir) == NULL ? -errno : 0;
}

static void teardown(void)
{
    char path[96];
    if (lmdb.env != NULL)
        mdb_env_close(lmdb.env);
    snprintf(path, sizeof path, "%s/data.mdb", lmdb.dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock.mdb", lmdb.dir);
    unlink(path);
    rmdir(lmdb.dir);
}

static void put(uint32_t layer, const void *kv)
{
    MDB_txn *txn;
    open_here();
    MDB_val key = {sizeof layer, &layer}, value = {lmdb.layer_bytes, NULL};
    bench_must(mdb_txn_begin(lmdb.env, NULL, 0, &txn), "lmdb: begin");
    bench_must(mdb_put(txn, lmdb.dbi, &key, &value, MDB_RESERVE), "lmdb: put");
    memcpy(value.mv_data, kv, lmdb.layer_bytes);
    bench_must(mdb_txn_commit(txn), "lmdb: commit");
}

static void get(void *to)
{
    MDB_txn *txn;
    open_here();
    bench_must(mdb_txn_begin(lmdb.env, NULL, MDB_RDONLY, &txn), "lmdb: begin");
    for (uint32_t l = 0; l < lmdb.n_layers; l++) {
        MDB_val key = {sizeof l, &l}, value;
        bench_must(mdb_get(txn, lmdb.dbi, &key, &value), "lmdb: get");
        bench_must(value.mv_size == lmdb.layer_bytes ? 0 : -EPROTO, "lmdb: size of a value");
        memcpy((char *)to + l * lmdb.layer_bytes, value.mv_data, lmdb.layer_bytes);
    }
    mdb_txn_abort(txn);
}

const struct bench_store_ops bench_store_lmdb = {"LMDB in /dev/shm", setup, put, get, teardown};
