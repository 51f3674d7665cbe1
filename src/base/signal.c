/* SPDX-License-Identifier: MIT
 *
 * Signals that ask a run to stop. A thread of its own waits for them and takes a note; loops ask
 * ca_signal_status between steps. The first signal decides how the run ends.
 *
 * No handler ever runs on a computing thread: kernels that a library generates at run time may use
 * the stack in ways that the frame of a signal handler destroys (seen with oneDNN 2.6).
 */
#include "causa/base.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int received;

/* True when this is not the first signal. */
static bool take_note(int number) {
    int none = 0;
    return !atomic_compare_exchange_strong(&received, &none, number);
}

/* On threads that a library started before the signals were blocked, and that only wait. */
static void handle(int number) {
    if (!take_note(number) || number != SIGINT) return;
    (void)signal(SIGINT, SIG_DFL);
    (void)raise(SIGINT);
}

static void *wait_for_signals(void *context) {
    const sigset_t *signals = context;
    for (int number;;) {
        if (sigwait(signals, &number) != 0) continue;
        if (!take_note(number) || number != SIGINT) continue;
        /* The second Ctrl-C ends a run that is slow to stop. */
        (void)signal(SIGINT, SIG_DFL);
        (void)pthread_sigmask(SIG_UNBLOCK, signals, NULL);
        (void)kill(getpid(), SIGINT);
    }
    return NULL;
}

void ca_signals_install(void) {
    static sigset_t signals;
    static pid_t installed_by; /* a forked child has none of the threads of its parent */
    pthread_t thread;
    atomic_store(&received, 0);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file too large is an error of write, like a full disk */
    if (installed_by == getpid()) return;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGINT);
    const struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    for (int number = 1; number < 32; number++)
        if (sigismember(&signals, number) == 1) (void)sigaction(number, &action, NULL);
    /* Threads started from here on inherit the mask. */
    if (pthread_sigmask(SIG_BLOCK, &signals, NULL) != 0) return;
    if (pthread_create(&thread, NULL, wait_for_signals, &signals) != 0) {
        (void)pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
        return;
    }
    (void)pthread_detach(thread);
    installed_by = getpid();
}

int ca_signal_received(void) { return atomic_load(&received); }

ca_status ca_signal_status(void) {
    switch (atomic_load(&received)) {
    case 0:
        return CA_OK;
    case SIGINT:
        return ca_fail(CA_E_INTERRUPT, "interrupted by SIGINT");
    case SIGTERM:
        return ca_fail(CA_E_PREEMPTED, "stopped by SIGTERM");
    default:
        return ca_fail(CA_E_PREEMPTED, "stopped by SIGUSR1");
    }
}
