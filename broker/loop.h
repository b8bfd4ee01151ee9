/* loop - epoll, and who to call when a descriptor is ready. */
#ifndef CRN_BROKER_LOOP_H
#define CRN_BROKER_LOOP_H

#include <stdint.h>

/* Embedded in whatever owns the descriptor; must stay in place until crn_loop_remove, which must not be called from inside the
 * callback of another watch (objects die at the end of a turn, see session.h). */
struct crn_watch {
    int fd;
    void (*ready)(struct crn_watch *watch, uint32_t events);
    void *ctx;
};

struct crn_loop;

int crn_loop_create(struct crn_loop **out_loop);
void crn_loop_destroy(struct crn_loop *loop);
/* events: EPOLLIN, ... of epoll_ctl(2). */
int crn_loop_add(struct crn_loop *loop, struct crn_watch *watch, uint32_t events);
void crn_loop_remove(struct crn_loop *loop, struct crn_watch *watch);
/* Waits at most timeout_ms (-1: for ever) and calls every watch that is ready, once. */
int crn_loop_turn(struct crn_loop *loop, int timeout_ms);

#endif
