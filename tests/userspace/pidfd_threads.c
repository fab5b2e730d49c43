// pidfds of single threads (PIDFD_THREAD), and whom pidfd_send_signal means.
#include "check.h"
#include <pthread.h>
#define THREAD O_EXCL /* PIDFD_THREAD */
enum { TO_THREAD = 1, TO_GROUP = 2, TO_PROCESS_GROUP = 4 };

static int pidfd(pid_t tid, unsigned flags) { return syscall(SYS_pidfd_open, tid, flags); }
static long signal_by(int fd, int signo, unsigned flags) { return syscall(SYS_pidfd_send_signal, fd, signo, NULL, flags); }
static int events_of(int fd, int timeout) {
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    return poll(&wanted, 1, timeout) < 0 ? -1 : wanted.revents;
}
static void begin(void) {
    int fd = pidfd(getpid(), THREAD);
    if (fd < 0 && errno == EINVAL) SKIP("no PIDFD_THREAD");
    close(fd);
}

static int go_on[2];
static volatile pid_t tid, got_by, got_code;
static void handler(int signo, siginfo_t *info, void *context) { (void)signo, (void)context, got_by = gettid(), got_code = info->si_code; }
static void *wait_to_go_on(void *unused) {
    char byte;
    tid = gettid();
    while (read(go_on[0], &byte, 1) < 0) {}
    return unused;
}
static pthread_t start(void) {
    pthread_t thread;
    tid = 0;
    pipe(go_on);
    pthread_create(&thread, NULL, wait_to_go_on, NULL);
    while (!tid) sched_yield();
    return thread;
}

CASE(the_end_of_a_thread) {
    begin();
    pthread_t thread = start();
    FAILS(pidfd(tid, 0), ENOENT);
    int fd = pidfd(tid, THREAD), self = pidfd(getpid(), THREAD);
    NEED(fd >= 0 && self >= 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && events_of(fd, 0) == 0);
    char line[64], path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    snprintf(line, sizeof line, "Pid:\t%d\n", tid);
    CHECK(strstr(content(path), line) != NULL);
    siginfo_t info;
    FAILS(waitid(P_PIDFD, fd, &info, WEXITED), ECHILD);
    write(go_on[1], "x", 1);
    CHECK(events_of(fd, 5000) == (POLLIN | POLLHUP));
    pthread_join(thread, NULL);
    CHECK(events_of(self, 0) == 0 && strstr(content(path), "Pid:\t-1\n") != NULL);
    FAILS(signal_by(fd, 0, 0), ESRCH);
    FAILS(pidfd(tid, THREAD), ESRCH);
}

CASE(whom_a_signal_is_for) {
    begin();
    sigaction(SIGUSR1, &(struct sigaction){.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART}, NULL);
    pthread_t thread = start();
    int fd = pidfd(tid, THREAD), process = pidfd(getpid(), 0);
    CHECK(signal_by(fd, SIGUSR1, 0) == 0);
    for (int i = 0; i < 500 && !got_by; i++) sleep_ms(10);
    CHECK(got_by == tid && got_code == SI_TKILL);
    got_by = 0;
    CHECK(signal_by(process, SIGUSR1, 0) == 0 && got_by == getpid() && got_code == SI_USER);
    got_by = 0;
    CHECK(signal_by(process, SIGUSR1, TO_THREAD) == 0 && got_by == getpid() && got_code == SI_TKILL);
    got_by = 0;
    CHECK(signal_by(fd, SIGUSR1, TO_GROUP) == 0);
    for (int i = 0; i < 500 && !got_by; i++) sleep_ms(10);
    CHECK(got_by != 0 && got_code == SI_USER);
    FAILS(signal_by(fd, SIGUSR1, TO_THREAD | TO_GROUP), EINVAL);
    FAILS(signal_by(fd, SIGUSR1, 8), EINVAL);
    FAILS(signal_by(fd, 65, 0), EINVAL);
    write(go_on[1], "x", 1);
    pthread_join(thread, NULL);
}

CASE(process_groups) {
    begin();
    pid_t leader = CHILD(pause());
    setpgid(leader, leader);
    pid_t member = CHILD(pause());
    setpgid(member, leader);
    int fd = pidfd(member, 0), first = pidfd(leader, 0);
    FAILS(signal_by(fd, SIGTERM, TO_PROCESS_GROUP), ESRCH); /* it leads none */
    CHECK(signal_by(first, SIGTERM, TO_PROCESS_GROUP) == 0);
    CHECK(exit_of(leader) == 128 + SIGTERM && exit_of(member) == 128 + SIGTERM);
}
