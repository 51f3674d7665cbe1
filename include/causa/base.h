/* SPDX-License-Identifier: MIT
 *
 * Status codes, error text, logging, progress, memory arenas, strings, files,
 * checked sizes, clocks, digests and counter-based random numbers.
 * Everything else in the project may include this file; it includes nothing of ours.
 */
#ifndef CAUSA_BASE_H
#define CAUSA_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- status ------------------------------------------------------------------------------ */

/* X(name, exit code of the program, short text) */
#define CA_STATUS_LIST(X)                                                                          \
    X(CA_OK, 0, "ok")                                                                              \
    X(CA_E_FAILED, 1, "run failed")                                                                \
    X(CA_E_IO, 1, "input or output failed")                                                        \
    X(CA_E_SHAPE, 1, "shapes or types do not fit")                                                 \
    X(CA_E_BACKEND, 3, "backend cannot do this")                                                   \
    X(CA_E_USAGE, 2, "wrong usage")                                                                \
    X(CA_E_CONFIG, 2, "configuration is invalid")                                                  \
    X(CA_E_DATA, 3, "data is invalid")                                                             \
    X(CA_E_MODEL, 3, "model is invalid")                                                           \
    X(CA_E_NUMERIC, 4, "numbers are not finite or differ")                                         \
    X(CA_E_MEMORY, 5, "out of memory")                                                             \
    X(CA_E_POINTS, 6, "some sweep points failed")                                                  \
    X(CA_E_PREEMPTED, 75, "stopped on request; checkpoint written")                                \
    X(CA_E_INTERRUPT, 130, "interrupted")                                                          \
    X(CA_E_TERMINATED, 143, "terminated")

typedef enum ca_status {
#define CA_STATUS_ENUM(name, code, text) name,
    CA_STATUS_LIST(CA_STATUS_ENUM)
#undef CA_STATUS_ENUM
} ca_status;

#define CA_MUST_USE __attribute__((warn_unused_result))
#define CA_PRINTF(text, first) __attribute__((format(printf, text, first)))

int ca_status_exit_code(ca_status st);
const char *ca_status_text(ca_status st);

/* Stores one line of error text for this thread and returns st. The text says where, what was
 * expected and what came: "model.safetensors: tensor 'wte.weight': expected shape [50257, 768],
 * got [768, 50257]". No final newline, no "error:" prefix. */
ca_status ca_fail(ca_status st, const char *format, ...) CA_PRINTF(2, 3);

/* Puts "context: " before the stored text (never replaces it) and returns st. */
ca_status ca_context(ca_status st, const char *format, ...) CA_PRINTF(2, 3);

/* A likely cure, printed as a second line below the error. Replaces an earlier hint. */
void ca_hint(const char *format, ...) CA_PRINTF(1, 2);

const char *ca_error_text(void); /* "" when nothing failed on this thread */
const char *ca_error_hint(void); /* "" when there is no hint */
void ca_error_clear(void);

/* Runs an expression of type ca_status; on failure jumps to `out:` with `st` set. */
#define CA_TRY(expression)                                                                         \
    do {                                                                                           \
        st = (expression);                                                                         \
        if (st != CA_OK) goto out;                                                                 \
    } while (0)

/* ---- memory ------------------------------------------------------------------------------ */

/* Zeroed memory or CA_E_MEMORY with the size in the text. count * size is overflow-checked. */
ca_status ca_calloc(size_t count, size_t size, void *out /* void ** */) CA_MUST_USE;
/* Grows *array (a void **) to hold at least `needed` elements; doubles; new part not zeroed. */
ca_status ca_grow(void *array, int64_t *capacity, int64_t needed, size_t size) CA_MUST_USE;

bool ca_mul_size(size_t a, size_t b, size_t *product); /* false on overflow */
bool ca_add_size(size_t a, size_t b, size_t *sum);

/* Region allocator for many small host objects with one lifetime. */
typedef struct ca_arena ca_arena;
ca_status ca_arena_create(ca_arena **out) CA_MUST_USE;
void ca_arena_destroy(ca_arena *arena);
ca_status ca_arena_alloc(ca_arena *arena, size_t bytes, void *out /* void **, zeroed, 16-aligned */) CA_MUST_USE;
ca_status ca_arena_strdup(ca_arena *arena, const char *text, size_t length, char **out) CA_MUST_USE;
ca_status ca_arena_printf(ca_arena *arena, char **out, const char *format, ...) CA_PRINTF(3, 4) CA_MUST_USE;

/* Growing text. A zeroed struct is an empty string; text is always NUL-terminated once written. */
typedef struct ca_string {
    char *text;
    size_t length, capacity;
} ca_string;
ca_status ca_string_append(ca_string *s, const char *bytes, size_t count) CA_MUST_USE;
ca_status ca_string_printf(ca_string *s, const char *format, ...) CA_PRINTF(2, 3) CA_MUST_USE;
void ca_string_free(ca_string *s);

