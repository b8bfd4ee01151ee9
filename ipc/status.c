/* Result codes: names and texts. The table lives in cairn_status.h; this file only looks it up.
 * Strings are constants, so any thread may call at any time. It does not format messages: callers
 * add the object and the advice. */
#include "ipc/cairn_status.h"

#include <string.h>

#define BELOW_ERRNO(name, number, text)                                                            \
    _Static_assert((number) < -4095, "CAIRN_E_" #name " collides with errno");
CAIRN_STATUS_MAP(BELOW_ERRNO)

const char *cairn_strerror(int code)
{
    switch (code) {
    case CAIRN_OK:
        return "success";
#define CASE(name, number, text)                                                                   \
    case number:                                                                                   \
        return text;
        CAIRN_STATUS_MAP(CASE)
#undef CASE
    default:
        break;
    }
    const char *text = code < 0 && code >= -4095 ? strerrordesc_np(-code) : NULL;
    return text != NULL ? text : "unknown status";
}

const char *cairn_errname(int code)
{
    switch (code) {
    case CAIRN_OK:
        return "CAIRN_OK";
#define CASE(name, number, text)                                                                   \
    case number:                                                                                   \
        return "CAIRN_E_" #name;
        CAIRN_STATUS_MAP(CASE)
#undef CASE
    default:
        break;
    }
    const char *name = code < 0 && code >= -4095 ? strerrorname_np(-code) : NULL;
    return name != NULL ? name : "?";
}
