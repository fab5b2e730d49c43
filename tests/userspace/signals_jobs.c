// Stops, continuation, SIGCHLD, process groups and sessions.
#include "check.h"
#include <pthread.h>

static volatile int count;
static siginfo_t infos[16];
static void record(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    if (count < 16) infos[count] = *info;
    count++;
}
static void on(int signo, int flags) {
    struct sigaction action = {.sa_sigaction = record, .sa_flags = flags | SA_SIGINFO};
    NEED(sigaction(signo, &action, NULL) == 0);
}
static pid_t pausing_child(void) {
    pid_t pid = CHILD(for (;;) pause());
    wait_for_state(pid, 'S');
    return pid;
}
static bool happened(int wanted) {
    for (int i = 0; i < 500 && count < wanted; i++) sleep_ms(2);
    return count >= wanted;
}

CASE(stop_and_continue_are_reported) {
    on(SIGCHLD, SA_RESTART);
    pid_t pid = pausing_child();
    int status = 0;
    kill(pid, SIGSTOP);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    note("stopped: %#x", status);
    CHECK(happened(1) && infos[0].si_code == CLD_STOPPED && infos[0].si_status == SIGSTOP && infos[0].si_pid == pid);
    CHECK(state_of(pid) == 'T');
    CHECK(waitpid(pid, &status, WUNTRACED | WNOHANG) == 0);
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid);
    note("continued: %#x", status);
    CHECK(happened(2) && infos[1].si_code == CLD_CONTINUED && infos[1].si_status == SIGCONT);
    kill(pid, SIGTERM);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(happened(3) && infos[2].si_code == CLD_KILLED && infos[2].si_status == SIGTERM && infos[2].si_uid == getuid());
}

CASE(each_stop_signal_stops) {
    int signals[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    for (int i = 0; i < 4; i++) {
        pid_t pid = pausing_child();
        int status = 0;
        kill(pid, signals[i]);
        CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == signals[i]);
        kill(pid, SIGTERM); // pending: a stopped process ends when it goes on
        sleep_ms(10);
        CHECK(waitpid(pid, &status, WNOHANG) == 0);
        kill(pid, SIGCONT);
        CHECK(exit_of(pid) == 128 + SIGTERM);
    }
}

CASE(sigkill_ends_a_stopped_process) {
    pid_t pid = pausing_child();
    int status;
    kill(pid, SIGSTOP);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    kill(pid, SIGKILL);
    CHECK(exit_of(pid) == 128 + SIGKILL);
}

CASE(a_computing_process_stops) {
    int status;
    pid_t pid = CHILD(for (;;));
    sleep_ms(20);
    kill(pid, SIGSTOP);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    kill(pid, SIGINT);
    CHECK(exit_of(pid) == 128 + SIGINT);
}

static void *spin(void *argument) {
    (void)argument;
    for (;;) pause();
    return NULL;
}
CASE(all_threads_stop) {
    pid_t pid = CHILD({
        pthread_t thread;
        for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, spin, NULL);
        for (;;);
    });
    sleep_ms(50);
    int status;
    kill(pid, SIGSTOP);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    CHECK(state_of(pid) == 'T');
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid);
    kill(pid, SIGKILL);
    CHECK(exit_of(pid) == 128 + SIGKILL);
}

CASE(sigcont_cancels_pending_stops_and_the_reverse) {
    sigset_t set, pending;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGTSTP);
    kill(getpid(), SIGTTIN);
    raise(SIGCONT);
    sigpending(&pending);
    note("after SIGCONT: %d %d %d", sigismember(&pending, SIGTSTP), sigismember(&pending, SIGTTIN), sigismember(&pending, SIGCONT));
    raise(SIGTSTP);
    sigpending(&pending);
    note("after SIGTSTP: %d %d %d", sigismember(&pending, SIGTSTP), sigismember(&pending, SIGTTIN), sigismember(&pending, SIGCONT));
}

CASE(nocldstop) {
    on(SIGCHLD, SA_RESTART | SA_NOCLDSTOP);
    pid_t pid = pausing_child();
    int status;
    kill(pid, SIGSTOP);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid);
    CHECK(count == 0);
    kill(pid, SIGKILL);
    reap(pid);
    CHECK(happened(1));
}

CASE(nocldwait_leaves_no_zombies) {
    on(SIGCHLD, SA_RESTART | SA_NOCLDWAIT);
    pid_t pid = CHILD({});
    FAILS(waitpid(pid, NULL, 0), ECHILD);
    CHECK(happened(1) && infos[0].si_pid == pid);
    signal(SIGCHLD, SIG_IGN);
    CHILD(sleep_ms(20));
    FAILS(wait(NULL), ECHILD);
}

