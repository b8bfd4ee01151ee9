/* The command line tool against a real broker: what it prints, its JSON, and its exit codes. */
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <jansson.h>

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N 200u
#define ARGS_MAX 16

static const char *const small[] = {"--memory", "16M", "--log-level", "error", NULL};

struct run {
    const char *argv[ARGS_MAX];
    int out, err; /* pipes' writing ends */
};

static int run_program(void *ctx)
{
    struct run *r = ctx;
    dup2(r->out, STDOUT_FILENO);
    dup2(r->err, STDERR_FILENO);
    execv(paths_bin("cairn"), (char *const *)(uintptr_t)r->argv);
    return 127;
}

static char text_out[65536], text_err[4096];

static void slurp(int fd, char *text, size_t bytes)
{
    size_t n = 0;
    for (ssize_t got; n < bytes - 1 && (got = read(fd, text + n, bytes - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(fd);
}

/* Runs cairn with arguments up to NULL; output in text_out and text_err. */
static int cairn(const char *first, ...)
{
    struct run r = {.argv = {"cairn", first}};
    int out[2], err[2], n = 2;
    va_list args;
    va_start(args, first);
    while (n < ARGS_MAX - 1 && (r.argv[n] = va_arg(args, const char *)) != NULL)
        n++;
    va_end(args);
    ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(err, O_CLOEXEC), 0);
    r.out = out[1];
    r.err = err[1];
    pid_t pid = child_start(run_program, &r);
    close(out[1]);
    close(err[1]);
    slurp(out[0], text_out, sizeof text_out);
    slurp(err[0], text_err, sizeof text_err);
    return child_end(pid);
}

static json_t *parse(void)
{
    json_error_t error;
    json_t *root = json_loads(text_out, 0, &error);
    ck_assert_msg(root != NULL, "%s in %s", error.text, text_out);
    ck_assert_int_eq(json_integer_value(json_object_get(root, "schema_version")), 1);
    return root;
}

static struct cairn_entry_id publish(const struct broker *b, uint32_t seed)
{
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_client *client = tiny_open(b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .n_states = 2};
    tiny_tokens(context, N, seed);
    ck_assert_msg(tiny_publish(client, &e, &entry) == 0, "%s", cairn_error(client));
    cairn_close(client);
    return entry;
}

START_TEST(usage_errors_exit_with_2_and_one_line)
{
    static const char *const wrong[][4] = {
        {"no-such-command"}, {"--no-such-option"}, {"show"}, {"show", "xyz"}, {"evict"}, {"pin", "1", "2"},
        {"plan"}, {"plan", "put"}, {"plan", "get", "zz"}, {"status", "--timeout", "-1"}, {"status", "extra"},
        {"spill", "1", "--layers", "9-3"}, {"spill", "1", "--tier", "moon"}, {"top", "--interval", "0"},
        {"status", "--socket"}, {"ls", "--wrong"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int code = cairn(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3], NULL);
        ck_assert_msg(code == 2, "%s %s: exit code %d", wrong[i][0], wrong[i][1] ? wrong[i][1] : "", code);
        ck_assert_str_eq(text_out, "");
        ck_assert_ptr_eq(strchr(text_err, '\n'), text_err + strlen(text_err) - 1);
    }
    ck_assert_int_eq(cairn(NULL, NULL), 2);
}
END_TEST

START_TEST(help_is_everywhere_and_goes_to_standard_output)
{
    static const char *const commands[] = {"status", "ls", "show", "top", "evict", "pin", "unpin", "plan", "spill",
                                           "restore", "verify", "doctor", "version"};
    ck_assert_int_eq(cairn("--help", NULL), 0);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        ck_assert_ptr_nonnull(strstr(text_out, commands[i]));
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        ck_assert_int_eq(cairn(commands[i], "--help", NULL), 0);
        ck_assert_ptr_nonnull(strstr(text_out, "usage: cairn"));
        ck_assert_str_eq(text_err, "");
    }
}
END_TEST

START_TEST(without_a_broker_the_exit_code_is_3)
{
    ck_assert_int_eq(cairn("status", "--socket", "/tmp/cairn-no-such-dir/s.sock", NULL), 3);
    ck_assert_ptr_nonnull(strstr(text_err, "/tmp/cairn-no-such-dir/s.sock"));
    ck_assert_str_eq(text_out, "");
}
END_TEST

START_TEST(a_broker_that_does_not_answer_gives_exit_code_4_at_the_timeout)
{
    struct broker b;
    broker_start(&b, small);
    ck_assert_int_eq(kill(b.pid, SIGSTOP), 0);
    ck_assert_int_eq(cairn("--socket", b.socket, "--timeout", "0.3", "status", NULL), 4);
    ck_assert_int_eq(kill(b.pid, SIGCONT), 0);
    broker_stop(&b);
}
END_TEST

START_TEST(status_ls_and_show_say_what_the_broker_holds)
{
    struct broker b;
    char id[20];
    broker_start(&b, small);
    struct cairn_entry_id entry = publish(&b, 1);
    snprintf(id, sizeof id, "%llx", (unsigned long long)entry.v);
    ck_assert_int_eq(cairn("--socket", b.socket, "status", NULL), 0);
    ck_assert_ptr_nonnull(strstr(text_out, "1 entries"));
    ck_assert_int_eq(cairn("--socket", b.socket, "status", "--json", NULL), 0);
    json_t *root = parse();
    json_t *counters = json_object_get(root, "counters");
    ck_assert_int_eq(json_integer_value(json_object_get(counters, "entries")), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(counters, "commit_total")), 1);
    ck_assert(json_array_size(json_object_get(root, "notes")) > 0);
    json_decref(root);

    ck_assert_int_eq(cairn("ls", "--socket", b.socket, NULL), 0);
    ck_assert_ptr_nonnull(strstr(text_out, id));
    ck_assert_ptr_nonnull(strstr(text_out, "tiny-1"));
    ck_assert_int_eq(cairn("ls", "--models", "--json", "--socket", b.socket, NULL), 0);
    root = parse();
    ck_assert_str_eq(
        json_string_value(json_object_get(json_array_get(json_object_get(root, "models"), 0), "label")), "tiny-1");
    json_decref(root);

    ck_assert_int_eq(cairn("show", id, "--socket", b.socket, NULL), 0);
    ck_assert_ptr_nonnull(strstr(text_out, "    1 E ########################################  100 %"));
    ck_assert_ptr_nonnull(strstr(text_out, "    3   ########################################  100 %"));
    ck_assert_int_eq(cairn("show", id, "--json", "--socket", b.socket, NULL), 0);
    root = parse();
    ck_assert_str_eq(json_string_value(json_object_get(root, "entry")), id);
    ck_assert_int_eq(json_integer_value(json_object_get(root, "tokens")), N);
    ck_assert(json_array_size(json_object_get(root, "payloads")) == TINY_LAYERS + 2);
    json_decref(root);
    ck_assert_int_eq(cairn("top", "--once", "--socket", b.socket, NULL), 0);
    ck_assert_ptr_nonnull(strstr(text_out, "PID"));
    broker_stop(&b);
}
END_TEST