/* "1.5 GiB" into `text`, which is returned. */
const char *ca_bytes_text(int64_t bytes, char text[32]);

/* Levenshtein distance; used for "did you mean" hints. */
int ca_edit_distance(const char *a, const char *b);
/* The nearest of `names` to `word` when it is near enough to be a typing error, else NULL. */
const char *ca_nearest_name(const char *word, const char *const *names, int64_t count);

/* First byte offset at which `bytes` is not well-formed UTF-8, or -1 when it is. */
int64_t ca_utf8_invalid(const char *bytes, size_t count);

/* ---- files ------------------------------------------------------------------------------- */

typedef struct ca_file_map { /* read-only view of a whole file */
    const unsigned char *data;
    size_t size;
} ca_file_map;
ca_status ca_file_map_open(const char *path, ca_file_map *out) CA_MUST_USE;
void ca_file_map_close(ca_file_map *map);
/* Gives the memory of pages that were read back to the system; they are read again when needed. */
void ca_file_map_forget(const ca_file_map *map);
/* Whole file as NUL-terminated text owned by the caller. */
ca_status ca_file_read(const char *path, char **text, size_t *size) CA_MUST_USE;
bool ca_file_exists(const char *path);
bool ca_is_directory(const char *path);
/* "dir/name" owned by the caller. */
ca_status ca_path_join(const char *directory, const char *name, char **out) CA_MUST_USE;
/* Creates a directory and its parents. */
ca_status ca_make_directories(const char *path) CA_MUST_USE;

/* SHA-256 as lower-case hex, as `sha256sum` prints it. */
typedef struct ca_sha256 ca_sha256;
ca_status ca_sha256_create(ca_sha256 **out) CA_MUST_USE;
void ca_sha256_add(ca_sha256 *digest, const void *bytes, size_t count);
void ca_sha256_finish(ca_sha256 *digest, char hex[65]); /* also destroys */

/* ---- log, progress, clocks --------------------------------------------------------------- */

typedef enum ca_log_level { CA_LOG_ERROR, CA_LOG_WARNING, CA_LOG_INFO, CA_LOG_DEBUG } ca_log_level;

/* Lines go to stderr up to `level` (stdout stays for reports) and, when opened, to a JSONL file
 * with the fields time, level, rank, message. Only rank 0 prints to stderr below CA_LOG_ERROR. */
void ca_log_set_level(ca_log_level level);
void ca_log_set_rank(int rank);
ca_status ca_log_open(const char *jsonl_path) CA_MUST_USE;
void ca_log_close(void);
void ca_log(ca_log_level level, const char *format, ...) CA_PRINTF(2, 3);
/* Called for every line that is logged, e.g. to keep it for the result file. NULL removes it. */
typedef void (*ca_log_sink)(void *context, double unix_time, ca_log_level level, const char *message);
void ca_log_set_sink(ca_log_sink sink, void *context);

/* One line in tqdm's shape on a terminal, one line every 10 s elsewhere; silent at -q. */
typedef struct ca_progress {
    const char *task;
    const char *unit; /* "prompt", "step" */
    int64_t total, done;
    double started, printed;
    bool terminal;
} ca_progress;
void ca_progress_start(ca_progress *p, const char *task, const char *unit, int64_t total);
void ca_progress_add(ca_progress *p, int64_t count);
void ca_progress_finish(ca_progress *p);

double ca_seconds(void);          /* monotonic */
int64_t ca_peak_host_bytes(void); /* peak resident set of this process */
int64_t ca_host_bytes(void);      /* resident set now */
/* Gives what was freed back to the system, where the C library would keep it in pieces that the next
 * large block does not fit into. Takes milliseconds: for the end of a job, not for loops. */
void ca_give_back_memory(void);

/* From here on SIGTERM and SIGUSR1 (stop at the next step, write a checkpoint) and SIGINT only set
 * what ca_signal_received gives; a second SIGINT ends the process. Call before any other thread is
 * started: later threads inherit that these signals are blocked. Files that grow beyond a limit
 * become an error of write instead of SIGXFSZ. */
void ca_signals_install(void);
/* The first signal received, 0 = none. */
int ca_signal_received(void);
/* CA_OK, or the status with which a run that noticed the signal ends. */
ca_status ca_signal_status(void) CA_MUST_USE;

/* ---- random numbers ---------------------------------------------------------------------- */

/* Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 * A value depends on (seed, stream, index) only, never on who draws it or in which order. */
typedef struct ca_philox_key {
    uint64_t seed, stream;
} ca_philox_key;
void ca_philox(ca_philox_key key, uint64_t index, uint32_t out[4]);
double ca_philox_uniform(ca_philox_key key, uint64_t index); /* (0, 1), 53 bits */
double ca_philox_normal(ca_philox_key key, uint64_t index);  /* Box-Muller */
/* FNV-1a of a name, to be used as a stream: "data.noise", "das.rotation". */
uint64_t ca_stream(const char *name);

#endif
