/* SPDX-License-Identifier: MIT
 *
 * The life of a result file: `<path>.tmp` is created, filled and renamed to `<path>` when it is
 * whole, or to `<path>.checkpoint` when the run stops early. A crash leaves only the .tmp file,
 * which the next run overwrites. One process writes a file; HDF5 holds an advisory lock meanwhile.
 */
#include "writer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char next_name[] = "checkpoint_next";

/* ---- paths */

static ca_status with_suffix(const char *path, const char *suffix, char **out) {
    ca_string text = {0};
    ca_status st = ca_string_printf(&text, "%s%s", path, suffix);
    if (st != CA_OK) {
        ca_string_free(&text);
        return st;
    }
    *out = text.text;
    return CA_OK;
}

static ca_status folder_of(const char *path, char **out) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return with_suffix(".", "", out);
    ca_string text = {0};
    ca_status st = ca_string_append(&text, path, slash == path ? 1 : (size_t)(slash - path));
    if (st != CA_OK) {
        ca_string_free(&text);
        return st;
    }
    *out = text.text;
    return CA_OK;
}

/* Makes sure the temporary file can be written and that no other process is writing it; HDF5 would
 * truncate it first and find the lock afterwards. */
static ca_status claim(const char *path, const char *temporary) {
    ca_status st = CA_OK;
    char *folder = NULL;
    int fd = -1;
    CA_TRY(folder_of(path, &folder));
    if (!ca_is_directory(folder)) {
        ca_hint("create the folder '%s' first, or correct 'output'", folder);
        st = ca_fail(CA_E_IO, "%s: expected the folder '%s' to exist, got none", path, folder);
        goto out;
    }
    if (ca_is_directory(path)) {
        st = ca_fail(CA_E_IO, "%s: expected a file name for the result, got a folder", path);
        goto out;
    }
    fd = open(temporary, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = ca_fail(CA_E_IO, "%s: cannot create it: %s", temporary, strerror(errno));
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        st = ca_fail(CA_E_IO, "%s: another process is writing this file", temporary);
    }
out:
    if (fd >= 0) (void)close(fd);
    free(folder);
    return st;
}

/* Waits until a file, or the entries of a folder, are on the disk. */
static ca_status sync_path(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) return ca_fail(CA_E_IO, "%s: cannot open it: %s", path, strerror(errno));
    /* EINVAL: a file system that has nothing to sync. */
    bool failed = fsync(fd) != 0 && errno != EINVAL;
    int error = errno;
    (void)close(fd);
    return failed ? ca_fail(CA_E_IO, "%s: fsync: %s", path, strerror(error)) : CA_OK;
}

static ca_status copy_bytes(int from, int to, const char *name) {
    static char block[1 << 16];
    for (;;) {
        ssize_t got = read(from, block, sizeof block);
        if (got == 0) return CA_OK;
        if (got < 0) return ca_fail(CA_E_IO, "%s: read: %s", name, strerror(errno));
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(to, block + done, (size_t)(got - done));
            if (put < 0) return ca_fail(CA_E_IO, "%s: copying it: %s", name, strerror(errno));
            done += put;
        }
    }
}

static ca_status copy_file(const char *from_path, const char *to_path) {
    ca_status st = CA_OK;
    int from = open(from_path, O_RDONLY | O_CLOEXEC), to = -1;
    if (from < 0) return ca_fail(CA_E_IO, "%s: cannot open it: %s", from_path, strerror(errno));
    to = open(to_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (to < 0) {
        st = ca_fail(CA_E_IO, "%s: cannot create it: %s", to_path, strerror(errno));
        goto out;
    }
    CA_TRY(copy_bytes(from, to, from_path));
    if (fsync(to) != 0) st = ca_fail(CA_E_IO, "%s: fsync: %s", to_path, strerror(errno));
out:
    if (to >= 0) (void)close(to);
    (void)close(from);
    return st;
}

/* ---- property lists */

/* Readable by every HDF5 from 1.10 on (h5py >= 2.10); closing the file closes all of its ids. */
static hid_t access_list(void) {
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0) return list;
    (void)H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V110);
    (void)H5Pset_fclose_degree(list, H5F_CLOSE_STRONG);
    return list;
}

/* Objects are listed in the order in which they were made; no times, so that equal runs give equal
 * bytes. Works for the root group (file list) and for other groups. */
