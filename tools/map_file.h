/* map_file - the state map of a plan as a GGUF file: tensors state_map.weight [hidden][hidden] (row: an output) and
 * state_map.bias [hidden]; of a low rank instead of the weight state_map.u [hidden][rank] and state_map.v [rank][hidden].
 * Numbers are f32, f16 or bf16 in the file, float32 in memory. */
#ifndef CRN_TOOLS_MAP_FILE_H
#define CRN_TOOLS_MAP_FILE_H

#include "client/cairn.h"

#include <stdbool.h>

/* Reads and checks a file; out_map->w is malloc'd and the caller's. out_models: digests of producer and receiver, zero where the
 * file has none; may be NULL. why: one line. fails CAIRN_E_FORMAT, CAIRN_E_TOO_BIG, -errno */
int crn_map_file_read(const char *path, struct cairn_map_view *out_map, struct cairn_digest out_models[2], char *why,
                      size_t why_bytes);

/* What a file says beside the numbers: whose map it is, and where it goes. */
struct crn_map_note {
    const char *producer, *receiver; /* labels */
    struct cairn_digest producer_digest, receiver_digest;
    uint32_t layer;
};
/* Writes a map; half: numbers as f16 (refused when one does not fit). The file appears whole or not at all.
 * fails -errno, CAIRN_E_TOO_BIG (path) */
int crn_map_file_write(const char *path, const struct cairn_map_view *map, const struct crn_map_note *note, bool half);

#endif
