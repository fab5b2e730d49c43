// fork, exit, wait4, waitid: statuses, options, zombies, re-parenting.
#include "check.h"
#include <sys/prctl.h>
#include <sys/resource.h>

CASE(fork_returns_twice) {
    pid_t parent = getpid();
    pid_t pid = CHILD({
        CHECK(getppid() == parent);
        CHECK(getpid() != parent);
    });
    NEED(pid > 0);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

CASE(exit_status_is_the_low_byte) {
    int codes[] = {0, 1, 42, 255, 256, 511, -1};
    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++) {
        pid_t pid = fork();
        if (!pid) _exit(codes[i]);
        int status = reap(pid);
        note("exit(%d) -> %#x", codes[i], status);
    }
}

CASE(killed_by_each_signal) {
    for (int s = 1; s <= 64; s++) {
        if (s == 32 || s == 33) continue;
        pid_t pid = fork();
        if (!pid) {
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            signal(s, SIG_DFL);
            kill(getpid(), s);
            _exit(5);
        }
        int status = 0;
        waitpid(pid, &status, WUNTRACED);
        note("signal %d -> %#x", s, status);
        if (WIFSTOPPED(status)) {
            kill(pid, SIGKILL);
            reap(pid);
        }
    }
}

CASE(wait_without_children) {
    FAILS(waitpid(-1, NULL, 0), ECHILD);
    FAILS(waitpid(getpid(), NULL, 0), ECHILD);
    FAILS(waitpid(1, NULL, WNOHANG), ECHILD);
    siginfo_t info;
    FAILS(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    FAILS(waitid(P_PID, 0, &info, WEXITED), EINVAL);
    FAILS(waitid(P_ALL, 0, &info, 0), EINVAL);
    FAILS(waitid(P_ALL, 0, &info, WNOHANG), EINVAL);
    FAILS(waitid(77, 0, &info, WEXITED), EINVAL);
    FAILS(wait4(-1, NULL, 0x1000, NULL), EINVAL);
}

CASE(wnohang) {
    int p[2];
    NEED(pipe(p) == 0);
    pid_t pid = CHILD({
        char c;
        close(p[1]);
        read(p[0], &c, 1);
    });
    CHECK(waitpid(pid, NULL, WNOHANG) == 0);
    siginfo_t info;
    memset(&info, 0xff, sizeof info);
    CHECK(waitid(P_PID, pid, &info, WEXITED | WNOHANG) == 0);
    CHECK(info.si_pid == 0 && info.si_signo == 0);
    close(p[1]);
    CHECK(waitpid(pid, NULL, 0) == pid);
    FAILS(waitpid(pid, NULL, WNOHANG), ECHILD);
}

CASE(waitid_siginfo) {
    siginfo_t info;
    pid_t pid = fork();
    if (!pid) _exit(9);
    CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
    CHECK(info.si_signo == SIGCHLD && info.si_code == CLD_EXITED && info.si_status == 9 && info.si_pid == pid);
    CHECK(info.si_uid == getuid());
    memset(&info, 0, sizeof info);
    CHECK(waitid(P_PID, pid, &info, WEXITED) == 0);
    CHECK(info.si_code == CLD_EXITED && info.si_status == 9);
    FAILS(waitid(P_PID, pid, &info, WEXITED), ECHILD);
    pid = fork();
    if (!pid) {
        pause();
        _exit(0);
    }
    kill(pid, SIGKILL);
    CHECK(waitid(P_PID, pid, &info, WEXITED) == 0);
    CHECK(info.si_code == CLD_KILLED && info.si_status == SIGKILL);
}

CASE(stop_and_continue) {
    pid_t pid = fork();
    if (!pid)
        for (;;) pause();
    kill(pid, SIGSTOP);
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    CHECK(waitpid(pid, &status, WUNTRACED | WNOHANG) == 0);
    CHECK(state_of(pid) == 'T');
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid);
    CHECK(WIFCONTINUED(status));
    kill(pid, SIGTSTP);
    siginfo_t info;
    CHECK(waitid(P_PID, pid, &info, WSTOPPED) == 0);
    CHECK(info.si_code == CLD_STOPPED && info.si_status == SIGTSTP);
    kill(pid, SIGCONT);
    CHECK(waitid(P_PID, pid, &info, WCONTINUED) == 0);
    CHECK(info.si_code == CLD_CONTINUED && info.si_status == SIGCONT);
    kill(pid, SIGTERM);
    CHECK(exit_of(pid) == 128 + SIGTERM);
}

CASE(wait_by_process_group) {
    pid_t a = fork();
    if (!a) {
        setpgid(0, 0);
        _exit(1);
    }
    setpgid(a, a);
    pid_t b = fork();
    if (!b) _exit(2);
    int status;
    CHECK(waitpid(-a, &status, 0) == a && WEXITSTATUS(status) == 1);
    FAILS(waitpid(-a, &status, 0), ECHILD);
    CHECK(waitpid(0, &status, 0) == b && WEXITSTATUS(status) == 2);
}

CASE(zombie_stays_until_waited_for) {
    pid_t pid = fork();
    if (!pid) _exit(3);
    siginfo_t info;
    CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
    CHECK(state_of(pid) == 'Z');
    CHECK(kill(pid, 0) == 0);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(exit_of(pid) == 3);
    FAILS(kill(pid, 0), ESRCH);
}

