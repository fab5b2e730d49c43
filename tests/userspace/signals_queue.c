// Pending signals: queues, coalescing, waiting for them, limits, who gets what.
#include "check.h"
#include <pthread.h>
#include <sys/resource.h>

static sigset_t set_of(int first, int second) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, first);
    if (second) sigaddset(&set, second);
    return set;
}
static void block(int first, int second) {
    sigset_t set = set_of(first, second);
    sigprocmask(SIG_BLOCK, &set, NULL);
}
static int take(int signo, siginfo_t *info, long milliseconds) {
    sigset_t set = set_of(signo, 0);
    struct timespec timeout = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    return sigtimedwait(&set, info, &timeout);
}
static volatile int count;
static void handler(int signo) {
    (void)signo;
    count++;
}

CASE(realtime_signals_queue_in_order) {
    int signo = SIGRTMIN + 3;
    block(signo, 0);
    for (int i = 0; i < 5; i++) CHECK(sigqueue(getpid(), signo, (union sigval){.sival_int = i}) == 0);
    for (int i = 0; i < 5; i++) {
        siginfo_t info;
        CHECK(take(signo, &info, 0) == signo && info.si_value.sival_int == i);
    }
    FAILS(take(signo, NULL, 0), EAGAIN);
}

CASE(standard_signals_coalesce) {
    block(SIGUSR1, 0);
    for (int i = 0; i < 3; i++) sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = i});
    siginfo_t info;
    CHECK(take(SIGUSR1, &info, 0) == SIGUSR1 && info.si_value.sival_int == 0);
    FAILS(take(SIGUSR1, NULL, 0), EAGAIN);
}

CASE(thread_and_process_queues_are_apart) {
    block(SIGUSR1, 0);
    kill(getpid(), SIGUSR1);
    syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
    siginfo_t info;
    CHECK(take(SIGUSR1, &info, 0) == SIGUSR1);
    note("first %d", info.si_code);
    CHECK(take(SIGUSR1, &info, 0) == SIGUSR1);
    note("second %d", info.si_code);
    FAILS(take(SIGUSR1, &info, 0), EAGAIN);
}

CASE(sigpending_shows_blocked_ones) {
    block(SIGUSR1, SIGCHLD);
    sigset_t set;
    CHECK(sigpending(&set) == 0 && !sigismember(&set, SIGUSR1));
    raise(SIGUSR1);
    kill(getpid(), SIGCHLD); // ignored by default, yet pending while blocked
    CHECK(sigpending(&set) == 0 && sigismember(&set, SIGUSR1) && sigismember(&set, SIGCHLD) && !sigismember(&set, SIGUSR2));
    FAILS(syscall(SYS_rt_sigpending, &set, 16), EINVAL);
    FAILS(syscall(SYS_rt_sigpending, 8, 8), EFAULT);
}

CASE(ignoring_discards_what_is_pending) {
    block(SIGUSR1, SIGUSR2);
    raise(SIGUSR1);
    kill(getpid(), SIGUSR2);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set;
    CHECK(sigpending(&set) == 0 && !sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2));
    signal(SIGUSR1, SIG_DFL);
    raise(SIGUSR1); // blocked: it stays, though the default would end us
    CHECK(sigpending(&set) == 0 && sigismember(&set, SIGUSR1));
}

CASE(sigtimedwait_times_out) {
    block(SIGUSR1, 0);
    double start = now();
    FAILS(take(SIGUSR1, NULL, 50), EAGAIN);
    CHECK(now() - start >= 0.05 && now() - start < 2);
    struct timespec bad = {0, 1000000000};
    sigset_t set = set_of(SIGUSR1, 0);
    FAILS(sigtimedwait(&set, NULL, &bad), EINVAL);
    FAILS(syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, 4), EINVAL);
    FAILS(syscall(SYS_rt_sigtimedwait, 8, NULL, NULL, 8), EFAULT);
}

CASE(sigwait_is_woken) {
    block(SIGUSR1, SIGUSR2);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        wait_for_state(parent, 'S');
        kill(parent, SIGUSR2);
    });
    sigset_t set = set_of(SIGUSR1, SIGUSR2);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGUSR2);
    CHECK(info.si_code == SI_USER && info.si_pid == pid);
    reap(pid);
}

