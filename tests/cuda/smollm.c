/* SmolLM2 through the programs themselves: cairn-worker reads 200 tokens, publishes them and goes on greedily, by the CPU and on
 * a device, each beside a broker of its own; a second worker attaches what the first one left. Both say the same, token by token.
 * tests/cuda/forward.c compares the logits. The emulated device takes most of a minute for it. */
#include "tests/support/dev_share.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include "ipc/log.h"

#include <stdlib.h>

#define CONTEXT_TOKENS 200
#define CONTEXT_BYTES 733 /* of the golden context: so many tokens with the chat's frame */

static const char *const on_cpu[] = {"--log-level", "warn", NULL};
static const char *const on_device[] = {"--device", "cuda:0", "--memory", "64M", "--arena-size", "32M", "--log-level", "warn", NULL};

static json_t *ask(const struct broker *b, const char *device)
{
    json_t *golden = test_golden("forward.json");
    const char *const options[] = {"--model", paths_model(), "--context", text_file(0, json_text(golden, "context"), CONTEXT_BYTES),
                                   "--ask", "Who is this about?", "--max-tokens", "6", "--kv", "f32", "--device", device, NULL};
    json_t *line = worker_line(b, options);
    ck_assert_int_eq(json_number(line, "context_tokens"), CONTEXT_TOKENS);
    json_decref(golden);
    return line;
}

START_TEST(a_published_and_an_attached_context_are_continued_as_on_the_cpu)
{
    struct broker cpu, device;
    paths_tmp();
    broker_start(&cpu, on_cpu);
    broker_start(&device, on_device);
    json_t *want = ask(&cpu, "host");
    ck_assert_int_eq(json_number(want, "tokens"), 6);
    for (int attached = 0; attached < 2; attached++) {
        json_t *got = ask(&device, "cuda:0");
        ck_assert_str_eq(json_text(got, "answer"), json_text(want, "answer"));
        ck_assert_int_eq(json_number(got, "tokens"), json_number(want, "tokens"));
        ck_assert_int_eq(json_number(got, "published"), !attached);
        ck_assert_int_eq(json_number(got, "reused_tokens"), attached ? CONTEXT_TOKENS : 0);
        json_decref(got);
    }
    json_decref(want);
    broker_stop(&device);
    broker_stop(&cpu);
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    setenv("CRN_TEST_TIMEOUT", "300", 0); /* a prefill of the real model on the emulated device, on a busy machine */
    const struct run_test tests[] = {RUN_TEST(a_published_and_an_attached_context_are_continued_as_on_the_cpu)};
    crn_log_setup("cuda_smollm", CRN_LOG_WARN);
    dev_programs();
    return run_suite("cuda_smollm", tests, 1);
}
