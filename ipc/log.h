/* log - one line per event on stderr. The first function that detects a failure logs it; callers only pass the code on.
 * Lines look like `cairnd[123] warn: arena 3: no room for 6291456 bytes`. Lower case, the exact cause, name then value. */
#ifndef CRN_IPC_LOG_H
#define CRN_IPC_LOG_H

enum crn_log_level { CRN_LOG_ERROR = 1, CRN_LOG_WARN = 2, CRN_LOG_INFO = 3, CRN_LOG_DEBUG = 4 };

/* Sets the program name shown (kept by reference) and the highest level printed. Default: "cairn", CRN_LOG_WARN. */
void crn_log_setup(const char *program, enum crn_log_level level);

/* "error" "warn" "info" "debug" -> level; CAIRN_E_ARG for anything else. */
int crn_log_level_parse(const char *text, enum crn_log_level *out_level);

/* Writes one line with one write(2); longer than 1 KiB is cut. Keeps errno. Any thread. */
void crn_log(enum crn_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
