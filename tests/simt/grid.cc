/* SPDX-License-Identifier: MIT
 *
 * Runs a grid: its blocks one after another, the threads of a block as fibers that take turns
 * where they wait for each other.
 *
 * A thread runs on a carrier, a fiber that calls thread after thread. Only a thread that waits
 * keeps its carrier, so threads that never wait cost a function call. Under the race checker every
 * thread has a carrier of its own, since it must be a thread to the checker.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fiber.h"
#include "internal.h"
#include "sanitizer.h"

namespace simt {

constexpr int WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP;
constexpr unsigned FULL_WARP = 0xffffffffu;

enum class state : uint8_t { fresh, ready, at_barrier, at_warp_operation, done };

struct cuda_thread {
    thread_index index;
    fiber *carrier;
    state what;
    const site *where;
    /* of the warp operation it waits for */
    warp_operation operation;
    unsigned mask, source;
    uint64_t value; /* given, then received */
};

/* Tokens for the race checker, new ones for each block. Consecutive barriers have different ones:
 * a thread that is past a barrier must not pass on what it does before the next. (Where a part of
 * a warp waits for itself it can, and a race may go unseen.) */
struct order_tokens {
    char barrier[2], warp[MAX_WARPS][2], part_of_warp[MAX_WARPS];
    unsigned barriers, warp_syncs[MAX_WARPS]; /* done so far */
};

const thread_index *current;
uint3 block_index;
dim3 block_shape, grid_shape;

static struct {
    const launch *l; /* NULL when no kernel runs */
    const std::function<void()> *body;
    int threads, running;
    int runnable, done;
    int arrived[MAX_WARPS]; /* threads at a warp operation */
    uint8_t can_run[MAX_THREADS];
    cuda_thread of_block[MAX_THREADS];
    char start, end; /* tokens: the host before and after the grid */
    order_tokens *tokens;
} grid;

/* Carriers. Nothing allocates while a kernel runs under the race checker: it would take what the
 * allocator does for accesses of the kernel. */
static std::vector<fiber *> &idle = *new std::vector<fiber *>;
static std::vector<fiber *> &used_up = *new std::vector<fiber *>;
static std::vector<order_tokens *> &old_tokens = *new std::vector<order_tokens *>;

/* ---- errors */

static void print_place(int t) {
    if (!grid.l) return;
    const uint3 &index = grid.of_block[t].index.thread;
    fprintf(stderr, "%s: block (%u,%u,%u), thread (%u,%u,%u): ", grid.l->kernel, block_index.x,
            block_index.y, block_index.z, index.x, index.y, index.z);
}

[[noreturn]] static void die_with(const char *format, va_list arguments) {
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    fflush(nullptr);
    _exit(70);
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "simt: ");
    print_place(grid.running);
    die_with(format, arguments);
}

void die_at(const site *where, int t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "simt: %s:%d: ", where->file, where->line);
    print_place(t);
    die_with(format, arguments);
}

/* ---- carriers */

static void set_state(int t, state s) {
    bool could = grid.can_run[t], can = s == state::fresh || s == state::ready;
    grid.runnable += can - could;
    grid.can_run[t] = can;
    grid.arrived[t / WARP] +=
        (s == state::at_warp_operation) - (grid.of_block[t].what == state::at_warp_operation);
    grid.of_block[t].what = s;
}

static void make_current(int t) {
    grid.running = t;
    current = &grid.of_block[t].index;
}

static bool all_arrived(int self);

/* All live threads wait. When it is for the same barrier they may go on. */
static void release_barrier() {
    int first = -1, exited = -1;
    for (int t = 0; t < grid.threads; t++) {
        const cuda_thread &it = grid.of_block[t];
        if (it.what == state::at_warp_operation && !all_arrived(t))
            die_at(it.where, t,
                   "a warp operation with mask 0x%08x waits for lanes that wait elsewhere",
                   it.mask);
        if (it.what == state::done)
            exited = t;
        else if (first < 0)
            first = t;
    }
    const site *where = grid.of_block[first].where;
    if (exited >= 0)
        die_at(where, first, "waits at a barrier before which thread %d returned", exited);
    for (int t = 0; t < grid.threads; t++) {
        const cuda_thread &it = grid.of_block[t];
        if (it.where != where)
            die_at(it.where, t, "waits at this barrier, but thread %d at the one in %s:%d", first,
                   where->file, where->line);
        set_state(t, state::ready);
    }
    grid.tokens->barriers++;
}

