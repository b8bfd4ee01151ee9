/* crash - named places where a test build can be told to die: CRN_CRASH("spill-written"). Compiled in only with
 * -DCRN_CRASH_POINTS; there, CRN_CRASH_AT=name:n raises SIGKILL at the n-th time the place is passed. */
#ifndef CRN_BROKER_CRASH_H
#define CRN_BROKER_CRASH_H

#ifdef CRN_CRASH_POINTS
void crn_crash_point(const char *name);
#define CRN_CRASH(name) crn_crash_point(name)
#else
#define CRN_CRASH(name) ((void)0)
#endif

#endif
