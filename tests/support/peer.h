/* peer - a worker that speaks the protocol by hand, without libcairn: raw messages and raw records, so that tests can also say what
 * the library never would. Calls fail the test only when the broker does not answer within 10 s. */
#ifndef CRN_TESTS_PEER_H
#define CRN_TESTS_PEER_H

#include "ipc/chan.h"
#include "ipc/fdchan.h"
#include "ipc/mem.h"
#include "ipc/wire.h"

#define PEER_ARENAS 16

struct peer {
    struct crn_chan *chan;
    uint64_t request;
    struct crn_msg_welcome welcome; /* views are invalid */
    uint8_t token[16];
    char error[513]; /* text of the last error answer */
    int fd_sock;     /* -1: not connected */
    struct crn_mem control;
    struct crn_mem arenas[PEER_ARENAS]; /* by id */
    uint8_t buf[CRN_MESSAGE_MAX];       /* the last answer: its views point here */
};

/* Who a peer says it is. model 0: a tool. */
struct peer_model {
    uint8_t model, family; /* digests, repeated 16 times */
    struct cairn_shape shape;
    const char *label;
    const char *space;
};

/* Connects without a word. */
struct peer *peer_open(const char *socket);
void peer_close(struct peer *p); /* says nothing */
/* Sends a request and decodes its answer into out_reply (NULL: no matter). 0, the code of an error answer, or CAIRN_E_PROTO when
 * the answer is of another type. */
int peer_call(struct peer *p, enum crn_msg_type type, void *msg, enum crn_msg_type reply_type,
              void *out_reply);
/* The two halves of peer_call. Answers come in the order the broker finished them. */
void peer_send(struct peer *p, enum crn_msg_type type, void *msg);
int peer_recv(struct peer *p, enum crn_msg_type reply_type, void *out_reply);
/* Sends a request whose number is 0: no OK is wanted. */
void peer_tell(struct peer *p, enum crn_msg_type type, void *msg);
/* CAIRN_E_TIMEOUT when nothing comes within ms. */
int peer_hears(struct peer *p, unsigned ms);

/* HELLO, and with `fds` also the descriptor channel and the control page. */
int peer_hello(struct peer *p, const struct peer_model *model, int fds, const char *socket);
/* One request on the descriptor channel. own: the segment */
int peer_segment(struct peer *p, enum crn_fd_op op, uint64_t id, struct crn_mem *out_mem);
/* Bytes of an arena; mapped when first needed. */
const uint8_t *peer_arena(struct peer *p, uint32_t id);
/* Value of a counter. */
uint64_t peer_counter(struct peer *p, unsigned counter);

#endif
