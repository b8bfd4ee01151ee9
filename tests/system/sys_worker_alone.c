/* A broker that is absent, deaf, killed or restarted costs a worker speed and nothing else
 * (design.md section 8): every answer is the one of a worker that never heard of a broker, and the
 * exit code is 0. Contexts are long enough for a prefill to be seen: what the broker counts says
 * where the worker is, and what the worker prints says what it met. */
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_REQUESTS 48u
#define PIPE_BYTES 4096 /* of a worker's output: it waits when nobody reads */
#define PIPE_LINES                                                                                 \
    16u /* more than fit in there: so far, at most, is a worker ahead of what was read */
#define LONG_CHARS 3000u

static const struct crn_model_shape shape = {.n_layers = 4,
                                             .hidden = 256,
                                             .n_heads = 8,
                                             .n_kv_heads = 4,
                                             .head_dim = 32,
                                             .ffn = 768,
                                             .vocab = 97,
                                             .context_max = 4096,
                                             .rope_theta = 10000,
                                             .norm_eps = 1e-5f};
static const char *const quiet[] = {"--memory", "256M", "--log-level", "warn", NULL};

struct scene {
    char model[160], requests[160];
    uint32_t n;                  /* requests */
    json_t *want[MOST_REQUESTS]; /* lines of a worker without a broker */
};

/* Requests about contexts of so many characters; two neighbours have the same one. */
static void write_requests(const struct scene *s, uint32_t chars)
{
    FILE *f = fopen(s->requests, "w");
    ck_assert_ptr_nonnull(f);
    for (uint32_t i = 0; i < s->n; i++) {
        char *text = random_text(chars, 1 + i / 2);
        fprintf(f, "{\"context\": \"%s\", \"question\": \"who?\"}\n", text);
        free(text);
    }
    ck_assert_int_eq(fclose(f), 0);
}

static void scene_open(struct scene *s, uint32_t n_requests, uint32_t chars)
{
    paths_tmp();
    s->n = n_requests;
    snprintf(s->model, sizeof s->model, "%s", paths_tmp_file("model.gguf"));
    snprintf(s->requests, sizeof s->requests, "%s", paths_tmp_file("requests.jsonl"));
    ck_assert_int_eq(crn_test_model_write(s->model, &shape, 5, CRN_QUANT_Q8_0), 0);
    write_requests(s, chars);
    const char *const options[] = {"--model",      s->model, "--requests", s->requests,
                                   "--max-tokens", "8",      "--reuse",    "never",
                                   "--no-publish", NULL};
    struct program p = worker_run(NULL, options);
    for (uint32_t i = 0; i < s->n; i++)
        s->want[i] = program_json(&p, i);
    ck_assert_str_eq(p.err, "");
    program_free(&p);
}

static void scene_close(struct scene *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        json_decref(s->want[i]);
    paths_tmp_remove();
}

static void same_answer(const json_t *got, const json_t *want)
{
    ck_assert_msg(json_object_get(got, "error") == NULL, "%s",
                  json_string_value(json_object_get(got, "error")));
    ck_assert_str_eq(json_text(got, "answer"), json_text(want, "answer"));
    ck_assert_int_eq(json_number(got, "tokens"), json_number(want, "tokens"));
}

/* ---- a worker on its way ---- */

struct worker {
    pid_t pid;
    FILE *out;
    int err;
};