constexpr int NOBODY = -1;

static int pick_next() {
    if (grid.runnable == 0) {
        if (grid.done == grid.threads) return NOBODY;
        release_barrier();
    }
    return schedule_next(grid.can_run);
}

static void run_carrier();

static fiber *take_carrier() {
    if (idle.empty()) return fiber_create(run_carrier);
    fiber *f = idle.back();
    idle.pop_back();
    return f;
}

/* Leaves the running fiber. */
static void go_on_with(int t) {
    if (t == NOBODY) {
        fiber_switch(fiber_host());
        return;
    }
    make_current(t);
    cuda_thread &next = grid.of_block[t];
    if (next.what == state::fresh) next.carrier = take_carrier();
    fiber_switch(next.carrier);
}

static void run_thread(int t) {
    acquire_token(&grid.start);
    (*grid.body)();
    release_token(&grid.end);
    set_state(t, state::done);
    grid.done++;
}

static void run_carrier() {
    for (;;) {
        fiber *own = grid.of_block[grid.running].carrier;
        run_thread(grid.running);
        int next = pick_next();
        if (!RACE_CHECK && next != NOBODY && grid.of_block[next].what == state::fresh) {
            make_current(next);
            grid.of_block[next].carrier = own;
            continue;
        }
        (RACE_CHECK ? used_up : idle).push_back(own);
        go_on_with(next);
    }
}

/* Lets others run until this thread can go on. */
static void wait() {
    int self = grid.running, next = pick_next();
    if (next != self) go_on_with(next);
}

/* ---- what threads wait for */

void barrier(const site *where) {
    int self = grid.running;
    char *token = &grid.tokens->barrier[grid.tokens->barriers % 2];
    release_token(token);
    grid.of_block[self].where = where;
    set_state(self, state::at_barrier);
    wait();
    acquire_token(token);
}

/* The lanes of `mask` have all arrived: exchange their values. */
static void complete(int first_lane, unsigned mask) {
    cuda_thread *lanes = &grid.of_block[first_lane];
    uint64_t given[WARP];
    unsigned set = 0;
    for (int l = 0; l < WARP; l++) {
        if (!(mask >> l & 1)) continue;
        given[l] = lanes[l].value;
        set |= (unsigned)(given[l] != 0) << l;
    }
    for (int l = 0; l < WARP; l++) {
        if (!(mask >> l & 1)) continue;
        cuda_thread &it = lanes[l];
        switch (it.operation) {
        case warp_operation::shuffle:
            if (it.source >= WARP || !(mask >> it.source & 1))
                die_at(it.where, first_lane + l, "reads lane %u, which is not in the mask 0x%08x",
                       it.source, mask);
            it.value = given[it.source];
            break;
        case warp_operation::any:
            it.value = set != 0;
            break;
        case warp_operation::all:
            it.value = set == mask;
            break;
        case warp_operation::ballot:
        case warp_operation::sync:
            it.value = set;
            break;
        }
        set_state(first_lane + l, state::ready);
    }
    if (mask == FULL_WARP && lanes->operation == warp_operation::sync)
        grid.tokens->warp_syncs[first_lane / WARP]++;
}

/* Whether all lanes that lane `self` waits for are there. */
static bool all_arrived(int self) {
    const cuda_thread &own = grid.of_block[self];
    int first = self / WARP * WARP;
    for (int l = 0; l < WARP; l++) {
        if (!(own.mask >> l & 1)) continue;
        int t = first + l;
        if (t >= grid.threads)
            die_at(own.where, self, "mask 0x%08x names lane %d, which the block does not have",
                   own.mask, l);
        const cuda_thread &other = grid.of_block[t];
        if (other.what == state::done)
            die_at(own.where, self, "mask 0x%08x names lane %d, which has returned", own.mask, l);
        if (other.what != state::at_warp_operation) return false;
        if (other.where != own.where || other.mask != own.mask)
            die_at(own.where, self,
                   "mask 0x%08x names lane %d, which waits at %s:%d with mask 0x%08x", own.mask, l,
                   other.where->file, other.where->line, other.mask);
    }
    return true;
}