CASE(waitid_forms) {
    pid_t pid = pausing_child();
    siginfo_t info = {0};
    kill(pid, SIGSTOP);
    CHECK(waitid(P_PID, pid, &info, WSTOPPED | WNOWAIT) == 0 && info.si_code == CLD_STOPPED && info.si_status == SIGSTOP);
    CHECK(waitid(P_PID, pid, &info, WSTOPPED) == 0 && info.si_pid == pid);
    info.si_pid = 5;
    CHECK(waitid(P_PID, pid, &info, WSTOPPED | WNOHANG) == 0 && info.si_pid == 0);
    kill(pid, SIGCONT);
    CHECK(waitid(P_PID, pid, &info, WCONTINUED) == 0 && info.si_code == CLD_CONTINUED && info.si_status == SIGCONT);
    kill(pid, SIGUSR1);
    CHECK(waitid(P_ALL, 0, &info, WEXITED) == 0 && info.si_code == CLD_KILLED && info.si_status == SIGUSR1);
}

CASE(process_groups) {
    CHECK(getpgrp() == getpid() && getpgid(0) == getpgrp());
    IN_CHILD({
        pid_t parent_group = getpgrp();
        CHECK(getpgid(getppid()) == parent_group);
        CHECK(setpgid(0, 0) == 0 && getpgrp() == getpid());
        CHECK(setpgid(0, parent_group) == 0 && getpgrp() == parent_group);
        FAILS(setpgid(0, -1), EINVAL);
        FAILS(setpgid(0, 0x3ffffff), EPERM);
        FAILS(setpgid(0x3ffffff, 0), ESRCH);
        FAILS(setpgid(getppid(), 0), ESRCH);
        FAILS(getpgid(0x3ffffff), ESRCH);
        FAILS(getsid(0x3ffffff), ESRCH);
    });
    FAILS(setsid(), EPERM); // a group leader
}

CASE(sessions) {
    IN_CHILD({
        pid_t old = getsid(0);
        CHECK(setsid() == getpid());
        CHECK(getsid(0) == getpid() && getpgrp() == getpid());
        CHECK(getsid(getppid()) == old);
        FAILS(setpgid(0, 0), EPERM);
        FAILS(setsid(), EPERM);
        pid_t pid = pausing_child();
        CHECK(getsid(pid) == getpid());
        CHECK(setpgid(pid, pid) == 0 && getpgid(pid) == pid);
        kill(pid, SIGKILL);
        reap(pid);
        FAILS(setpgid(0, pid), EPERM);
    });
}

CASE(setpgid_after_exec_is_refused) {
    pid_t pid = fork();
    if (!pid) {
        execl("/bin/sleep", "sleep", "20", NULL);
        _exit(127);
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    for (int i = 0; i < 500; i++) {
        char *name = content(path);
        if (name && !strcmp(name, "sleep\n")) break;
        sleep_ms(5);
    }
    FAILS(setpgid(pid, pid), EACCES);
    kill(pid, SIGKILL);
    reap(pid);
}

CASE(an_orphaned_group_with_a_stopped_member_is_hung_up) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    pid_t middle = fork();
    if (!middle) {
        pid_t inner = fork();
        if (!inner) {
            setpgid(0, 0);
            on(SIGHUP, 0);
            on(SIGCONT, 0);
            if (write(pipes[1], "r", 1) != 1) _exit(1);
            raise(SIGSTOP);
            char result[2] = {(char)('0' + count), '\n'};
            if (write(pipes[1], result, 1) != 1) _exit(1);
            _exit(0);
        }
        setpgid(inner, inner);
        int status;
        waitpid(inner, &status, WUNTRACED);
        _exit(WIFSTOPPED(status) ? 0 : 1);
    }
    close(pipes[1]);
    CHECK(exit_of(middle) == 0);
    char text[3] = {0};
    CHECK(read(pipes[0], text, 1) == 1);
    CHECK(read(pipes[0], text + 1, 1) == 1);
    note("%s", text); // SIGHUP and SIGCONT came
}

CASE(an_orphaned_group_ignores_terminal_stops) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    pid_t middle = fork();
    if (!middle) {
        if (fork() == 0) {
            setsid(); // a session of its own: orphaned
            raise(SIGTSTP);
            raise(SIGTTIN);
            if (write(pipes[1], "alive", 5) != 5) _exit(1);
        }
        _exit(0);
    }
    close(pipes[1]);
    reap(middle);
    char text[8] = {0};
    CHECK(read(pipes[0], text, 7) == 5);
    note("%s", text);
}

CASE(sigchld_to_a_parent_that_waits_in_a_handler) {
    on(SIGCHLD, SA_RESTART);
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (!pid) _exit(i);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == i);
    }
    CHECK(happened(3));
    for (int i = 0; i < 3; i++) CHECK(infos[i].si_code == CLD_EXITED && infos[i].si_status == i);
}