static struct worker worker_start(const char *socket, const char *const *options)
{
    const char *argv[40] = {"cairn-worker", "--json", "--threads", "2", "--socket", socket};
    struct worker w = {.err = memfd_create("err", 0)};
    int pipe_fds[2];
    for (size_t i = 0; options[i] != NULL; i++)
        argv[i + 6] = options[i];
    ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t parent = getpid();
    w.pid = fork();
    ck_assert_int_ge(w.pid, 0);
    if (w.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent && dup2(pipe_fds[1], STDOUT_FILENO) >= 0 &&
            dup2(w.err, STDERR_FILENO) >= 0)
            execv(paths_bin("cairn-worker"), (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(pipe_fds[1]);
    ck_assert_int_eq(fcntl(pipe_fds[0], F_SETPIPE_SZ, PIPE_BYTES), PIPE_BYTES);
    w.out = fdopen(pipe_fds[0], "r");
    ck_assert_ptr_nonnull(w.out);
    setvbuf(w.out, NULL, _IONBF, 0); /* so that poll tells the truth about what is left */
    return w;
}

/* The next line, within five minutes: sanitizers on a busy machine are slow. own: json_decref */
static json_t *worker_next(const struct worker *w)
{
    struct pollfd ready = {.fd = fileno(w->out), .events = POLLIN};
    json_error_t error;
    ck_assert_msg(poll(&ready, 1, 300000) == 1, "the worker says nothing");
    json_t *line = json_loadf(w->out, JSON_DISABLE_EOF_CHECK, &error);
    ck_assert_msg(line != NULL, "%s", error.text);
    ck_assert_int_eq(fgetc(w->out), '\n');
    return line;
}

static void worker_end(struct worker *w)
{
    char text[4096];
    int status;
    ck_assert_int_eq(fgetc(w->out), EOF);
    fclose(w->out);
    ck_assert_int_eq(waitpid(w->pid, &status, 0), w->pid);
    ssize_t n = pread(w->err, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    close(w->err);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x: %s", (unsigned)status,
                  text);
}

/* ---- absent ---- */

/* Something that takes connections at the broker's address and never says a word. */
static int deaf_listener(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path, sizeof address.sun_path, "%s.fd", socket_path);
    ck_assert_int_lt(n, (int)sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(fd, 8), 0);
    return fd;
}

static void check_alone(struct scene *s, const char *socket)
{
    const char *const options[] = {"--model",      s->model, "--requests", s->requests,
                                   "--max-tokens", "8",      NULL};
    const char *arguments[16] = {"--json", "--threads", "2", "--socket", socket};
    memcpy(arguments + 5, options, sizeof options);
    struct program p = program_run("cairn-worker", arguments);
    ck_assert_msg(p.code == 0, "%s", p.err);
    for (uint32_t i = 0; i < s->n; i++) {
        json_t *line = program_json(&p, i);
        same_answer(line, s->want[i]);
        ck_assert_str_eq(json_text(line, "reason"), "no_broker");
        ck_assert(!json_number(line, "published"));
        json_decref(line);
    }
    ck_assert_msg(program_err_lines(&p) == 1 && strstr(p.err, "working alone") != NULL, "%s",
                  p.err);
    program_free(&p);
}

START_TEST(without_a_broker_a_worker_answers_alone_and_says_so_once)
{
    struct scene s;
    scene_open(&s, MOST_REQUESTS / 4, 200);
    check_alone(&s, paths_tmp_file("nobody.sock"));
    check_alone(&s, "/nonexistent/nobody.sock");
    scene_close(&s);
}
END_TEST

START_TEST(a_broker_that_left_its_socket_files_behind_is_absent)
{
    struct scene s;
    struct broker b;
    scene_open(&s, MOST_REQUESTS / 4, 200);
    broker_start(&b, quiet);
    broker_kill(&b);
    check_alone(&s, b.socket);
    broker_restart(&b);
    broker_stop(&b);
    scene_close(&s);
}
END_TEST

START_TEST(something_deaf_at_the_address_is_no_broker)
{
    struct scene s;
    char socket[96];
    scene_open(&s, 1, 200);
    snprintf(socket, sizeof socket, "%s", paths_tmp_file("deaf.sock"));
    int fd = deaf_listener(socket);
    check_alone(&s, socket);
    close(fd);
    scene_close(&s);
}
END_TEST

/* ---- killed ---- */

/* What is known of the broker when line i is read. */
struct fate {
    uint32_t gone_at,
        back_at; /* first line of a worker alone; first one of a worker that is not, after that */
};

static void see_line(struct fate *fate, uint32_t i, const json_t *line)
{
    int gone = strcmp(json_text(line, "reason"), "no_broker") == 0;
    if (i == 0)
        ck_assert(json_number(line, "published"));
    if (gone && fate->gone_at == 0)
        fate->gone_at = i;
    if (!gone && fate->gone_at > 0 && fate->back_at == 0)
        fate->back_at = i;
    if (fate->gone_at == 0)
        ck_assert_uint_lt(i, PIPE_LINES);
    if (fate->gone_at > 0 && fate->back_at == 0)
        ck_assert_uint_lt(i, fate->gone_at + PIPE_LINES);
    if (fate->back_at > 0 &&
        i > fate->back_at + 1) { /* the even ones read and publish, the odd ones find */
        ck_assert_int_eq(json_number(line, "published"), i % 2 == 0);
        ck_assert_str_eq(json_text(line, "class"), i % 2 == 0 ? "none" : "exact");
    }
}

START_TEST(a_broker_killed_and_restarted_between_requests_changes_no_answer)
{
    struct scene s;
    struct broker b;
    struct fate fate = {0, 0};
    scene_open(&s, MOST_REQUESTS, 200);
    broker_start(&b, quiet);
    const char *const options[] = {"--model",      s.model, "--requests", s.requests,
                                   "--max-tokens", "8",     NULL};
    struct worker w = worker_start(b.socket, options);
    for (uint32_t i = 0; i < s.n; i++) {
        json_t *line = worker_next(&w);
        same_answer(line, s.want[i]);
        see_line(&fate, i, line);
        if (i == 0)
            broker_kill(&b);
        if (i > 0 && fate.gone_at == i)
            broker_restart(&b);
        json_decref(line);
    }
    worker_end(&w);
    ck_assert_uint_gt(fate.back_at, 0);
    broker_stop(&b);
    scene_close(&s);
}
END_TEST

/* Stopped while it decodes, until its lease is over and the memory may be anybody's. */
START_TEST(a_worker_that_outsleeps_its_lease_reads_again_by_itself)
{
    static const char *const hasty[] = {"--memory", "256M", "--log-level", "error", "--lease-ttl", "300ms", NULL};
    struct broker b;
    char model[160];
    paths_tmp();
    snprintf(model, sizeof model, "%s", paths_tmp_file("model.gguf"));
    ck_assert_int_eq(crn_test_model_write(model, &shape, 5, CRN_QUANT_Q8_0), 0);
    char *text = random_text(200, 9);
    const char *const options[] = {"--model",      model,  "--context", text_file(0, text, -1), "--ask", "who?",
                                   "--max-tokens", "3000", NULL};
    broker_start(&b, hasty);
    struct worker w = worker_start(b.socket, options);
    json_t *want = worker_next(&w);
    worker_end(&w);
    w = worker_start(b.socket, options);
    broker_await(&b, "attach_total", 1);
    ck_assert_int_eq(kill(w.pid, SIGSTOP), 0);
    broker_await(&b, "lease_expired_total", 1);
    ck_assert_int_eq(kill(w.pid, SIGCONT), 0);
    json_t *line = worker_next(&w);
    same_answer(line, want);
    ck_assert_str_eq(json_text(line, "reason"), "reuse_failed");
    ck_assert_int_eq(json_number(line, "reused_tokens"), 0);
    worker_end(&w);
    json_decref(line);
    json_decref(want);
    free(text);
    broker_stop(&b);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_broker_killed_during_a_prefill_changes_no_answer)
{
    struct scene s;
    struct broker b;
    scene_open(&s, 1, LONG_CHARS);
    broker_start(&b, quiet);
    const char *const options[] = {"--model",      s.model, "--requests", s.requests,
                                   "--max-tokens", "8",     NULL};
    struct worker w = worker_start(b.socket, options);
    broker_await(&b, "draft_total", 1); /* its draft is open: it is prefilling */
    broker_kill(&b);
    json_t *line = worker_next(&w);
    same_answer(line, s.want[0]);
    ck_assert_msg(!json_number(line, "published"), "the broker was killed too late");
    ck_assert_str_eq(json_text(line, "reason"),
                     "no_entry"); /* it was there when the request began */
    json_decref(line);
    worker_end(&w);
    broker_restart(&b);
    broker_stop(&b);
    scene_close(&s);
}
END_TEST

/* A question after which this model talks on and on. */
static const char *long_question(const struct scene *s, const char *text, json_t **out_line)
{
    static const char *const questions[] = {"who?",  "where?", "when?",  "why?",
                                            "what?", "which?", "whose?", "how?"};
    const char *options[] = {"--model", s->model, "--context",    text,    "--max-tokens", "600",
                             "--reuse", "never",  "--no-publish", "--ask", NULL,           NULL};
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        options[10] = questions[i];
        *out_line = worker_line(NULL, options);
        if (json_number(*out_line, "tokens") == 600)
            return questions[i];
        json_decref(*out_line);
    }
    ck_abort_msg("all answers are short");
    return NULL;
}