CASE(ignored_sigchld_reaps) {
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 5; i++)
        if (fork() == 0) _exit(i);
    FAILS(waitpid(-1, NULL, 0), ECHILD);
}

CASE(nocldwait_reaps_and_signals) {
    static volatile int seen;
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &action, NULL);
    if (fork() == 0) _exit(0);
    FAILS(waitpid(-1, NULL, 0), ECHILD);
    (void)seen;
}

CASE(orphans_go_to_the_subreaper) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int flag = 0;
    CHECK(prctl(PR_GET_CHILD_SUBREAPER, &flag) == 0 && flag == 1);
    int p[2];
    NEED(pipe(p) == 0);
    pid_t self = getpid();
    pid_t middle = CHILD({
        pid_t leaf = fork();
        if (leaf == 0) {
            while (getppid() != self) sleep_ms(5);
            _exit(17);
        }
        write(p[1], &leaf, sizeof leaf);
    });
    pid_t leaf;
    CHECK(exit_of(middle) == 0);
    CHECK(read(p[0], &leaf, sizeof leaf) == sizeof leaf);
    CHECK(exit_of(leaf) == 17);
}

CASE(children_are_waited_for_in_any_order) {
    pid_t pids[20];
    for (int i = 0; i < 20; i++)
        if ((pids[i] = fork()) == 0) _exit(i);
    for (int i = 19; i >= 0; i--) CHECK(exit_of(pids[i]) == i);
}

CASE(wait_any_sees_each_once) {
    int seen[20] = {0};
    for (int i = 0; i < 20; i++)
        if (fork() == 0) _exit(i);
    for (int i = 0; i < 20; i++) {
        int status;
        NEED(wait(&status) > 0);
        seen[WEXITSTATUS(status)]++;
    }
    for (int i = 0; i < 20; i++) CHECK(seen[i] == 1);
    FAILS(wait(NULL), ECHILD);
}

CASE(wait_is_interrupted_or_restarted) {
    extern void on_alarm(int);
    for (int restart = 0; restart < 2; restart++) {
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = restart ? SA_RESTART : 0};
        sigaction(SIGALRM, &action, NULL);
        pid_t pid = CHILD({ sleep_ms(300); });
        ualarm(50000, 0);
        int status;
        pid_t got = waitpid(pid, &status, 0);
        if (restart)
            CHECK(got == pid);
        else {
            CHECK(got == -1 && errno == EINTR);
            reap(pid);
        }
    }
}
void on_alarm(int s) { (void)s; }

CASE(memory_is_copied_at_fork) {
    int *heap = malloc(1 << 20), stack = 1;
    static int data = 1;
    memset(heap, 1, 1 << 20);
    IN_CHILD({
        CHECK(data == 1 && stack == 1 && heap[1000] == 0x01010101);
        data = stack = heap[1000] = 2;
    });
    CHECK(data == 1 && stack == 1 && heap[1000] == 0x01010101);
    int p[2];
    NEED(pipe(p) == 0);
    pid_t pid = CHILD({
        char c;
        close(p[1]);
        read(p[0], &c, 1);
        CHECK(data == 1 && heap[5] == 0x01010101 && heap[200000] == 0x01010101);
    });
    data = heap[5] = heap[200000] = 3;
    close(p[1]);
    CHECK(exit_of(pid) == 0);
}

CASE(fork_chain) {
    for (int depth = 0; depth < 12; depth++) {
        pid_t pid = fork();
        NEED(pid >= 0);
        if (pid) {
            int code = exit_of(pid);
            if (depth) _exit(code + 1);
            CHECK(code == 11);
            return;
        }
    }
    _exit(0);
}

CASE(many_children_at_once) {
    int p[2];
    NEED(pipe(p) == 0);
    for (int i = 0; i < 60; i++)
        if (fork() == 0) {
            char c;
            close(p[1]);
            read(p[0], &c, 1);
            _exit(0);
        }
    close(p[1]);
    int count = 0;
    while (wait(NULL) > 0) count++;
    CHECK(count == 60);
}

CASE(rusage_of_children) {
    struct rusage usage;
    pid_t pid = CHILD({
        while (clock() < CLOCKS_PER_SEC / 20) {}
    });
    int status;
    CHECK(wait4(pid, &status, 0, &usage) == pid);
    CHECK(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec + usage.ru_utime.tv_sec * 1000000 > 10000);
    CHECK(usage.ru_maxrss > 0);
    struct rusage all;
    CHECK(getrusage(RUSAGE_CHILDREN, &all) == 0);
    CHECK(all.ru_utime.tv_usec + all.ru_stime.tv_usec + all.ru_utime.tv_sec * 1000000 > 10000);
}

CASE(exit_runs_atexit_and_flushes) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        printf("buffered\n");
        exit(4);
    }
    CHECK(exit_of(pid) == 4);
}

CASE(parent_death_signal) {
    int p[2];
    NEED(pipe(p) == 0);
    pid_t middle = fork();
    if (!middle) {
        if (fork() == 0) {
            close(p[0]);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            write(p[1], "x", 1);
            for (;;) pause();
        }
        char c;
        read(p[0], &c, 1);
        _exit(0);
    }
    close(p[1]);
    CHECK(exit_of(middle) == 0);
    char c;
    CHECK(read(p[0], &c, 1) == 0); /* the orphan died: the pipe's last writer is gone */
}
