/* libFuzzer harness of ipc/wire (`make fuzz`): any bytes are refused, or decode to a message with
 * its views inside the input that encodes again and decodes to the same bytes. A replay is the same
 * program with the crashing file as its argument. */
#include "ipc/chan.h"
#include "ipc/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

union any { /* room for every message */
#define MESSAGE(name, number, fields) struct crn_msg_##name name;
#include "ipc/msgs.def"
#undef MESSAGE
};

static void demand(int holds)
{
    if (!holds)
        abort();
}

/* A message that decoded: encoding it is canonical, so a second round must give the same bytes. */
static void round_trip(enum crn_msg_type type, const union any *msg)
{
    static uint8_t first[CRN_MESSAGE_MAX], second[CRN_MESSAGE_MAX];
    union any copy;
    size_t first_n, second_n;
    demand(crn_wire_encode(type, msg, first, sizeof first, &first_n) == 0);
    demand(crn_wire_decode(type, first, first_n, &copy) == 0);
    demand(crn_wire_encode(type, &copy, second, sizeof second, &second_n) == 0);
    demand(first_n == second_n && memcmp(first, second, first_n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    union any msg;
    enum crn_msg_type type = CRN_MSG_hello;
    uint64_t request;
    int status = crn_wire_peek(bytes, n, &type, &request);
    demand(status == 0 || status == CAIRN_E_PROTO || status == CAIRN_E_VERSION);
    int decoded = crn_wire_decode(type, bytes, n, &msg);
    if (decoded == 0) {
        demand(status == 0);
        round_trip(type, &msg);
    } else {
        demand(decoded == CAIRN_E_PROTO || decoded == CAIRN_E_VERSION || decoded == CAIRN_E_ARG);
    }
    return 0;
}