START_TEST(a_broker_killed_while_a_worker_reads_its_memory_changes_no_answer)
{
    struct scene s;
    struct broker b;
    json_t *want, *line;
    char *text = random_text(700, 77);
    scene_open(&s, 1, 200);
    const char *file = text_file(0, text, -1), *question = long_question(&s, file, &want);
    broker_start(&b, quiet);
    const char *const publish[] = {"--model", s.model, "--context", file, NULL};
    const char *const options[] = {"--model", s.model, "--context", file, "--max-tokens",
                                   "600",     "--ask", question,    NULL};
    json_decref(worker_line(&b, publish));
    struct worker w = worker_start(b.socket, options);
    broker_await(&b, "leases", 1);
    broker_kill(&b);
    ck_assert_int_eq(waitpid(w.pid, NULL, WNOHANG), 0); /* still decoding */
    line = worker_next(&w);
    same_answer(line, want);
    ck_assert_str_eq(json_text(line, "class"), "exact");
    ck_assert_int_gt(json_number(line, "kv_shared_bytes"), 0);
    worker_end(&w);
    json_decref(line);
    json_decref(want);
    broker_restart(&b);
    broker_stop(&b);
    free(text);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(without_a_broker_a_worker_answers_alone_and_says_so_once),
        RUN_TEST(a_broker_that_left_its_socket_files_behind_is_absent),
        RUN_TEST(something_deaf_at_the_address_is_no_broker),
        RUN_TEST(a_broker_killed_and_restarted_between_requests_changes_no_answer),
        RUN_TEST(a_worker_that_outsleeps_its_lease_reads_again_by_itself),
        RUN_TEST(a_broker_killed_during_a_prefill_changes_no_answer),
        RUN_TEST(a_broker_killed_while_a_worker_reads_its_memory_changes_no_answer),
    };
    return run_suite("worker_alone", tests, sizeof tests / sizeof *tests);
}