static hid_t creation_list(hid_t class) {
    const unsigned order = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;
    hid_t list = H5Pcreate(class);
    if (list < 0) return list;
    (void)H5Pset_link_creation_order(list, order);
    (void)H5Pset_attr_creation_order(list, order);
    (void)H5Pset_obj_track_times(list, false);
    return list;
}

ca_status ca_result_group(ca_result *r, const char *path, size_t length, hid_t *out) {
    ca_status st = CA_OK;
    hid_t list = -1, group = -1;
    char *prefix = NULL;
    assert(path[0] == '/');
    CA_TRY(ca_calloc(length + 1, 1, &prefix));
    CA_H5(CA_E_IO, r->temporary, path, group = H5Gopen2(r->file, "/", H5P_DEFAULT));
    CA_H5(CA_E_IO, r->temporary, path, list = creation_list(H5P_GROUP_CREATE));
    for (size_t end = 1; end < length; end++) {
        while (end < length && path[end] != '/') end++;
        memcpy(prefix, path, end);
        hid_t next = -1;
        if (H5Lexists(r->file, prefix, H5P_DEFAULT) > 0) {
            next = H5Gopen2(r->file, prefix, H5P_DEFAULT);
        } else {
            next = H5Gcreate2(r->file, prefix, H5P_DEFAULT, list, H5P_DEFAULT);
        }
        if (next < 0) {
            st = ca_h5_fail(CA_E_IO, r->temporary, prefix, "H5Gcreate2");
            goto out;
        }
        ca_h5_close(group);
        group = next;
    }
    *out = group;
    group = -1;
out:
    ca_h5_close(group);
    ca_h5_close(list);
    free(prefix);
    return st;
}

/* ---- begin */

static void release(ca_result *r) {
    for (int64_t i = 0; i < r->dataset_count; i++) free(r->datasets[i].name);
    free(r->datasets);
    free(r->path);
    free(r->temporary);
    free(r);
}

static ca_status new_result(const char *path, ca_result **out) {
    ca_result *r = NULL;
    ca_status st = ca_calloc(1, sizeof *r, &r);
    if (st != CA_OK) return st;
    r->file = -1;
    CA_TRY(with_suffix(path, "", &r->path));
    CA_TRY(with_suffix(path, ".tmp", &r->temporary));
    *out = r;
    return CA_OK;
out:
    release(r);
    return st;
}

ca_status ca_result_create(const char *path, ca_result **out) {
    ca_status st = CA_OK;
    ca_result *r = NULL;
    hid_t access = -1, creation = -1;
    bool claimed = false;
    *out = NULL;
    ca_h5_begin();
    CA_TRY(new_result(path, &r));
    CA_TRY(claim(path, r->temporary));
    claimed = true;
    CA_H5(CA_E_IO, r->temporary, "/", access = access_list());
    CA_H5(CA_E_IO, r->temporary, "/", creation = creation_list(H5P_FILE_CREATE));
    CA_H5(CA_E_IO, r->temporary, "/",
          r->file = H5Fcreate(r->temporary, H5F_ACC_TRUNC, creation, access));
    CA_TRY(ca_result_attribute_int(r, "/", "schema_version", CA_RESULT_SCHEMA_VERSION));
    CA_TRY(ca_result_attribute_text(r, "/", "tool", "causa"));
    CA_TRY(ca_result_attribute_text(r, "/", "status", "partial"));
    *out = r;
out:
    ca_h5_close(creation);
    ca_h5_close(access);
    if (st != CA_OK && claimed) {
        ca_result_abandon(r);
    } else if (st != CA_OK && r != NULL) {
        release(r);
    }
    return st;
}

/* Reads what tells whether the checkpoint belongs to this run. */
static ca_status read_checkpoint(const char *checkpoint, const char *config_sha256, bool *usable,
                                 int64_t *next) {
    ca_result_reader *reader = NULL;
    const char *digest = NULL;
    ca_status st = ca_result_reader_open(checkpoint, &reader);
    if (st != CA_OK) {
        ca_hint("remove '%s' to start this run from the beginning", checkpoint);
        return st;
    }
    *usable = ca_result_reader_text(reader, "/", "config_sha256", &digest) &&
              strcmp(digest, config_sha256) == 0;
    if (!*usable) {
        ca_log(CA_LOG_WARNING, "%s: made by another configuration; starting from the beginning",
               checkpoint);
    } else if (!ca_result_reader_int(reader, "/", next_name, next)) {
        st = ca_fail(CA_E_DATA, "%s: /: expected the attribute '%s', got none", checkpoint,
                     next_name);
    }
    ca_result_reader_close(reader);
    return st;
}

