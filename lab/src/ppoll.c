// ppoll(2) for a QEMU whose clock is slowed down (clock.rs). libfaketime scales the clock, poll(2) and the other waits, but in
// Debian's 0.9.10 not ppoll(2), which QEMU's main loop waits with: it woke after a fraction of the time that a timer had left,
// and again after a fraction of the rest, and turned for most of what it should have slept. Loaded before libfaketime,
// and calls the C library past it: one that scales ppoll(2), too, would do so a second time. QUORATE_DILATION is how many of the
// host's seconds one of the clock's is.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

typedef int ppoll_t(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);

static ppoll_t *libc;
static double factor = 1;

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("QUORATE_DILATION");

    if (text)
        factor = atof(text);
    libc = (ppoll_t *)dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "ppoll");
    // All is loaded by now; the shell that reads a saved state for QEMU has no such descriptor.
    unsetenv("LD_PRELOAD");
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    // A day is as good as for ever, and no overflow: whoever waits looks at its clock afterwards.
    const double most = 86400;
    struct timespec scaled;

    if (timeout) {
        double seconds = ((double)timeout->tv_sec + (double)timeout->tv_nsec / 1e9) * factor;

        if (seconds > most)
            seconds = most;
        scaled.tv_sec = (time_t)seconds;
        scaled.tv_nsec = (long)((seconds - (double)scaled.tv_sec) * 1e9);
        timeout = &scaled;
    }
    return libc(fds, count, timeout, mask);
}
