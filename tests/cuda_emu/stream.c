/* Streams and events. Nothing asynchronous happens before somebody waits: operations stay queued until a call synchronises with
 * their stream, and then only that stream runs, in order, with the streams whose events it waits for. So a missing wait always
 * shows: the result is not there. Only non-blocking streams exist; work on the legacy stream would hide such mistakes. */
#include "tests/cuda_emu/internal.h"

#include <stdlib.h>

/* One recording of an event; the operation in the queue, the event and waiting operations hold it. */
struct mark {
    unsigned references;
    int done;
    cudaStream_t stream;
};

struct op {
    struct op *next;
    const char *what;
    void (*run)(void *arg);
    void *arg;
    struct mark *record, *wait;
};

struct CUstream_st {
    cudaStream_t next;
    struct op *head, **tail;
    int device;
};

struct CUevent_st {
    struct mark *mark; /* latest recording, NULL = never recorded, which counts as complete */
};

static cudaStream_t streams;

static void mark_drop(struct mark *m)
{
    if (m != NULL && --m->references == 0)
        free(m);
}

static void run_first(cudaStream_t s);

static void run_until(struct mark *m)
{
    while (!m->done) {
        if (m->stream == NULL || m->stream->head == NULL)
            emu_violation("waits for an event whose stream has nothing left to run");
        run_first(m->stream);
    }
}

static void run_first(cudaStream_t s)
{
    struct op *op = s->head;
    if (op->wait != NULL)
        run_until(op->wait);
    s->head = op->next;
    if (s->head == NULL)
        s->tail = &s->head;
    emu_now.pending--;
    if (op->run != NULL) {
        emu_device_enter(op->what);
        op->run(op->arg);
        emu_device_leave();
    }
    if (op->record != NULL)
        op->record->done = 1;
    mark_drop(op->record);
    mark_drop(op->wait);
    free(op->arg);
    free(op);
}

static void drain(cudaStream_t s)
{
    emu_device_enter("a stream");
    while (s->head != NULL)
        run_first(s);
    emu_device_leave();
}

void emu_drain_all(void)
{
    for (cudaStream_t s = streams; s != NULL; s = s->next)
        drain(s);
}

int emu_stream_ok(cudaStream_t stream)
{
    if (stream == NULL)
        emu_violation("work on the legacy stream");
    for (cudaStream_t s = streams; s != NULL; s = s->next) {
        if (s == stream)
            return s->device == emu_device();
    }
    return 0;
}

static struct op *push(cudaStream_t s)
{
    struct op *op = calloc(1, sizeof *op);
    if (op == NULL)
        return NULL;
    *s->tail = op;
    s->tail = &op->next;
    emu_now.pending++;
    return op;
}

int emu_enqueue(cudaStream_t stream, const char *what, void (*run)(void *arg), void *arg)
{
    if (!emu_stream_ok(stream))
        return cudaErrorInvalidResourceHandle;
    struct op *op = push(stream);
    if (op == NULL)
        return cudaErrorMemoryAllocation;
    op->what = what;
    op->run = run;
    op->arg = arg;
    return 0;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
    int code = emu_begin("cudaStreamCreateWithFlags", EMU_NEED_CONTEXT);
    if (code == 0 && flags != cudaStreamNonBlocking)
        emu_violation("a stream that synchronises with the legacy stream");
    cudaStream_t s = code == 0 ? calloc(1, sizeof *s) : NULL;
    if (s != NULL) {
        s->tail = &s->head;
        s->device = emu_device();
        s->next = streams;
        streams = s;
        emu_now.streams++;
        *pStream = s;
    }
    return emu_end(code == 0 && s == NULL ? cudaErrorMemoryAllocation : code);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    int code = emu_begin("cudaStreamDestroy", EMU_NEED_CONTEXT);
    if (code == 0 && !emu_stream_ok(stream))
        code = cudaErrorInvalidResourceHandle;
    if (code != 0)
        return emu_end(code);
    drain(stream);
    for (cudaStream_t *at = &streams; *at != NULL; at = &(*at)->next) {
        if (*at == stream) {
            *at = stream->next;
            break;
        }
    }
    emu_now.streams--;
    free(stream);
    return emu_end(0);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    int code = emu_begin("cudaStreamSynchronize", EMU_NEED_CONTEXT);
    if (code == 0 && !emu_stream_ok(stream))
        code = cudaErrorInvalidResourceHandle;
    if (code == 0)
        drain(stream);
    return emu_end(code);
}

/* Asking lets one operation run, so that polling ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    int code = emu_begin("cudaStreamQuery", EMU_NEED_CONTEXT);
    if (code == 0 && !emu_stream_ok(stream))
        code = cudaErrorInvalidResourceHandle;
    if (code == 0 && stream->head != NULL) {
        run_first(stream);
        code = cudaErrorNotReady;
    }
    return emu_end(code);
}

cudaError_t cudaDeviceSynchronize(void)
{
    int code = emu_begin("cudaDeviceSynchronize", EMU_NEED_CONTEXT);
    if (code == 0)
        emu_drain_all();
    return emu_end(code);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    int code = emu_begin("cudaStreamWaitEvent", EMU_NEED_CONTEXT);
    if (code == 0 && (flags != 0 || event == NULL || !emu_stream_ok(stream)))
        code = cudaErrorInvalidResourceHandle;
    if (code == 0 && event->mark != NULL) {
        struct op *op = push(stream);
        if (op == NULL)
            return emu_end(cudaErrorMemoryAllocation);
        op->wait = event->mark;
        op->wait->references++;
    }
    return emu_end(code);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    int code = emu_begin("cudaEventCreateWithFlags", EMU_NEED_CONTEXT);
    if (code == 0 && flags != cudaEventDisableTiming)
        code = cudaErrorNotSupported; /* no timing on an emulator */
    if (code == 0) {
        *event = calloc(1, sizeof **event);
        code = *event == NULL ? cudaErrorMemoryAllocation : 0;
        emu_now.events += code == 0;
    }
    return emu_end(code);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    int code = emu_begin("cudaEventDestroy", EMU_NEED_CONTEXT);
    if (code == 0 && event == NULL)
        code = cudaErrorInvalidResourceHandle;
    if (code == 0) {
        mark_drop(event->mark);
        free(event);
        emu_now.events--;
    }
    return emu_end(code);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    int code = emu_begin("cudaEventRecord", EMU_NEED_CONTEXT);
    if (code == 0 && (event == NULL || !emu_stream_ok(stream)))
        code = cudaErrorInvalidResourceHandle;
    struct mark *m = code == 0 ? calloc(1, sizeof *m) : NULL;
    struct op *op = m != NULL ? push(stream) : NULL;
    if (code == 0 && op == NULL) {
        free(m);
        return emu_end(cudaErrorMemoryAllocation);
    }
    if (op != NULL) {
        *m = (struct mark){ .references = 2, .stream = stream };
        op->record = m;
        mark_drop(event->mark);
        event->mark = m;
    }
    return emu_end(code);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    int code = emu_begin("cudaEventQuery", EMU_NEED_CONTEXT);
    if (code == 0 && event->mark != NULL && !event->mark->done) {
        run_first(event->mark->stream);
        code = cudaErrorNotReady;
    }
    return emu_end(code);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    int code = emu_begin("cudaEventSynchronize", EMU_NEED_CONTEXT);
    if (code == 0 && event->mark != NULL)
        run_until(event->mark);
    return emu_end(code);
}
