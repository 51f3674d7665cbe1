/* SPDX-License-Identifier: MIT
 *
 * In which order blocks and threads run. CUDA promises none, so results may not depend on it.
 *
 * CA_SIMT_SCHEDULE:
 *   seq        blocks and threads in rising order; each thread runs until it waits
 *   reverse    both in falling order
 *   random:N   blocks and each pass over the threads in a random order; N is the seed
 *   greedy:N   one warp runs until all its threads wait for the block, then another, picked at
 *              random: a warp gets as far ahead of the others as barriers let it
 */
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "internal.h"

namespace simt {

enum class kind { seq, reverse, random, greedy };

constexpr int WARP = 32;

static struct {
    bool known;
    kind how;
    random_sequence random;
    int threads;
    std::vector<int> order;      /* of the threads of a block */
    size_t position, first, end; /* of the current pass, in `order` */
} schedule;

/* SplitMix64: Steele, Lea, Flood 2014. */
uint64_t random_sequence::below(uint64_t limit) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % limit;
}

template <typename T> static void shuffle_order(std::vector<T> &order) {
    for (size_t i = order.size(); i > 1; i--)
        std::swap(order[i - 1], order[schedule.random.below(i)]);
}

static void read_environment() {
    if (schedule.known) return;
    schedule.known = true;
    const char *text = getenv("CA_SIMT_SCHEDULE");
    if (!text) text = "seq";
    const char *seed = strchr(text, ':');
    size_t length = seed ? (size_t)(seed - text) : strlen(text);
    schedule.random.state = seed ? strtoull(seed + 1, nullptr, 10) : 1;
    static const struct {
        const char *name;
        kind how;
    } names[] = {{"seq", kind::seq},
                 {"reverse", kind::reverse},
                 {"random", kind::random},
                 {"greedy", kind::greedy}};
    for (const auto &row : names) {
        if (strlen(row.name) == length && strncmp(row.name, text, length) == 0) {
            schedule.how = row.how;
            return;
        }
    }
    die("CA_SIMT_SCHEDULE: expected seq, reverse, random:N or greedy:N, got '%s'", text);
}

void schedule_blocks(std::vector<size_t> &order) {
    read_environment();
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    if (schedule.how == kind::reverse) std::reverse(order.begin(), order.end());
    if (schedule.how == kind::random || schedule.how == kind::greedy) shuffle_order(order);
}

void schedule_begin_block(int threads) {
    read_environment();
    if (schedule.threads != threads) {
        schedule.threads = threads;
        schedule.order.resize((size_t)threads);
        for (int i = 0; i < threads; i++) schedule.order[(size_t)i] = i;
        if (schedule.how == kind::reverse)
            std::reverse(schedule.order.begin(), schedule.order.end());
    }
    schedule.first = schedule.position = 0;
    schedule.end = schedule.how == kind::greedy ? 0 : (size_t)threads;
    if (schedule.how == kind::random) shuffle_order(schedule.order);
}

static bool any_can_run(const uint8_t *can_run, size_t first, size_t end) {
    return std::any_of(can_run + first, can_run + end, [](uint8_t c) { return c != 0; });
}

/* The same warp as long as one of its threads can run, else another one. */
static void pick_warp(const uint8_t *can_run) {
    size_t threads = (size_t)schedule.threads, warps = (threads + WARP - 1) / WARP;
    size_t warp = schedule.first / WARP;
    if (!any_can_run(can_run, schedule.first, schedule.end)) {
        warp = schedule.random.below(warps);
        while (!any_can_run(can_run, warp * WARP, std::min(threads, (warp + 1) * WARP)))
            warp = (warp + 1) % warps;
    }
    schedule.first = warp * WARP;
    schedule.end = std::min(threads, schedule.first + WARP);
}

int schedule_next(const uint8_t *can_run) {
    for (;;) {
        while (schedule.position < schedule.end) {
            int thread = schedule.order[schedule.position++];
            if (can_run[thread]) return thread;
        }
        if (schedule.how == kind::random) shuffle_order(schedule.order);
        if (schedule.how == kind::greedy) pick_warp(can_run);
        schedule.position = schedule.first;
    }
}

} // namespace simt
