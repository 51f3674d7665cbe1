/* SPDX-License-Identifier: MIT
 *
 * Streams and events.
 *
 * CA_SIMT_STREAMS:
 *   eager    work is done when it is enqueued
 *   lazy:N   work is done when something waits for it, and no more of it than that; where the order
 *            of streams is free it is random, with seed N. A missing wait then shows.
 *
 * Work of a stream is numbered; an event is a number, and so is what one stream waits for in
 * another. The default stream and streams that are not cudaStreamNonBlocking wait for each other.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <deque>

#include "runtime.h"

using namespace simt;

/* Waits for the first `count` pieces of work of stream `after`, then does `work`. */
struct task {
    CUstream_st *after;
    uint64_t count;
    std::function<void()> work;
};

struct CUstream_st {
    bool blocking, alive;
    uint64_t enqueued, done;
    std::deque<task> tasks;
};

struct CUevent_st {
    bool alive, timing;
    CUstream_st *stream; /* NULL until it is recorded */
    uint64_t count;
    double seconds; /* when the device came to it */
};

namespace simt {

static CUstream_st &legacy = *new CUstream_st{true, true, 0, 0, {}};
/* Never freed, so that a handle that was destroyed is known as such. */
static std::vector<CUstream_st *> &streams = *new std::vector<CUstream_st *>{&legacy};
static std::vector<CUevent_st *> &events = *new std::vector<CUevent_st *>;
static random_sequence order;

static bool is_lazy() {
    static const char *text;
    if (text) return strcmp(text, "eager") != 0;
    text = getenv("CA_SIMT_STREAMS");
    if (!text) text = "eager";
    if (strcmp(text, "eager") != 0 && strncmp(text, "lazy", 4) != 0)
        die("CA_SIMT_STREAMS: expected eager or lazy:N, got '%s'", text);
    order.state = text[0] == 'l' && text[4] == ':' ? strtoull(text + 5, nullptr, 10) : 1;
    return strcmp(text, "eager") != 0;
}

static CUstream_st *stream_of(cudaStream_t handle) {
    return handle == nullptr || handle == cudaStreamLegacy ? &legacy : handle;
}

bool stream_exists(cudaStream_t handle) {
    const CUstream_st *s = stream_of(handle);
    return std::find(streams.begin(), streams.end(), s) != streams.end() && s->alive;
}

static bool event_exists(cudaEvent_t event) {
    return std::find(events.begin(), events.end(), event) != events.end() && event->alive;
}

static void run_until(CUstream_st *s, uint64_t count) {
    while (s->done < count) {
        task t = std::move(s->tasks.front());
        s->tasks.pop_front();
        if (t.after) run_until(t.after, t.count);
        if (t.work) t.work();
        s->done++;
    }
}

static void enqueue(CUstream_st *s, task t) {
    s->enqueued++;
    s->tasks.push_back(std::move(t));
    if (!is_lazy()) run_until(s, s->enqueued);
}

/* The default stream waits for all blocking streams, and they for it. */
static void wait_for_default_order(CUstream_st *s) {
    if (s != &legacy) {
        if (s->blocking) enqueue(s, {&legacy, legacy.enqueued, nullptr});
        return;
    }
    for (CUstream_st *other : streams)
        if (other != s && other->blocking) enqueue(s, {other, other->enqueued, nullptr});
}

void stream_enqueue(cudaStream_t handle, std::function<void()> work) {
    CUstream_st *s = stream_of(handle);
    wait_for_default_order(s);
    enqueue(s, {nullptr, 0, std::move(work)});
}

void stream_finish(cudaStream_t handle) {
    CUstream_st *s = stream_of(handle);
    run_until(s, s->enqueued);
}

/* One piece of work after the other, each time of any stream that has some. */
void finish_all_streams() {
    for (;;) {
        std::vector<CUstream_st *> busy;
        for (CUstream_st *s : streams)
            if (s->done < s->enqueued) busy.push_back(s);
        if (busy.empty()) return;
        CUstream_st *s = busy[order.below(busy.size())];
        run_until(s, s->done + 1);
    }
}

/* A poll finds no more done than it must, but each makes some progress. */
static cudaError_t poll(CUstream_st *s, uint64_t count) {
    if (s->done >= count) return cudaSuccess;
    run_until(s, s->done + 1);
    return cudaErrorNotReady;
}

static double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

} // namespace simt

/* ---- streams */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return call([&] {
        if (!stream || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
        *stream = new CUstream_st{flags != cudaStreamNonBlocking, true, 0, 0, {}};
        streams.push_back(*stream);
        count_resource(resource::stream, 1);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

/* What it still holds is done nevertheless, as on the device. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return release_call([&] {
        if (!stream || !stream_exists(stream)) return cudaErrorInvalidResourceHandle;
        stream->alive = false;
        count_resource(resource::stream, -1);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return call([&] {
        if (!stream_exists(stream)) return cudaErrorInvalidResourceHandle;
        stream_finish(stream);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return call([&] {
        if (!stream_exists(stream)) return cudaErrorInvalidResourceHandle;
        CUstream_st *s = stream_of(stream);
        return poll(s, s->enqueued);
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return call([&] {
        if (!stream_exists(stream) || !event_exists(event)) return cudaErrorInvalidResourceHandle;
        if (flags != cudaEventWaitDefault) return cudaErrorInvalidValue;
        if (event->stream) enqueue(stream_of(stream), {event->stream, event->count, nullptr});
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSynchronize(void) {
    return call([] {
        finish_all_streams();
        return cudaSuccess;
    });
}

/* ---- events */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    return call([&] {
        if (!event || flags & ~(unsigned)(cudaEventBlockingSync | cudaEventDisableTiming))
            return cudaErrorInvalidValue;
        *event = new CUevent_st{true, (flags & cudaEventDisableTiming) == 0, nullptr, 0, 0};
        events.push_back(*event);
        count_resource(resource::event, 1);
        return cudaSuccess;
    });
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return release_call([&] {
        if (!event_exists(event)) return cudaErrorInvalidResourceHandle;
        event->alive = false;
        count_resource(resource::event, -1);
        return cudaSuccess;
    });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return call([&] {
        if (!stream_exists(stream) || !event_exists(event)) return cudaErrorInvalidResourceHandle;
        CUstream_st *s = stream_of(stream);
        wait_for_default_order(s);
        event->stream = s;
        event->count = s->enqueued + 1;
        enqueue(s, {nullptr, 0, [event] { event->seconds = now(); }});
        return cudaSuccess;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return call([&] {
        if (!event_exists(event)) return cudaErrorInvalidResourceHandle;
        if (event->stream) run_until(event->stream, event->count);
        return cudaSuccess;
    });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    return call([&] {
        if (!event_exists(event)) return cudaErrorInvalidResourceHandle;
        return event->stream ? poll(event->stream, event->count) : cudaSuccess;
    });
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    return call([&] {
        if (!event_exists(start) || !event_exists(end) || !start->stream || !end->stream)
            return cudaErrorInvalidResourceHandle;
        if (!ms || !start->timing || !end->timing) return cudaErrorInvalidResourceHandle;
        if (start->stream->done < start->count || end->stream->done < end->count)
            return cudaErrorNotReady;
        *ms = (float)(1e3 * (end->seconds - start->seconds));
        return cudaSuccess;
    });
}
