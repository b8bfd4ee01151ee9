/* cairn_status - every result code of Cairn, grouped by what the caller should do next.
 *
 * A function returns 0 on success and a negative code on failure. -1 .. -4095 is a negated errno passed through; Cairn's own
 * codes live below that, in bands of one hundred:
 *   -41xx misuse            fix the call, never retry
 *   -42xx not now           retry after a pause, or go on without
 *   -43xx gone              look up again, reopen
 *   -44xx not to be trusted drop, count, log
 *   -45xx not here          choose another backend
 * Codes travel on the wire as they are and are frozen once released; an unknown code of a newer peer is kept as a number. */
#ifndef CAIRN_STATUS_H
#define CAIRN_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, number, text): the one place where a code is defined. */
#define CAIRN_STATUS_MAP(X)                                                                        \
    X(ARG, -4100, "invalid argument")                                                              \
    X(TOO_BIG, -4101, "larger than a limit allows")                                                \
    X(STATE, -4102, "not allowed in this state")                                                   \
    X(DENIED, -4103, "not permitted for this peer")                                                \
    X(FULL, -4200, "no room, even after eviction")                                                 \
    X(BUSY, -4201, "in use by somebody else")                                                      \
    X(TIMEOUT, -4202, "deadline passed")                                                           \
    X(EXISTS, -4203, "already there")                                                              \
    X(STALE, -4300, "reference to something replaced or released")                                 \
    X(MISS, -4301, "not found")                                                                    \
    X(GONE, -4302, "broker or peer is gone")                                                       \
    X(DEVICE_LOST, -4303, "device lost")                                                           \
    X(CORRUPT, -4400, "content does not match its checksum or layout")                             \
    X(VERSION, -4401, "version not supported")                                                     \
    X(PROTO, -4402, "malformed or unexpected message")                                             \
    X(FORMAT, -4403, "malformed file")                                                             \
    X(NOT_BUILT, -4500, "not compiled in")                                                         \
    X(NO_DEVICE, -4501, "no such device here")                                                     \
    X(UNSUPPORTED, -4502, "not supported here")

enum cairn_status {
    CAIRN_OK = 0,
#define CAIRN_STATUS_ENUM(name, number, text) CAIRN_E_##name = (number),
    CAIRN_STATUS_MAP(CAIRN_STATUS_ENUM)
#undef CAIRN_STATUS_ENUM
};

#if defined(__GNUC__)
#define CAIRN_API __attribute__((visibility("default")))
#else
#define CAIRN_API
#endif

/* cairn_strerror - text of a code: Cairn's own, or that of a negated errno.
 * out     a string literal or a libc constant; never NULL, never to be freed
 * thread  any */
CAIRN_API const char *cairn_strerror(int code);

/* cairn_errname - symbolic name ("CAIRN_E_FULL", "ENOSPC"), "?" when unknown. Same rules as cairn_strerror. */
CAIRN_API const char *cairn_errname(int code);

#ifdef __cplusplus
}
#endif
#endif
