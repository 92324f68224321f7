/* Loaded by LD_PRELOAD into one process: lets its syncs take longer, as the file named by DRILL_DISK says.
 *
 * The file is read at each sync, and holds one line:
 *   delay MS            each sync takes this much longer
 *   hiccup MS EVERY     a sync that begins in the first MS of each EVERY milliseconds (wall clock) waits for their end
 *   hold END            syncs of files whose path ends with END wait for as long as the line is there; with nothing: all
 * Without the file, or with an empty one, the disk works as it is. The first sync that is held makes the file
 * "$DRILL_DISK.held". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 2, LINE_MAX_BYTES = 256, PATH_MAX_BYTES = 4096 };

static void sleep_ms(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0) {}
}

/* The line of the control file; an empty one where there is no file. */
static void read_line(char line[LINE_MAX_BYTES]) {
    line[0] = 0;
    const char *path = getenv("DRILL_DISK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    ssize_t length = read(file, line, LINE_MAX_BYTES - 1);
    close(file);
    if (length < 0) length = 0;
    line[length] = 0;
    line[strcspn(line, "\n")] = 0;
}

static bool ends_with(int fd, const char *end) {
    char link[64], path[PATH_MAX_BYTES];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t wanted = strlen(end);
    if (length < 0 || (size_t)length < wanted) return false;
    path[length] = 0;
    return strcmp(path + length - wanted, end) == 0;
}

static void note_held(void) {
    char path[PATH_MAX_BYTES];
    snprintf(path, sizeof path, "%s.held", getenv("DRILL_DISK"));
    int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (file >= 0) close(file);
}

static void wait_before_sync(int fd) {
    char line[LINE_MAX_BYTES], end[LINE_MAX_BYTES];
    long ms, every;
    read_line(line);
    if (sscanf(line, "delay %ld", &ms) == 1) {
        sleep_ms(ms);
    } else if (sscanf(line, "hiccup %ld %ld", &ms, &every) == 2 && every > 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        long at = (now.tv_sec * 1000L + now.tv_nsec / 1000000) % every;
        if (at < ms) sleep_ms(ms - at);
    } else {
        while (strncmp(line, "hold", 4) == 0) {
            end[0] = 0;
            sscanf(line, "hold %255s", end);
            if (!ends_with(fd, end)) return;
            note_held();
            sleep_ms(LOOK_EVERY_MS);
            read_line(line);
        }
    }
}

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_before_sync(fd);
    return next(fd);
}

int fsync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_before_sync(fd);
    return next(fd);
}
