/* tools/worker/requests: lines of a descriptor are taken one by one, those behind them are counted, and a broken one costs itself only. */
#include "tests/support/run.h"

#include "tools/worker/requests.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct scene {
    int to; /* where a caller writes */
    struct crn_request_stream stream;
};

static void scene_open(struct scene *s)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    s->to = ends[1];
    s->stream = (struct crn_request_stream){.fd = ends[0]};
}

static void hang_up(struct scene *s)
{
    if (s->to >= 0)
        close(s->to);
    s->to = -1;
}

static void scene_close(struct scene *s)
{
    hang_up(s);
    close(s->stream.fd);
    crn_request_stream_free(&s->stream);
}

static void say(const struct scene *s, const char *text)
{
    ck_assert_int_eq(write(s->to, text, strlen(text)), (ssize_t)strlen(text));
}

static void expect(struct scene *s, const char *question)
{
    struct crn_request r;
    ck_assert_int_eq(crn_request_next(&s->stream, &r), 1);
    ck_assert_ptr_null(r.error);
    ck_assert_str_eq(r.question, question);
    crn_request_free(&r);
}

#define LINE(q) "{\"context\": \"c\", \"question\": \"" q "\"}\n"

START_TEST(lines_that_came_in_one_piece_are_taken_one_by_one_and_counted)
{
    struct scene s;
    struct crn_request r;
    scene_open(&s);
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 0);
    say(&s, LINE("a") "\n  \t\n" LINE("b") LINE("c"));
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 3);
    expect(&s, "a");
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 2);
    expect(&s, "b");
    say(&s, LINE("d"));
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 2);
    expect(&s, "c");
    expect(&s, "d");
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 0);
    hang_up(&s);
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 0);
    ck_assert_int_eq(crn_request_next(&s.stream, &r), 0);
    ck_assert_int_eq(crn_request_next(&s.stream, &r), 0);
    scene_close(&s);
}
END_TEST

/* Whoever has begun to ask waits already: long contexts come in many pieces. */
START_TEST(a_line_that_has_begun_counts_and_may_end_with_the_input)
{
    struct scene s;
    scene_open(&s);
    say(&s, LINE("a") "{\"context\": \"c\", ");
    expect(&s, "a");
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 1);
    say(&s, "\"question\": \"b\"}");
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 1);
    hang_up(&s);
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 1);
    expect(&s, "b");
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 0);
    scene_close(&s);
}
END_TEST

START_TEST(a_broken_line_costs_itself_and_names_its_number)
{
    struct scene s;
    struct crn_request r;
    scene_open(&s);
    say(&s, LINE("a") "\n{\"context\": \n" LINE("b"));
    expect(&s, "a");
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 2);
    ck_assert_int_eq(crn_request_next(&s.stream, &r), 1);
    ck_assert_ptr_nonnull(r.error);
    ck_assert_msg(strstr(r.error, "line 3") != NULL, "%s", r.error);
    crn_request_free(&r);
    expect(&s, "b");
    scene_close(&s);
}
END_TEST

/* A line with a context of n characters, and one after it, from another process: more than a pipe holds. */
static pid_t write_long(struct scene *s, size_t n)
{
    pid_t writer = fork();
    ck_assert_int_ge(writer, 0);
    if (writer == 0) {
        FILE *to = fdopen(s->to, "w");
        fputs("{\"question\": \"q\", \"context\": \"", to);
        for (size_t i = 0; i < n; i++)
            fputc((int)('a' + i % 26), to);
        fputs("\"}\n" LINE("after"), to);
        fclose(to);
        _exit(0);
    }
    hang_up(s);
    return writer;
}

/* Nothing more comes, and the writer is done. */
static void expect_end(struct scene *s, pid_t writer)
{
    struct crn_request r;
    ck_assert_int_eq(crn_request_next(&s->stream, &r), 0);
    ck_assert_int_eq(waitpid(writer, NULL, 0), writer);
    scene_close(s);
}

START_TEST(a_long_line_is_taken_whole)
{
    enum { LONG = 1 << 20 };
    struct scene s;
    struct crn_request r;
    scene_open(&s);
    pid_t writer = write_long(&s, LONG);
    ck_assert_int_eq(crn_request_next(&s.stream, &r), 1);
    ck_assert_ptr_null(r.error);
    ck_assert_uint_eq(r.context_bytes, LONG);
    ck_assert_int_eq(r.context[LONG - 1], 'a' + (LONG - 1) % 26);
    crn_request_free(&r);
    expect(&s, "after");
    expect_end(&s, writer);
}
END_TEST

START_TEST(a_line_that_is_too_long_costs_itself)
{
    struct scene s;
    struct crn_request r;
    scene_open(&s);
    pid_t writer = write_long(&s, (64u << 20) + 100);
    ck_assert_int_eq(crn_request_next(&s.stream, &r), 1);
    ck_assert_ptr_nonnull(r.error);
    ck_assert_msg(strstr(r.error, "line 1: longer than") != NULL, "%s", r.error);
    crn_request_free(&r);
    expect(&s, "after");
    expect_end(&s, writer);
}
END_TEST

START_TEST(a_descriptor_that_does_not_wait_is_waited_for)
{
    struct scene s;
    scene_open(&s);
    ck_assert_int_eq(fcntl(s.stream.fd, F_SETFL, O_NONBLOCK), 0);
    ck_assert_uint_eq(crn_requests_waiting(&s.stream), 0);
    pid_t writer = fork();
    ck_assert_int_ge(writer, 0);
    if (writer == 0) {
        usleep(50000);
        say(&s, LINE("late"));
        _exit(0);
    }
    hang_up(&s);
    expect(&s, "late");
    expect_end(&s, writer);
}
END_TEST

START_TEST(a_descriptor_that_cannot_be_read_is_an_error)
{
    struct scene s;
    struct crn_request r;
    scene_open(&s);
    close(s.stream.fd);
    s.stream.fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_eq(crn_request_next(&s.stream, &r), -EISDIR);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(lines_that_came_in_one_piece_are_taken_one_by_one_and_counted),
        RUN_TEST(a_line_that_has_begun_counts_and_may_end_with_the_input),
        RUN_TEST(a_broken_line_costs_itself_and_names_its_number),
        RUN_TEST(a_long_line_is_taken_whole),
        RUN_TEST(a_line_that_is_too_long_costs_itself),
        RUN_TEST(a_descriptor_that_does_not_wait_is_waited_for),
        RUN_TEST(a_descriptor_that_cannot_be_read_is_an_error),
    };
    return run_suite("worker_requests", tests, sizeof tests / sizeof *tests);
}
