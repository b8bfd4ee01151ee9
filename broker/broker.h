/* broker - everything one running cairnd owns. Loop thread only; copy threads see nothing of it but their jobs. */
#ifndef CRN_BROKER_BROKER_H
#define CRN_BROKER_BROKER_H

#include "broker/config.h"
#include "broker/copier.h"
#include "broker/device.h"
#include "broker/landing.h"
#include "broker/loop.h"
#include "broker/session.h"
#include "broker/space.h"
#include "broker/stats.h"
#include "broker/tier.h"
#include "ipc/chan.h"

#include <stdint.h>

struct crn_fdserve;

struct crn_broker {
    const struct crn_config *config;
    struct crn_device *device; /* where payloads live; NULL: host memory */
    uint64_t boot; /* random number of this process */
    uint64_t started_ns;
    struct crn_loop *loop;
    struct crn_router *router;
    struct crn_fdserve *fds;
    struct crn_copier *copier;
    struct crn_tier *tier; /* NULL: arenas only */
    int tier_status;       /* why there is none although --nvme was given; 0 */
    struct crn_watch router_watch, copier_watch, timer_watch, signal_watch;
    struct crn_watch tier_watch[CRN_TIER_FDS];
    struct crn_landings landings;      /* in the memory of payloads */
    struct crn_landings host_landings; /* with a device: for state maps */
    struct crn_space *spaces; /* [config->n_spaces], in the order of the configuration */
    uint32_t n_spaces;
    struct crn_sessions sessions;
    uint64_t last_draft, last_job;
    struct crn_stats stats; /* of what has no namespace */
    int stopping;
    bool sweep_due; /* descriptor connections may have ended */
};

/* Makes sockets, arenas and threads. own: crn_broker_close, after success only. Logs what failed. */
int crn_broker_open(const struct crn_config *config, struct crn_broker **out_broker);
/* Runs until SIGTERM or SIGINT; 0 then, else what broke the loop. */
int crn_broker_run(struct crn_broker *broker);
/* Tells workers (alive = 0 on their control pages), unlinks sockets, gives memory back. */
void crn_broker_close(struct crn_broker *broker);

#endif