static char *warp_token(int warp, unsigned mask) {
    order_tokens *t = grid.tokens;
    if (mask != FULL_WARP) return &t->part_of_warp[warp];
    return &t->warp[warp][t->warp_syncs[warp] % 2];
}

uint64_t exchange(const site *where, warp_operation operation, unsigned mask, uint64_t value,
                  unsigned source) {
    int self = grid.running;
    cuda_thread &own = grid.of_block[self];
    own.where = where;
    own.operation = operation;
    own.mask = mask;
    own.source = source;
    own.value = value;
    if (!(mask >> own.index.lane & 1))
        die_at(where, self, "the calling lane %u is not in its own mask 0x%08x", own.index.lane,
               mask);
    /* Of the warp operations only this one orders memory. */
    char *token = operation == warp_operation::sync ? warp_token(self / WARP, mask) : nullptr;
    if (token) release_token(token);
    set_state(self, state::at_warp_operation);
    /* Counted first: who looks at all lanes on every arrival spends most of the time with it. What
     * never becomes complete is told when nobody can go on. */
    if (grid.arrived[self / WARP] >= __builtin_popcount(mask) && all_arrived(self))
        complete(self / WARP * WARP, mask);
    wait();
    if (token) acquire_token(token);
    return own.value;
}

/* ---- blocks */

/* To the race checker, everything done so far happens before everything that follows. */
static void order_past_and_future() {
    acquire_token(&grid.end);
    for (fiber *f : used_up) idle.push_back(f);
    for (order_tokens *tokens : old_tokens) delete tokens;
    used_up.clear();
    old_tokens.clear();
    release_token(&grid.start);
}

/* Carriers are used once in a grid: what two CUDA threads do on one carrier would be in order. The
 * checker numbers 8128 threads and every wait takes it time in proportion to their number, so a
 * grid of more than `most` is checked in parts. */
static void begin_block_of_race_check() {
    const size_t most = 2048;
    if (used_up.size() + (size_t)grid.threads > most) order_past_and_future();
    while (idle.size() < (size_t)grid.threads) idle.push_back(fiber_create(run_carrier));
    used_up.reserve(most);
    grid.tokens = new order_tokens();
    old_tokens.push_back(grid.tokens);
}

static void begin_block(size_t number) {
    const launch &l = *grid.l;
    block_index.x = (unsigned)(number % l.grid.x);
    block_index.y = (unsigned)(number / l.grid.x % l.grid.y);
    block_index.z = (unsigned)(number / l.grid.x / l.grid.y);
    shared_begin_block(l.shared_bytes);
    schedule_begin_block(grid.threads);
    for (int t = 0; t < grid.threads; t++) set_state(t, state::fresh);
    grid.done = 0;
    static order_tokens unchecked;
    unchecked = {};
    grid.tokens = &unchecked;
    if (RACE_CHECK) begin_block_of_race_check();
}

static void number_threads(dim3 shape) {
    for (int i = 0; i < grid.threads; i++) {
        unsigned t = (unsigned)i;
        thread_index &index = grid.of_block[i].index;
        index.thread.x = t % shape.x;
        index.thread.y = t / shape.x % shape.y;
        index.thread.z = t / shape.x / shape.y;
        index.lane = t % WARP;
    }
}

void run_grid(const launch &l, const std::function<void()> &body) {
    static std::vector<size_t> order;
    grid.l = &l;
    grid.body = &body;
    grid.threads = (int)(l.block.x * l.block.y * l.block.z);
    grid_shape = l.grid;
    block_shape = l.block;
    number_threads(l.block);
    order.resize((size_t)l.grid.x * l.grid.y * l.grid.z);
    schedule_blocks(order);
    fiber_announce_host();
    release_token(&grid.start);
    for (size_t number : order) {
        begin_block(number);
        go_on_with(pick_next());
        shared_end_block();
    }
    order_past_and_future();
    shared_end_grid();
    grid.l = nullptr;
}

} // namespace simt
