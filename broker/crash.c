/* The dying half of crash.h. Nothing is compiled here without CRN_CRASH_POINTS. */
#include "broker/crash.h"

#ifdef CRN_CRASH_POINTS

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

void crn_crash_point(const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static unsigned long seen;
    const char *at = getenv("CRN_CRASH_AT"), *colon = at != NULL ? strchr(at, ':') : NULL;
    if (colon == NULL || strlen(name) != (size_t)(colon - at) || strncmp(at, name, strlen(name)) != 0)
        return;
    pthread_mutex_lock(&lock);
    if (++seen == strtoul(colon + 1, NULL, 10))
        raise(SIGKILL);
    pthread_mutex_unlock(&lock);
}

#else
typedef int crn_crash_nothing; /* ISO C wants something in a file */
#endif
