/* SPDX-License-Identifier: MIT
 *
 * The device heap and shared memory.
 *
 * An allocation of the device ends at a guard page, is filled with 0xff (NaN) and belongs to the
 * device alone: the host cannot touch it except through a copy, and a kernel only what it was
 * given a pointer to.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "runtime.h"
#include "sanitizer.h"

namespace simt {

constexpr size_t PAGE = 4096, ALIGNMENT = 16, PIECE = 1 << 20;
constexpr unsigned char FILL = 0xff;
/* Larger allocations stay accessible unless CA_SIMT_PROTECT is set: protecting them takes time in
 * proportion to their size, at every launch. */
static size_t largest_protected() {
    static const size_t bytes = getenv("CA_SIMT_PROTECT") ? SIZE_MAX : 1 << 20;
    return bytes;
}

/* ---- device heap */

struct allocation {
    char *data;
    size_t bytes;
    char *pages; /* between two guard pages */
    size_t page_bytes;
    mutable int openings;
};

/* By the address behind the last byte. */
static std::map<const char *, allocation> &heap = *new std::map<const char *, allocation>;
static size_t heap_bytes;

static size_t device_bytes() {
    static const size_t total = setting("CA_SIMT_MEMORY", (size_t)16 << 30);
    return total;
}

void device_memory_info(size_t *available, size_t *total) {
    *total = device_bytes();
    *available = *total - heap_bytes;
}

bool report_device_leaks() {
    if (heap.empty()) return false;
    fprintf(stderr, "simt: leak: %zu bytes of device memory in %zu allocations, the first of %zu\n",
            heap_bytes, heap.size(), heap.begin()->second.bytes);
    return true;
}

/* A file of PIECE bytes that are FILL; -1 where there can be none, as below a limit on files. */
static int filled_file() {
    const std::vector<unsigned char> piece(PIECE, FILL);
    int file = memfd_create("filled", MFD_CLOEXEC);
    if (file < 0 || write(file, piece.data(), PIECE) == (ssize_t)PIECE) return file;
    close(file);
    return -1;
}

/* Large memory is one file again and again, privately, so that it takes time only where it is
 * touched: most of what a small run allocates are workspaces of libraries, which nothing here
 * uses. */
static void fill(char *pages, size_t bytes) {
    static const int file = filled_file();
    for (; bytes >= PIECE; pages += PIECE, bytes -= PIECE) {
        if (mmap(pages, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                 file, 0) == MAP_FAILED)
            break;
    }
    memset(pages, FILL, bytes);
}

