/* One epoll set, one thread. A turn takes what is ready now and calls each owner once; owners do a bounded amount of work and
 * leave the rest to the next turn (level-triggered), so nobody starves anybody. */
#include "broker/loop.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_PER_TURN 64

struct crn_loop {
    int fd;
};

int crn_loop_create(struct crn_loop **out_loop)
{
    struct crn_loop *loop = malloc(sizeof *loop);
    if (loop == NULL)
        return -ENOMEM;
    loop->fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->fd < 0) {
        int status = -errno;
        free(loop);
        return status;
    }
    *out_loop = loop;
    return 0;
}

void crn_loop_destroy(struct crn_loop *loop)
{
    if (loop == NULL)
        return;
    close(loop->fd);
    free(loop);
}

int crn_loop_add(struct crn_loop *loop, struct crn_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (epoll_ctl(loop->fd, EPOLL_CTL_ADD, watch->fd, &event) == 0)
        return 0;
    int status = -errno;
    crn_log(CRN_LOG_ERROR, "loop: descriptor %d: %s", watch->fd, cairn_strerror(status));
    return status;
}

void crn_loop_remove(struct crn_loop *loop, struct crn_watch *watch)
{
    if (epoll_ctl(loop->fd, EPOLL_CTL_DEL, watch->fd, NULL) != 0)
        crn_log(CRN_LOG_ERROR, "loop: descriptor %d: %s", watch->fd, cairn_strerror(-errno));
}

int crn_loop_turn(struct crn_loop *loop, int timeout_ms)
{
    struct epoll_event events[EVENTS_PER_TURN];
    int n = epoll_wait(loop->fd, events, EVENTS_PER_TURN, timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        struct crn_watch *watch = events[i].data.ptr;
        watch->ready(watch, events[i].events);
    }
    return 0;
}
