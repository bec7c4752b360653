/* Stand-ins for a bad environment, for LD_PRELOAD: failing flock, a clock that jumps, a disk with unreadable sectors.
 *
 * $FLOCK_FAILS: errno of every flock. $CLOCK_OFFSET: a file with seconds to add to the time of day, read at every call;
 * the monotonic clock is unchanged. $READ_FAILS: reading files whose path ends like this fails with EIO.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void)
{
    const char *path = getenv("CLOCK_OFFSET");
    char text[32] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    if (read(file, text, sizeof text - 1) < 0)
        text[0] = 0;
    close(file);
    return atol(text);
}

int flock(int descriptor, int operation)
{
    const char *failing = getenv("FLOCK_FAILS");
    static int (*real)(int, int);
    if (failing) {
        errno = atoi(failing);
        return -1;
    }
    if (!real)
        real = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    return real(descriptor, operation);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    int saved = errno, result;
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME)
        now->tv_sec += offset();
    if (!result)
        errno = saved;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

ssize_t read(int descriptor, void *buffer, size_t count)
{
    static ssize_t (*real)(int, void *, size_t);
    const char *failing = getenv("READ_FAILS");
    char link[32], path[4096];
    ssize_t length;
    if (!real)
        real = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    if (failing) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        length = readlink(link, path, sizeof path);
        if (length >= (ssize_t)strlen(failing) && !memcmp(path + length - strlen(failing), failing, strlen(failing))) {
            errno = EIO;
            return -1;
        }
    }
    return real(descriptor, buffer, count);
}
