/* Holds every sync of a database file for as long as the file named by HOLD_WHILE exists.
 * Loaded by LD_PRELOAD. Syncs of the write-ahead log and of other files pass.
 * The first sync that is held creates the file "$HOLD_WHILE.held". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hold(int fd) {
    const char *end = "/acceptor.db";
    const char *while_exists = getenv("HOLD_WHILE");
    if (!while_exists || access(while_exists, F_OK) != 0) return;
    char link[64], path[PATH_MAX], held[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(end)) return;
    path[length] = 0;
    if (strcmp(path + length - strlen(end), end)) return;
    snprintf(held, sizeof held, "%s.held", while_exists);
    int file = open(held, O_CREAT | O_WRONLY, 0644);
    if (file >= 0) close(file);
    while (access(while_exists, F_OK) == 0) usleep(10000);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    hold(fd);
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    hold(fd);
    return real(fd);
}