ca_status ca_result_resume(const char *path, const char *config_sha256, ca_result **out,
                           int64_t *next) {
    ca_status st = CA_OK;
    ca_result *r = NULL;
    char *checkpoint = NULL;
    hid_t access = -1;
    bool usable = false, claimed = false;
    *out = NULL;
    ca_h5_begin();
    CA_TRY(with_suffix(path, ".checkpoint", &checkpoint));
    if (!ca_file_exists(checkpoint)) goto out;
    CA_TRY(read_checkpoint(checkpoint, config_sha256, &usable, next));
    if (!usable) goto out;

    /* A copy is continued: a crash from here on still leaves the checkpoint. */
    CA_TRY(new_result(path, &r));
    CA_TRY(claim(path, r->temporary));
    claimed = true;
    CA_TRY(copy_file(checkpoint, r->temporary));
    CA_H5(CA_E_IO, r->temporary, "/", access = access_list());
    CA_H5(CA_E_IO, r->temporary, "/", r->file = H5Fopen(r->temporary, H5F_ACC_RDWR, access));
    *out = r;
out:
    ca_h5_close(access);
    if (st != CA_OK && claimed) {
        ca_result_abandon(r);
    } else if (st != CA_OK && r != NULL) {
        release(r);
    }
    free(checkpoint);
    return st;
}

/* ---- end */

/* Closes the HDF5 file and brings it under its new name. Frees the result either way. */
static ca_status close_and_rename(ca_result *r, const char *name) {
    ca_status st = CA_OK;
    char *folder = NULL;
    CA_TRY(folder_of(name, &folder));
    /* Never closed twice: a failed close has freed what a second one would read. */
    const hid_t file = r->file;
    r->file = -1;
    CA_H5(CA_E_IO, r->temporary, "/", H5Fclose(file));
    CA_TRY(sync_path(r->temporary, O_RDWR));
    if (rename(r->temporary, name) != 0) {
        st =
            ca_fail(CA_E_IO, "%s: cannot rename it to %s: %s", r->temporary, name, strerror(errno));
        goto out;
    }
    CA_TRY(sync_path(folder, O_RDONLY | O_DIRECTORY));
out:
    free(folder);
    if (st != CA_OK) {
        ca_result_abandon(r);
    } else {
        release(r);
    }
    return st;
}

ca_status ca_result_finish(ca_result *r) {
    char *checkpoint = NULL, *path = NULL;
    ca_status st = CA_OK;
    CA_TRY(with_suffix(r->path, ".checkpoint", &checkpoint));
    CA_TRY(with_suffix(r->path, "", &path));
    if (H5Aexists(r->file, next_name) > 0) {
        CA_H5(CA_E_IO, r->temporary, next_name, H5Adelete(r->file, next_name));
    }
    if (ca_result_has(r, CA_RESULT_UNFINISHED)) {
        CA_H5(CA_E_IO, r->temporary, CA_RESULT_UNFINISHED,
              H5Ldelete(r->file, CA_RESULT_UNFINISHED, H5P_DEFAULT));
    }
    CA_TRY(ca_result_attribute_text(r, "/", "status", "complete"));
    st = close_and_rename(r, path);
    r = NULL;
    if (st == CA_OK) (void)unlink(checkpoint);
out:
    ca_result_abandon(r);
    free(checkpoint);
    free(path);
    return st;
}

ca_status ca_result_checkpoint(ca_result *r, int64_t next) {
    char *checkpoint = NULL;
    ca_status st = CA_OK;
    CA_TRY(with_suffix(r->path, ".checkpoint", &checkpoint));
    CA_TRY(ca_result_attribute_int(r, "/", next_name, next));
    CA_TRY(ca_result_attribute_text(r, "/", "status", "partial"));
    st = close_and_rename(r, checkpoint);
    r = NULL;
out:
    ca_result_abandon(r);
    free(checkpoint);
    return st;
}

void ca_result_abandon(ca_result *r) {
    if (r == NULL) return;
    if (r->file >= 0) {
        /* Emptying the file first gives a full disk the room that closing may need. */
        if (truncate(r->temporary, 0) == 0) (void)H5Fclose(r->file);
    }
    (void)unlink(r->temporary);
    release(r);
}
