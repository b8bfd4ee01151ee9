/* Logging to stderr: one write(2) per line, so lines of several threads and processes never mix. No
 * rotation, no syslog: a service manager does that. Keeps errno, so that a caller may log before it
 * reads it. */
#include "ipc/log.h"

#include "ipc/cairn_status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic(const char *) program_name = "cairn";
static atomic_int log_level = CRN_LOG_WARN;

static const char *const level_names[] = {
    [CRN_LOG_ERROR] = "error",
    [CRN_LOG_WARN] = "warn",
    [CRN_LOG_INFO] = "info",
    [CRN_LOG_DEBUG] = "debug",
};

void crn_log_setup(const char *program, enum crn_log_level level)
{
    atomic_store_explicit(&program_name, program, memory_order_relaxed);
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

int crn_log_level_parse(const char *text, enum crn_log_level *out_level)
{
    for (int level = CRN_LOG_ERROR; level <= CRN_LOG_DEBUG; level++) {
        if (strcmp(text, level_names[level]) == 0) {
            *out_level = (enum crn_log_level)level;
            return 0;
        }
    }
    return CAIRN_E_ARG;
}

void crn_log(enum crn_log_level level, const char *format, ...)
{
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    int saved_errno = errno;
    char line[1024];
    int n = snprintf(line, sizeof line,
                     "%s[%d] %s: ", atomic_load_explicit(&program_name, memory_order_relaxed),
                     (int)getpid(), level_names[level]);
    size_t used = n > 0 ? (size_t)n : 0;
    va_list args;
    va_start(args, format);
    n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n > 0)
        used += (size_t)n < sizeof line - used - 1 ? (size_t)n : sizeof line - used - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0) {
        /* nowhere left to report to */
    }
    errno = saved_errno;
}