void *device_allocate(size_t bytes) {
    size_t total = device_bytes();
    if (bytes > total || heap_bytes > total - bytes) return nullptr;
    size_t page_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    void *mapped = mmap(nullptr, page_bytes + 2 * PAGE, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    allocation a;
    a.bytes = bytes;
    a.pages = static_cast<char *>(mapped) + PAGE;
    a.page_bytes = page_bytes;
    a.data = a.pages + (page_bytes - bytes) / ALIGNMENT * ALIGNMENT;
    mprotect(a.pages, page_bytes, PROT_READ | PROT_WRITE);
    fill(a.pages, page_bytes);
    a.openings = bytes > largest_protected() ? 1 : 0;
    if (a.openings == 0) mprotect(a.pages, page_bytes, PROT_NONE);
    size_t before = (size_t)(a.data - a.pages);
    sanitizer_poison(a.pages, before);
    sanitizer_poison(a.data + bytes, page_bytes - before - bytes);
    heap_bytes += bytes;
    heap[a.data + bytes] = a;
    return a.data;
}

const allocation *device_find(const void *p) {
    auto entry = heap.lower_bound(static_cast<const char *>(p));
    return entry != heap.end() && entry->second.data <= p ? &entry->second : nullptr;
}

size_t device_bytes_from(const void *p) {
    const allocation *a = device_find(p);
    return a ? (size_t)(a->data + a->bytes - static_cast<const char *>(p)) : 0;
}

bool device_distance(const void *p, size_t *behind) {
    const char *at = static_cast<const char *>(p);
    for (const auto &entry : heap) {
        const allocation &a = entry.second;
        if (at < a.data || at >= a.pages + a.page_bytes + PAGE) continue;
        *behind = at < a.data + a.bytes ? 0 : (size_t)(at - a.data - a.bytes);
        return true;
    }
    return false;
}

/* The bytes beside the allocation, in its own pages, are as they were. */
static void check_surroundings(const allocation &a) {
    if (SANITIZER) return;
    for (const char *p = a.pages; p < a.pages + a.page_bytes; p++) {
        if (p == a.data) p += a.bytes;
        if (p < a.pages + a.page_bytes && static_cast<unsigned char>(*p) != FILL)
            die("%s an allocation of %zu bytes was written to",
                p < a.data ? "the place before" : "the place behind", a.bytes);
    }
}

bool device_free(void *p) {
    const allocation *found = device_find(p);
    if (!found || found->data != p) return false;
    allocation a = *found;
    mprotect(a.pages, a.page_bytes, PROT_READ | PROT_WRITE);
    check_surroundings(a);
    sanitizer_unpoison(a.pages, a.page_bytes);
    heap_bytes -= a.bytes;
    heap.erase(a.data + a.bytes);
    munmap(a.pages - PAGE, a.page_bytes + 2 * PAGE);
    return true;
}

opened::opened(std::vector<const void *> pointers) {
    for (const void *p : pointers) {
        const allocation *a = device_find(p);
        if (!a) continue;
        if (a->openings++ == 0) mprotect(a->pages, a->page_bytes, PROT_READ | PROT_WRITE);
        held.push_back(a);
    }
}

opened::~opened() {
    for (const allocation *a : held) {
        if (--a->openings == 0) mprotect(a->pages, a->page_bytes, PROT_NONE);
    }
}

/* ---- shared memory */

struct shared_block {
    const site *where; /* NULL for dynamic memory */
    unsigned char *memory, *data;
    size_t bytes;
};

/* Between the arrays of a plain build; the address sanitizer has its own. */
constexpr size_t ZONE = SANITIZER ? 0 : 64;
constexpr unsigned char ZONE_FILL = 0xfd;
constexpr size_t MOST_SHARED = 64; /* arrays of a block */

static std::vector<shared_block> &shared = *new std::vector<shared_block>;
static std::vector<shared_block> &old_shared = *new std::vector<shared_block>;

static void *new_shared(const site *where, size_t bytes) {
    void *memory;
    if (shared.size() == MOST_SHARED) die("more than %zu shared arrays", MOST_SHARED);
    if (posix_memalign(&memory, ALIGNMENT, bytes + 2 * ZONE) != 0)
        die("no memory for %zu bytes of shared memory", bytes);
    shared_block s;
    s.where = where;
    s.bytes = bytes;
    s.memory = static_cast<unsigned char *>(memory);
    s.data = s.memory + ZONE;
    memset(s.memory, ZONE_FILL, ZONE);
    memset(s.data, FILL, bytes);
    memset(s.data + bytes, ZONE_FILL, ZONE);
    shared.push_back(s);
    size_t total = 0;
    for (const shared_block &each : shared) total += each.bytes;
    if (total > SHARED_BYTES)
        die("%zu bytes of shared memory, a block has %zu", total, SHARED_BYTES);
    release_token(s.memory);
    return s.data;
}

void *shared_array(const site *where, size_t bytes) {
    for (const shared_block &s : shared) {
        if (s.where != where) continue;
        acquire_token(s.memory);
        return s.data;
    }
    return new_shared(where, bytes);
}

void *dynamic_shared() {
    if (shared.empty() || shared[0].where) die("the launch gave no dynamic shared memory");
    acquire_token(shared[0].memory);
    return shared[0].data;
}

void shared_begin_block(size_t dynamic_bytes) {
    shared.reserve(MOST_SHARED);
    if (dynamic_bytes > 0) new_shared(nullptr, dynamic_bytes);
}

static bool filled_with(const unsigned char *p, size_t bytes, unsigned char value) {
    return std::all_of(p, p + bytes, [=](unsigned char c) { return c == value; });
}

void shared_end_block() {
    for (const shared_block &s : shared) {
        if (filled_with(s.memory, ZONE, ZONE_FILL) &&
            filled_with(s.data + s.bytes, ZONE, ZONE_FILL)) {
            old_shared.push_back(s);
            continue;
        }
        if (!s.where) die("dynamic shared memory was written to outside its %zu bytes", s.bytes);
        die_at(s.where, 0, "the shared array declared here was written to outside its %zu bytes",
               s.bytes);
    }
    shared.clear();
    if (!RACE_CHECK) shared_end_grid();
}

/* The race checker would take memory that is used again for the same memory. */
void shared_end_grid() {
    for (const shared_block &s : old_shared) free(s.memory);
    old_shared.clear();
}

} // namespace simt
