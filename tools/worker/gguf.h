/* gguf - read-only view of a GGUF file (version 2 or 3, little-endian): typed metadata and tensors,
 * by name.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is mapped read-only
 * and is hostile until checked; after a successful open every key, string, array element and tensor
 * byte lies inside the mapping. All pointers handed out point into the mapping or into the object
 * and live until crn_gguf_close().
 *
 * fails   the first broken thing gives one log line (file, key or tensor, byte offset) and one of
 *         CAIRN_E_FORMAT, CAIRN_E_VERSION, CAIRN_E_UNSUPPORTED (a tensor type we do not read),
 *         -errno (cannot open, no memory)
 * thread  an open file is immutable, any number of threads may read it */
#ifndef CRN_WORKER_GGUF_H
#define CRN_WORKER_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRN_GGUF_MAX_DIMS 4u
#define CRN_GGUF_MAX_NAME 64u /* bytes of a tensor name, without the terminating zero */

/* Metadata value types, numbers of the file format. */
enum crn_gguf_type {
    CRN_GGUF_U8 = 0,
    CRN_GGUF_I8 = 1,
    CRN_GGUF_U16 = 2,
    CRN_GGUF_I16 = 3,
    CRN_GGUF_U32 = 4,
    CRN_GGUF_I32 = 5,
    CRN_GGUF_F32 = 6,
    CRN_GGUF_BOOL = 7,
    CRN_GGUF_STRING = 8,
    CRN_GGUF_ARRAY = 9,
    CRN_GGUF_U64 = 10,
    CRN_GGUF_I64 = 11,
    CRN_GGUF_F64 = 12,
};

/* Bytes of a string in the file: not zero-terminated, may hold anything. */
struct crn_gguf_str {
    const char *p;
    size_t n;
};

/* One metadata value. For an array: `element` is its element type, `count` its length; else count
 * is 1. */
struct crn_gguf_value {
    struct crn_gguf_str key;
    uint32_t type;    /* enum crn_gguf_type */
    uint32_t element; /* enum crn_gguf_type */
    uint64_t count;
    const uint8_t *data; /* the value as stored; a string begins with its u64 length */
    size_t size_bytes;
};

/* One tensor. dims[0] is the innermost: a matrix that maps `in` numbers to `out` has dims {in,
 * out}. */
struct crn_gguf_tensor {
    char name[CRN_GGUF_MAX_NAME + 1];
    uint32_t type; /* enum crn_quant_type, tools/worker/quant.h */
    uint32_t n_dims;
    uint64_t dims[CRN_GGUF_MAX_DIMS]; /* 1 beyond n_dims */
    uint64_t n_elements;
    uint64_t size_bytes;
    const uint8_t *data;
};

struct crn_gguf;

/* crn_gguf_open - map a file and check all of it but the tensor contents.
 * own     close with crn_gguf_close()
 * fails   CAIRN_E_FORMAT, CAIRN_E_VERSION, CAIRN_E_UNSUPPORTED, -errno */
int crn_gguf_open(const char *path, struct crn_gguf **out_gguf);

/* The same on memory that stays the caller's and must outlive the object; `label` is copied and
 * names it in log lines. */
int crn_gguf_open_memory(const void *bytes, size_t size_bytes, const char *label,
                         struct crn_gguf **out_gguf);

/* Unmaps and frees; NULL is allowed. */
void crn_gguf_close(struct crn_gguf *g);

/* Gives the file's pages back to the system; they come again when somebody looks at them. */
void crn_gguf_forget(const struct crn_gguf *g);

/* Path or label, and the whole file. */
const char *crn_gguf_name(const struct crn_gguf *g);
const uint8_t *crn_gguf_bytes(const struct crn_gguf *g, size_t *out_size_bytes);

/* crn_gguf_find - the value of a key, or NULL. */
const struct crn_gguf_value *crn_gguf_find(const struct crn_gguf *g, const char *key);

/* crn_gguf_u32, _u64, _f32, _bool, _str - a typed value. Integers of any width convert when the
 * number fits, f64 to f32. fails   CAIRN_E_MISS when the key is absent (no log line),
 * CAIRN_E_FORMAT when its type or range is wrong */
int crn_gguf_u32(const struct crn_gguf *g, const char *key, uint32_t *out_number);
int crn_gguf_u64(const struct crn_gguf *g, const char *key, uint64_t *out_number);
int crn_gguf_f32(const struct crn_gguf *g, const char *key, float *out_number);
int crn_gguf_bool(const struct crn_gguf *g, const char *key, bool *out_flag);
int crn_gguf_str(const struct crn_gguf *g, const char *key, struct crn_gguf_str *out_text);

/* Walks an array of strings: set *cursor to 0 first; false after the last one. */
bool crn_gguf_next_str(const struct crn_gguf_value *array, size_t *cursor,
                       struct crn_gguf_str *out_text);

/* Element `index` (< count) of an array of integers; CAIRN_E_FORMAT when the elements are not
 * integers. */
int crn_gguf_int_at(const struct crn_gguf_value *array, uint64_t index, int64_t *out_number);

/* Tensors, sorted by name. */
size_t crn_gguf_n_tensors(const struct crn_gguf *g);
const struct crn_gguf_tensor *crn_gguf_tensor_at(const struct crn_gguf *g, size_t index);
const struct crn_gguf_tensor *crn_gguf_tensor(const struct crn_gguf *g, const char *name);

/* True when the string equals a C string. */
bool crn_gguf_str_is(struct crn_gguf_str text, const char *want);

#endif
