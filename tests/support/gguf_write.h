/* gguf_write - makes GGUF files for tests: single keys and tensors, or whole random models and
 * adapters from a seed. */
#ifndef CRN_TESTS_GGUF_WRITE_H
#define CRN_TESTS_GGUF_WRITE_H

#include "tools/worker/quant.h"
#include "tools/worker/weights.h"

#include <stddef.h>
#include <stdint.h>

/* Collects a file in memory. An error (no memory, rows that do not fill blocks) sticks and is
 * returned by the end. */
struct gguf_writer;

struct gguf_writer *gguf_writer_new(void);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t number);
void gguf_put_f32(struct gguf_writer *w, const char *key, float number);
void gguf_put_bool(struct gguf_writer *w, const char *key, int flag);
void gguf_put_str(struct gguf_writer *w, const char *key, const char *text);
void gguf_put_strs(struct gguf_writer *w, const char *key, const char *const *texts, size_t n);
void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *numbers, size_t n);

/* A matrix of `rows` x `cols` (rows 0: a vector of cols), quantised to `type` (enum
 * crn_quant_type). */
void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t cols,
                     uint32_t rows, const float *data);

/* The end: the file as malloc'd memory, or on disk. Both free the writer and return 0 or -errno. */
int gguf_writer_bytes(struct gguf_writer *w, void **out_bytes, size_t *out_size_bytes);
int gguf_writer_save(struct gguf_writer *w, const char *path);

/* crn_test_model_write - a random model: same shape, seed and type give the same bytes.
 * in      shape: hidden and ffn multiples of 32, head_dim even, vocab >= 80; type: of the matrices,
 * norms are f32. The tokenizer (pre `smollm`) has <|endoftext|>, <|im_start|>, <|im_end|> as ids
 * 0..2, then newline, space, a-z, 0-9, some punctuation, eight merges, then further bytes, then
 * unused names. fails   -EINVAL, -ENOMEM, -errno of the file */
int crn_test_model_write(const char *path, const struct crn_model_shape *shape, uint64_t seed,
                         uint32_t type);

/* crn_test_adapter_write - a random LoRA of all seven matrices of every layer; type f32, f16 or
 * bf16. */
int crn_test_adapter_write(const char *path, const struct crn_model_shape *shape, uint64_t seed,
                           uint32_t rank, uint32_t type);

/* Quantises n numbers (whole blocks) into out; bytes written. */
size_t gguf_quantise(uint32_t type, const float *src, size_t n, uint8_t *out);

/* A number in [-1, 1) from a seed that is advanced (splitmix64). */
float gguf_random(uint64_t *seed);

#endif
