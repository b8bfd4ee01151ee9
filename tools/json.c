/* JSON through jansson. struct crn_json is never defined: a pointer to it is a json_t. Numbers beyond 2^63 do not occur: ids are
 * written as text. */
#include "tools/json.h"

#include "client/cairn.h"

#include <jansson.h>

#include <errno.h>
#include <string.h>

static json_t *of(const struct crn_json *json)
{
    return (json_t *)(uintptr_t)json;
}

static struct crn_json *as(json_t *json)
{
    return (struct crn_json *)(void *)json;
}

int crn_json_load(const char *path, struct crn_json **out_root, char *why, size_t why_bytes)
{
    json_error_t error;
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        int status = -errno;
        snprintf(why, why_bytes, "%s: %s", path, cairn_strerror(status));
        return status;
    }
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    fclose(file);
    if (root == NULL) {
        snprintf(why, why_bytes, "%s:%d:%d: %s", path, error.line, error.column, error.text);
        return CAIRN_E_FORMAT;
    }
    *out_root = as(root);
    return 0;
}

int crn_json_parse(const char *text, size_t n, const char *what, struct crn_json **out_root, char *why, size_t why_bytes)
{
    json_error_t error;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        snprintf(why, why_bytes, "%s, column %d: %s", what, error.column, error.text);
        return CAIRN_E_FORMAT;
    }
    *out_root = as(root);
    return 0;
}

const struct crn_json *crn_json_get(const struct crn_json *object, const char *key)
{
    return as(json_object_get(of(object), key));
}

const struct crn_json *crn_json_at(const struct crn_json *array, size_t index)
{
    return as(json_array_get(of(array), index));
}

size_t crn_json_n(const struct crn_json *array)
{
    return json_array_size(of(array));
}

int crn_json_text(const struct crn_json *json, const char **out_text)
{
    if (json == NULL)
        return CAIRN_E_MISS;
    if (!json_is_string(of(json)))
        return CAIRN_E_FORMAT;
    *out_text = json_string_value(of(json));
    return 0;
}

int crn_json_real(const struct crn_json *json, double *out_number)
{
    if (json == NULL)
        return CAIRN_E_MISS;
    if (!json_is_number(of(json)))
        return CAIRN_E_FORMAT;
    *out_number = json_number_value(of(json));
    return 0;
}

int crn_json_u32(const struct crn_json *json, uint32_t *out_number)
{
    if (json == NULL)
        return CAIRN_E_MISS;
    json_int_t number = json_integer_value(of(json));
    if (!json_is_integer(of(json)) || number < 0 || number > UINT32_MAX)
        return CAIRN_E_FORMAT;
    *out_number = (uint32_t)number;
    return 0;
}

int crn_json_bool(const struct crn_json *json, bool *out_flag)
{
    if (json == NULL)
        return CAIRN_E_MISS;
    if (!json_is_boolean(of(json)))
        return CAIRN_E_FORMAT;
    *out_flag = json_is_true(of(json));
    return 0;
}

char *crn_json_compact(const struct crn_json *json)
{
    return json_dumps(of(json), JSON_COMPACT);
}

struct crn_json *crn_json_object(void)
{
    return as(json_object());
}

struct crn_json *crn_json_array(void)
{
    return as(json_array());
}

/* jansson takes the child over in every case and accepts NULL on both sides. */
void crn_json_add(struct crn_json *parent, const char *key, struct crn_json *child)
{
    if (key != NULL)
        json_object_set_new(of(parent), key, of(child));
    else
        json_array_append_new(of(parent), of(child));
}

void crn_json_add_text(struct crn_json *parent, const char *key, const char *text)
{
    crn_json_add(parent, key, as(json_string(text)));
}

void crn_json_add_u64(struct crn_json *parent, const char *key, uint64_t number)
{
    crn_json_add(parent, key, as(json_integer((json_int_t)number)));
}

void crn_json_add_real(struct crn_json *parent, const char *key, double number)
{
    crn_json_add(parent, key, as(json_real(number)));
}

void crn_json_add_bool(struct crn_json *parent, const char *key, bool flag)
{
    crn_json_add(parent, key, as(json_boolean(flag)));
}

void crn_json_add_parsed(struct crn_json *parent, const char *key, const char *text)
{
    json_t *parsed = json_loads(text, 0, NULL);
    crn_json_add(parent, key, as(parsed != NULL ? parsed : json_string(text)));
}

int crn_json_print(const struct crn_json *json, FILE *file)
{
    if (json == NULL)
        return -ENOMEM;
    if (json_dumpf(of(json), file, JSON_INDENT(1) | JSON_REAL_PRECISION(7)) != 0 ||
        fputc('\n', file) == EOF)
        return -EIO;
    return 0;
}

void crn_json_free(struct crn_json *root)
{
    json_decref(of(root));
}