START_TEST(pin_evict_and_verify_do_what_they_say)
{
    struct broker b;
    char id[20];
    broker_start(&b, small);
    snprintf(id, sizeof id, "%llx", (unsigned long long)publish(&b, 1).v);
    publish(&b, 2);
    ck_assert_int_eq(cairn("pin", id, "--socket", b.socket, NULL), 0);
    ck_assert_int_eq(cairn("verify", "--socket", b.socket, NULL), 0);
    ck_assert_ptr_nonnull(strstr(text_out, " 0 bad"));
    ck_assert_int_eq(cairn("evict", "--all", "--json", "--socket", b.socket, NULL), 0);
    json_t *root = parse();
    ck_assert_int_eq(json_integer_value(json_object_get(root, "entries")), 1);
    json_decref(root);
    ck_assert_int_eq(cairn("unpin", id, "--socket", b.socket, NULL), 0);
    ck_assert_int_eq(cairn("evict", id, "--socket", b.socket, NULL), 0);
    ck_assert_int_eq(cairn("show", id, "--socket", b.socket, NULL), 1);
    ck_assert_int_eq(cairn("evict", id, "--socket", b.socket, NULL), 1);
    broker_stop(&b);
}
END_TEST

static const char plan_text[] = "{\"producer\":\"tiny-1\",\"receiver\":\"tiny-2\",\"run\":[1,2],\"n_layers\":4,"
                                "\"budgets\":[{\"layers\":[0,0],\"keep\":0.25}],"
                                "\"measured\":{\"questions\":10,\"own_exact\":0.8,\"exact\":0.6,\"settings\":["
                                "{\"keep\":1,\"kept\":1,\"int8\":false,\"exact\":0.6},"
                                "{\"keep\":0.4,\"kept\":0.35,\"int8\":true,\"exact\":0.4}]}}";