CASE(sigwait_takes_even_deadly_and_ignored_ones) {
    block(SIGTERM, SIGCHLD);
    pid_t pid = fork();
    if (!pid) _exit(3);
    siginfo_t info;
    sigset_t set = set_of(SIGCHLD, 0);
    CHECK(sigwaitinfo(&set, &info) == SIGCHLD);
    CHECK(info.si_code == CLD_EXITED && info.si_pid == pid && info.si_status == 3);
    reap(pid);
    pid_t parent = getpid();
    pid = CHILD({
        wait_for_state(parent, 'S');
        kill(parent, SIGTERM);
    });
    set = set_of(SIGTERM, 0);
    CHECK(sigwaitinfo(&set, &info) == SIGTERM && info.si_pid == pid);
    reap(pid);
}

CASE(sigwait_without_blocking_first) {
    signal(SIGUSR1, handler);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        wait_for_state(parent, 'S');
        kill(parent, SIGUSR1);
    });
    sigset_t set = set_of(SIGUSR1, 0);
    CHECK(sigwaitinfo(&set, NULL) == SIGUSR1);
    CHECK(count == 0);
    reap(pid);
}

CASE(another_signal_interrupts_sigwait) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR2, &action, NULL);
    block(SIGUSR1, 0);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        wait_for_state(parent, 'S');
        kill(parent, SIGUSR2);
    });
    sigset_t set = set_of(SIGUSR1, 0);
    FAILS(sigwaitinfo(&set, NULL), EINTR);
    CHECK(count == 1);
    reap(pid);
}

CASE(the_queue_has_a_limit) {
    int signo = SIGRTMIN + 1;
    block(signo, SIGUSR1);
    struct rlimit limit = {3, 3};
    CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    int queued = 0;
    while (queued < 10 && sigqueue(getpid(), signo, (union sigval){.sival_int = queued}) == 0) queued++;
    CHECK(queued <= 3 && errno == EAGAIN);
    CHECK(kill(getpid(), signo) == 0);   // kill loses only the siginfo
    CHECK(kill(getpid(), SIGUSR1) == 0); // a standard signal has its place
    siginfo_t info;
    CHECK(take(SIGUSR1, &info, 0) == SIGUSR1 && info.si_pid == getpid());
    for (int i = 0; i < queued; i++) CHECK(take(signo, &info, 0) == signo && info.si_value.sival_int == i);
}

CASE(kill_errors) {
    FAILS(kill(getpid(), 65), EINVAL);
    FAILS(kill(getpid(), -1), EINVAL);
    FAILS(kill(0x3ffffff, 0), ESRCH);
    FAILS(kill(-0x3ffffff, 0), ESRCH);
    FAILS(syscall(SYS_tgkill, getpid(), 0x3ffffff, 0), ESRCH);
    FAILS(syscall(SYS_tgkill, 0, getpid(), 0), EINVAL);
    FAILS(syscall(SYS_tgkill, getpid(), -1, 0), EINVAL);
    FAILS(syscall(SYS_tgkill, getppid(), getpid(), 0), ESRCH);
    FAILS(syscall(SYS_tkill, 0, 0), EINVAL);
    CHECK(syscall(SYS_tkill, getpid(), 0) == 0);
    CHECK(kill(getpid(), 0) == 0);
    pid_t pid = fork();
    if (!pid) _exit(0);
    siginfo_t info;
    CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
    CHECK(kill(pid, SIGTERM) == 0); // a zombie can be signalled, to no effect
    reap(pid);
    FAILS(kill(pid, 0), ESRCH);
}

CASE(permissions) {
    if (getuid()) SKIP("not root");
    pid_t victim = fork();
    if (!victim) {
        pause();
        _exit(0);
    }
    IN_CHILD({
        NEED(setresuid(1234, 1234, 1234) == 0);
        FAILS(kill(victim, 0), EPERM);
        FAILS(kill(victim, SIGKILL), EPERM);
        FAILS(syscall(SYS_tgkill, victim, victim, SIGTERM), EPERM);
        CHECK(kill(victim, SIGCONT) == 0); // same session
        CHECK(kill(getpid(), 0) == 0);
        FAILS(kill(1, 0), EPERM);
    });
    IN_CHILD({
        NEED(setresuid(0, 1234, 1234) == 0); // the real uid counts
        CHECK(kill(victim, 0) == 0);
    });
    kill(victim, SIGKILL);
    CHECK(exit_of(victim) == 128 + SIGKILL);
}

