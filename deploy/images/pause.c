/* The sandbox of a pod: holds its namespaces until it is told to stop, and, where a pod shares one process
 * namespace, collects the children that lost their parents. It must do nothing else. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int signal) { (void)signal; _exit(0); }

static void collect(int signal) {
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
}

int main(void) {
    struct sigaction stopping = {.sa_handler = stop};
    struct sigaction collecting = {.sa_handler = collect, .sa_flags = SA_NOCLDSTOP};
    if (sigaction(SIGTERM, &stopping, NULL) || sigaction(SIGINT, &stopping, NULL) || sigaction(SIGCHLD, &collecting, NULL))
        return 1;
    for (;;) pause();
}
