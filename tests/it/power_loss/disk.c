/* A disk that loses what was not synced when the power goes. Loaded in front of libc (LD_PRELOAD) it keeps, of each file
 * in the folder TEST_DISK, what fsync or fdatasync has said to be safe, in the folder TEST_KEPT: the bytes once the file
 * was synced (`file.bytes`, whatever it is called), the name once its folder was (`name.named`, which holds the file).
 * A name that was removed and synced is gone there too. Whoever kills the process then puts back what is named. */

#pragma GCC diagnostic ignored "-Wformat-truncation"
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void path(char *out, const char *folder, const char *name, const char *suffix) {
  snprintf(out, PATH_MAX, "%s/%s%s", folder, name, suffix);
}

static void fail(const char *what) {
  fprintf(stderr, "the disk of the test failed: %s: %s\n", what, strerror(errno));
  abort();
}

/* Through the very descriptor that was synced, where it can be read: closing another one of the same file would let go of
 * all locks that the process has on it (POSIX). */
static void copy(int file, const char *from, const char *to) {
  char part[PATH_MAX], bytes[65536];
  snprintf(part, sizeof part, "%s.part", to);
  int reads = (fcntl(file, F_GETFL) & O_ACCMODE) != O_WRONLY;
  int in = reads ? file : open(from, O_RDONLY | O_CLOEXEC);
  int out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (in < 0 || out < 0) fail(from);
  off_t at = 0;
  for (ssize_t count; (count = pread(in, bytes, sizeof bytes, at)) != 0; at += count)
    if (count < 0 || write(out, bytes, count) != count) fail(to);
  if (!reads) close(in);
  close(out);
  if (rename(part, to) != 0) fail(to);
}

/* A file whatever it is called; numbers are given again, so the time it was made is part of it. */
static void identify(char *out, size_t size, const char *file) {
  struct statx made;
  if (statx(AT_FDCWD, file, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &made) != 0) fail(file);
  snprintf(out, size, "%llu-%lld-%u", (unsigned long long)made.stx_ino, (long long)made.stx_btime.tv_sec,
           made.stx_btime.tv_nsec);
}

static int is_in(DIR *entries, const char *name) {
  rewinddir(entries);
  for (struct dirent *entry; (entry = readdir(entries));)
    if (strcmp(entry->d_name, name) == 0) return 1;
  return 0;
}

/* The folder was synced: which names there are holds from now on. */
static void keep_names(const char *disk, const char *kept) {
  char from[PATH_MAX], named[PATH_MAX], identity[80];
  DIR *now = opendir(disk), *before = opendir(kept);
  if (!now || !before) fail(disk);
  for (struct dirent *entry; (entry = readdir(now));) {
    if (entry->d_type != DT_REG) continue;
    path(named, kept, entry->d_name, ".named");
    path(from, disk, entry->d_name, "");
    identify(identity, sizeof identity, from);
    int file = open(named, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || write(file, identity, strlen(identity)) < 0) fail(named);
    close(file);
  }
  for (struct dirent *entry; (entry = readdir(before));) {
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s", entry->d_name);
    char *end = strrchr(name, '.');
    if (!end || strcmp(end, ".named") != 0) continue;
    *end = 0;
    if (is_in(now, name)) continue;
    path(named, kept, name, ".named");
    unlink(named);
  }
  closedir(now);
  closedir(before);
}

/* A file was synced: what is in it holds from now on, whatever it is called then. */
static void keep_bytes(int file, const struct stat *synced, const char *disk, const char *kept) {
  char from[PATH_MAX], to[PATH_MAX], identity[80];
  DIR *entries = opendir(disk);
  if (!entries) fail(disk);
  for (struct dirent *entry; (entry = readdir(entries));) {
    struct stat found;
    path(from, disk, entry->d_name, "");
    if (lstat(from, &found) != 0 || found.st_ino != synced->st_ino || found.st_dev != synced->st_dev) continue;
    identify(identity, sizeof identity, from);
    path(to, kept, identity, ".bytes");
    copy(file, from, to);
  }
  closedir(entries);
}

static void keep(int file) {
  const char *disk = getenv("TEST_DISK"), *kept = getenv("TEST_KEPT");
  struct stat synced, folder;
  if (!disk || !kept || fstat(file, &synced) != 0) return;
  pthread_mutex_lock(&lock);
  if (!S_ISDIR(synced.st_mode))
    keep_bytes(file, &synced, disk, kept);
  else if (stat(disk, &folder) == 0 && folder.st_ino == synced.st_ino && folder.st_dev == synced.st_dev)
    keep_names(disk, kept);
  pthread_mutex_unlock(&lock);
}

#define SYNC(name)                                                 \
  int name(int file) {                                             \
    static int (*real)(int);                                       \
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name);       \
    int outcome = real(file);                                      \
    if (outcome == 0) keep(file);                                  \
    return outcome;                                                \
  }

SYNC(fsync)
SYNC(fdatasync)
