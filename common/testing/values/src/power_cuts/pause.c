/* Loaded by LD_PRELOAD: before each sync, rename and removal in a directory, the calling thread asks the test and waits.
 *
 * POWER_CUT_DIRECTORY: the directory. POWER_CUT_SOCKET: the Unix socket of the test. A question is a line: the process,
 * the operation and the paths, separated by tabs. The answer is one byte, or the end of the connection. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATH_MAX_BYTES = 4096 };

static int is_inside(const char *path) {
    const char *directory = getenv("POWER_CUT_DIRECTORY");
    size_t length = directory ? strlen(directory) : 0;
    return length > 0 && strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static void ask(const char *operation, const char *path, const char *to) {
    const char *name = getenv("POWER_CUT_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char answer;
    if (!name || strlen(name) >= sizeof address.sun_path || !is_inside(path)) return;
    strcpy(address.sun_path, name);
    int asked = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (asked < 0) return;
    if (connect(asked, (struct sockaddr *)&address, sizeof address) == 0) {
        dprintf(asked, "%d\t%s\t%s\t%s\n", getpid(), operation, path, to);
        while (read(asked, &answer, 1) < 0) {}
    }
    close(asked);
}

static void ask_about(const char *operation, int file) {
    char link[64], path[PATH_MAX_BYTES];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    ask(operation, path, "");
}

int fsync(int file) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    ask_about("sync", file);
    return next(file);
}

int fdatasync(int file) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    ask_about("sync", file);
    return next(file);
}

int rename(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    ask("rename", from, to);
    return next(from, to);
}

int unlink(const char *path) {
    static int (*next)(const char *);
    if (!next) next = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    ask("unlink", path, "");
    return next(path);
}
