/* SPDX-License-Identifier: MIT
 *
 * Signals that ask a run to stop. The handler only takes a note; loops ask ca_signal_status
 * between steps. The first signal decides how the run ends.
 */
#include "causa/base.h"

#include <signal.h>

static volatile sig_atomic_t received;

static void take_note(int number) {
    if (received == 0) received = number;
}

void ca_signals_install(void) {
    received = 0;
    struct sigaction action = {.sa_handler = take_note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    /* The second Ctrl-C meets the default action: it kills a run that is slow to stop. */
    action.sa_flags |= (int)SA_RESETHAND;
    sigaction(SIGINT, &action, NULL);
}

int ca_signal_received(void) { return (int)received; }

ca_status ca_signal_status(void) {
    switch (received) {
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