CASE(kill_a_process_group) {
    pid_t leader = fork();
    if (!leader) {
        setpgid(0, 0);
        pause();
        _exit(0);
    }
    setpgid(leader, leader);
    pid_t second = fork();
    if (!second) {
        setpgid(0, leader);
        pause();
        _exit(0);
    }
    setpgid(second, leader);
    CHECK(kill(-leader, SIGTERM) == 0);
    CHECK(exit_of(leader) == 128 + SIGTERM && exit_of(second) == 128 + SIGTERM);
    FAILS(kill(-leader, 0), ESRCH);
}

// -- threads -----------------------------------------------------------------------------------------------------------------

static volatile pid_t handler_tid;
static void note_tid(int signo) {
    (void)signo;
    handler_tid = syscall(SYS_gettid);
    count++;
}
static volatile pid_t thread_tid;
static volatile bool done;
static void *idle(void *argument) {
    (void)argument;
    thread_tid = syscall(SYS_gettid);
    while (!done) usleep(2000);
    return NULL;
}

CASE(a_thread_that_lets_it_through_gets_it) {
    signal(SIGUSR1, note_tid);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, idle, NULL) == 0);
    while (!thread_tid) sleep_ms(1);
    sigset_t set = set_of(SIGUSR1, 0);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR1);
    for (int i = 0; i < 500 && !count; i++) sleep_ms(2);
    CHECK(count == 1 && handler_tid == thread_tid);
    done = true;
    pthread_join(thread, NULL);
}

CASE(a_directed_signal_goes_to_its_thread) {
    signal(SIGUSR1, note_tid);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, idle, NULL) == 0);
    while (!thread_tid) sleep_ms(1);
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    for (int i = 0; i < 500 && !count; i++) sleep_ms(2);
    CHECK(handler_tid == thread_tid);
    sleep_ms(50); // its handler has returned
    CHECK(kill(thread_tid, SIGUSR1) == 0); // a tid names its process, and who is asked first
    for (int i = 0; i < 500 && count < 2; i++) sleep_ms(2);
    CHECK(count == 2 && handler_tid == thread_tid);
    done = true;
    pthread_join(thread, NULL);
}

static void *blocked_idle(void *argument) {
    sigset_t set;
    sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return idle(argument);
}
CASE(a_signal_that_all_block_waits_for_the_first_to_unblock) {
    signal(SIGUSR1, note_tid);
    block(SIGUSR1, 0);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, blocked_idle, NULL) == 0);
    while (!thread_tid) sleep_ms(1);
    kill(getpid(), SIGUSR1);
    sleep_ms(20);
    CHECK(count == 0);
    sigset_t set = set_of(SIGUSR1, 0);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    CHECK(count == 1 && handler_tid == getpid());
    done = true;
    pthread_join(thread, NULL);
}

static void *die(void *argument) {
    (void)argument;
    sleep_ms(20);
    raise(SIGUSR1);
    return NULL;
}
CASE(a_deadly_signal_to_one_thread_ends_all) {
    pid_t pid = CHILD({
        pthread_t thread;
        pthread_create(&thread, NULL, die, NULL);
        for (;;) pause();
    });
    CHECK(exit_of(pid) == 128 + SIGUSR1);
}

CASE(fork_inherits_the_mask_but_nothing_pending) {
    block(SIGUSR1, 0);
    raise(SIGUSR1);
    IN_CHILD({
        sigset_t set;
        sigpending(&set);
        CHECK(!sigismember(&set, SIGUSR1));
        sigprocmask(SIG_BLOCK, NULL, &set);
        CHECK(sigismember(&set, SIGUSR1));
    });
}

CASE(exec_keeps_mask_pending_and_ignored) {
    pid_t pid = fork();
    if (!pid) {
        block(SIGUSR1, 0);
        raise(SIGUSR1);
        signal(SIGUSR2, SIG_IGN);
        signal(SIGHUP, handler);
        dup2(open("status", O_WRONLY | O_CREAT, 0644), 1);
        execl("/bin/grep", "grep", "^Sig[BIC]\\|^ShdPnd\\|^SigPnd", "/proc/self/status", NULL);
        _exit(127);
    }
    CHECK(exit_of(pid) == 0);
    note("%s", content("status"));
}