START_TEST(a_plan_is_put_by_label_only_when_exactly_one_model_has_it)
{
    struct broker b;
    char path[300], hex[33];
    broker_start(&b, small);
    paths_tmp();
    snprintf(path, sizeof path, "%s", paths_tmp_file("plan.json"));
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_ge(fputs(plan_text, f), 0);
    ck_assert_int_eq(fclose(f), 0);
    ck_assert_int_eq(cairn("plan", "put", path, "--socket", b.socket, NULL), 1);
    ck_assert_ptr_nonnull(strstr(text_err, "--producer"));
    publish(&b, 1);
    struct cairn_digest receiver = tiny_model(2);
    cairn_digest_text(&receiver, hex);
    ck_assert_msg(cairn("plan", "put", path, "--receiver", hex, "--socket", b.socket, NULL) == 0, "%s", text_err);
    ck_assert_int_eq(cairn("plan", "ls", "--json", "--socket", b.socket, NULL), 0);
    json_t *root = parse(), *plan = json_array_get(json_object_get(root, "plans"), 0);
    ck_assert_str_eq(json_string_value(json_object_get(plan, "receiver")), hex);
    ck_assert(json_real_value(json_object_get(plan, "quality")) > 0.7499);
    ck_assert(json_real_value(json_object_get(plan, "quality")) < 0.7501);
    ck_assert(json_real_value(json_object_get(plan, "cost")) > 0.49);
    ck_assert_str_eq(json_string_value(json_object_get(json_object_get(plan, "info"), "producer")), "tiny-1");
    char id[32];
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(plan, "plan")));
    json_decref(root);
    ck_assert_int_eq(cairn("plan", "get", id, "--socket", b.socket, NULL), 0);
    ck_assert_ptr_nonnull(strstr(text_out, "layers 0-0 keep 0.250"));
    ck_assert_ptr_nonnull(strstr(text_out, "keep 0.400, int8: 35 % of the tokens of reused layers, quality 0.500"));
    ck_assert_int_eq(cairn("plan", "drop", id, "--socket", b.socket, NULL), 0);
    ck_assert_int_eq(cairn("plan", "get", id, "--socket", b.socket, NULL), 1);
    paths_tmp_remove();
    broker_stop(&b);
}
END_TEST

START_TEST(doctor_and_version_work_without_a_broker)
{
    ck_assert_int_le(cairn("doctor", "--json", "--socket", "/tmp/cairn-no-such-dir/s.sock", NULL), 1);
    json_t *root = parse();
    ck_assert(json_array_size(json_object_get(root, "checks")) >= 7);
    json_decref(root);
    ck_assert_int_eq(cairn("version", "--json", NULL), 0);
    root = parse();
    ck_assert_str_eq(json_string_value(json_object_get(root, "version")),
                     json_string_value(json_object_get(root, "library")));
    json_decref(root);
    ck_assert_int_eq(cairn("--version", NULL), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(usage_errors_exit_with_2_and_one_line),
        RUN_TEST(help_is_everywhere_and_goes_to_standard_output),
        RUN_TEST(without_a_broker_the_exit_code_is_3),
        RUN_TEST(a_broker_that_does_not_answer_gives_exit_code_4_at_the_timeout),
        RUN_TEST(status_ls_and_show_say_what_the_broker_holds),
        RUN_TEST(pin_evict_and_verify_do_what_they_say),
        RUN_TEST(a_plan_is_put_by_label_only_when_exactly_one_model_has_it),
        RUN_TEST(doctor_and_version_work_without_a_broker),
    };
    return run_suite("cli", tests, sizeof tests / sizeof tests[0]);
}
