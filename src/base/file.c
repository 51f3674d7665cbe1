/* SPDX-License-Identifier: MIT
 *
 * Reading whole files, mapping them, joining paths and making directories.
 * Callers decide whether a file that cannot be read is a config, data or model error.
 */
#include "causa/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static ca_status fail_unreadable(const char *path, int code) {
    return ca_fail(CA_E_IO, "%s: expected a readable file, got '%s'", path, strerror(code));
}

/* Opens for reading anything that is not a directory. */
static ca_status open_file(const char *path, int *descriptor, struct stat *info) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_unreadable(path, errno);
    int code = fstat(fd, info) != 0 ? errno : S_ISDIR(info->st_mode) ? EISDIR : 0;
    if (code != 0) {
        close(fd);
        return fail_unreadable(path, code);
    }
    *descriptor = fd;
    return CA_OK;
}

ca_status ca_file_map_open(const char *path, ca_file_map *out) {
    *out = (ca_file_map){0};
    int fd = -1;
    struct stat info;
    ca_status st = open_file(path, &fd, &info);
    if (st != CA_OK) return st;

    size_t size = info.st_size > 0 ? (size_t)info.st_size : 0;
    if (!S_ISREG(info.st_mode)) {
        st = ca_fail(CA_E_IO, "%s: expected a regular file, got a device or pipe", path);
    } else if (size == 0) {
        /* mmap refuses empty files; they are valid all the same. */
        out->data = (const unsigned char *)"";
    } else {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            st = fail_unreadable(path, errno);
        } else {
            out->data = data;
            out->size = size;
        }
    }
    close(fd);
    return st;
}

void ca_file_map_forget(const ca_file_map *map) {
    /* Advice: where it is not taken, nothing is lost but memory. */
    if (map->size > 0) (void)madvise((void *)(uintptr_t)map->data, map->size, MADV_DONTNEED);
}

void ca_file_map_close(ca_file_map *map) {
    /* munmap takes the address without const; the pages were mapped read-only by us. */
    if (map->size > 0) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (ca_file_map){0};
}

ca_status ca_file_read(const char *path, char **text, size_t *size) {
    *text = NULL;
    *size = 0;
    int fd = -1;
    struct stat info;
    ca_status st = open_file(path, &fd, &info);
    if (st != CA_OK) return st;

    /* The size is only a first guess: pipes have none and files may grow while they are read. */
    char *buffer = NULL;
    int64_t capacity = 0, used = 0;
    CA_TRY(ca_grow(&buffer, &capacity, (info.st_size > 0 ? info.st_size : 0) + 2, 1));
    for (;;) {
        ssize_t got = read(fd, buffer + used, (size_t)(capacity - used - 1));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) CA_TRY(fail_unreadable(path, errno));
        if (got == 0) break;
        used += got;
        if (used == capacity - 1) CA_TRY(ca_grow(&buffer, &capacity, capacity + 1, 1));
    }
    buffer[used] = '\0';
    *text = buffer;
    *size = (size_t)used;
    buffer = NULL;
out:
    free(buffer);
    close(fd);
    return st;
}

bool ca_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
}

bool ca_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

ca_status ca_path_join(const char *directory, const char *name, char **out) {
    *out = NULL;
    size_t length = strlen(directory);
    bool alone = length == 0 || name[0] == '/';
    const char *separator = alone || directory[length - 1] == '/' ? "" : "/";

    ca_string path = {0};
    ca_status st = ca_string_printf(&path, "%s%s%s", alone ? "" : directory, separator, name);
    if (st != CA_OK) {
        ca_string_free(&path);
        return st;
    }
    *out = path.text;
    return CA_OK;
}

ca_status ca_make_directories(const char *path) {
    ca_status st = CA_OK;
    ca_string partial = {0};
    CA_TRY(ca_string_append(&partial, path, strlen(path)));

    /* Each prefix that ends before a slash, then the whole path. */
    for (size_t i = 1; i <= partial.length; i++) {
        char kept = partial.text[i];
        if (kept != '/' && kept != '\0') continue;
        partial.text[i] = '\0';
        if (mkdir(partial.text, 0777) != 0) {
            int code = errno;
            if (!ca_is_directory(partial.text))
                CA_TRY(ca_fail(CA_E_IO, "%s: expected a directory that can be made, got '%s'",
                               partial.text, strerror(code)));
        }
        partial.text[i] = kept;
    }
out:
    ca_string_free(&partial);
    return st;
}
