/* json - reading and writing JSON for the tools; the only file that knows the JSON library is json.c.
 * Values form a tree that its root owns: crn_json_free(root) ends all of it; what crn_json_get and _at hand out is borrowed. */
#ifndef CRN_TOOLS_JSON_H
#define CRN_TOOLS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct crn_json;

/* ---- reading ---- */

/* fails -errno of the file, CAIRN_E_FORMAT; why: one line with the place. */
int crn_json_load(const char *path, struct crn_json **out_root, char *why, size_t why_bytes);
/* The same from text of n bytes; what: names it in `why`. */
int crn_json_parse(const char *text, size_t n, const char *what, struct crn_json **out_root, char *why, size_t why_bytes);
/* A member or an element, NULL when there is none. */
const struct crn_json *crn_json_get(const struct crn_json *object, const char *key);
const struct crn_json *crn_json_at(const struct crn_json *array, size_t index);
size_t crn_json_n(const struct crn_json *array);
/* A value of that type; CAIRN_E_MISS when json is NULL, CAIRN_E_FORMAT when it is of another type or range. */
int crn_json_text(const struct crn_json *json, const char **out_text);
int crn_json_real(const struct crn_json *json, double *out_number);
int crn_json_u32(const struct crn_json *json, uint32_t *out_number);
int crn_json_bool(const struct crn_json *json, bool *out_flag);
/* One line of text; free() it. NULL when memory is out. */
char *crn_json_compact(const struct crn_json *json);

/* ---- writing: running out of memory shows at crn_json_print ---- */

struct crn_json *crn_json_object(void);
struct crn_json *crn_json_array(void);
/* Add under key (objects) or at the end (arrays: key NULL). A child is taken over and stays valid. */
void crn_json_add(struct crn_json *parent, const char *key, struct crn_json *child);
void crn_json_add_text(struct crn_json *parent, const char *key, const char *text);
void crn_json_add_u64(struct crn_json *parent, const char *key, uint64_t number);
void crn_json_add_real(struct crn_json *parent, const char *key, double number);
void crn_json_add_bool(struct crn_json *parent, const char *key, bool flag);
/* JSON text as a value; as a string when it is no JSON. */
void crn_json_add_parsed(struct crn_json *parent, const char *key, const char *text);
/* Writes the tree and a newline; 0 or -errno. */
int crn_json_print(const struct crn_json *json, FILE *file);

void crn_json_free(struct crn_json *root); /* NULL allowed */

#endif
