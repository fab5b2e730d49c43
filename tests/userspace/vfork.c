// vfork, posix_spawn: the child borrows everything until it executes or exits.
#include "check.h"
#include <spawn.h>
extern char **environ;

CASE(parent_waits_for_exit) {
    static volatile int touched;
    touched = 0;
    pid_t pid = vfork();
    if (pid == 0) {
        touched = 1;
        _exit(6);
    }
    CHECK(pid > 0 && touched == 1);
    CHECK(exit_of(pid) == 6);
}

CASE(parent_waits_for_exec) {
    for (int i = 0; i < 10; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            execl("/bin/sh", "sh", "-c", "exit 9", NULL);
            _exit(127);
        }
        CHECK(exit_of(pid) == 9);
    }
}

CASE(failed_exec_goes_on) {
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/nonexistent", "x", NULL);
        _exit(errno);
    }
    CHECK(exit_of(pid) == ENOENT);
}

CASE(killed_child_frees_the_parent) {
    pid_t pid = vfork();
    if (pid == 0) {
        kill(getpid(), SIGKILL);
        _exit(0);
    }
    CHECK(exit_of(pid) == 128 + SIGKILL);
}

CASE(descriptors_are_the_childs_own) {
    pid_t pid = vfork();
    if (pid == 0) {
        close(1);
        close(0);
        _exit(0);
    }
    CHECK(exit_of(pid) == 0);
    CHECK(fcntl(1, F_GETFD) >= 0);
}

CASE(child_pid_differs) {
    static volatile pid_t inside;
    pid_t pid = vfork();
    if (pid == 0) {
        inside = getpid();
        _exit(0);
    }
    CHECK(inside == pid);
    CHECK(getpid() != pid);
    CHECK(exit_of(pid) == 0);
}

CASE(child_that_sleeps_blocks_the_parent) {
    double start = now();
    pid_t pid = vfork();
    if (pid == 0) {
        sleep_ms(150);
        _exit(0);
    }
    CHECK(now() - start >= 0.15);
    CHECK(exit_of(pid) == 0);
}

CASE(spawn_with_file_actions) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 5, "out", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    posix_spawn_file_actions_adddup2(&actions, 5, 1);
    posix_spawn_file_actions_addclose(&actions, 5);
    char *argv[] = {"echo", "spawned", NULL};
    pid_t pid;
    NEED(posix_spawn(&pid, "/bin/echo", &actions, NULL, argv, environ) == 0);
    CHECK(exit_of(pid) == 0);
    CHECK(!strcmp(content("out"), "spawned\n"));
    CHECK(posix_spawn(&pid, "/nonexistent", NULL, NULL, argv, environ) == ENOENT);
    CHECK(posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0);
    CHECK(exit_of(pid) == 0);
}

CASE(spawn_with_signal_attributes) {
    signal(SIGUSR1, SIG_IGN);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    posix_spawnattr_setsigdefault(&attributes, &set);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    char *argv[] = {"sh", "-c", "kill -USR1 $$; exit 0", NULL};
    pid_t pid;
    NEED(posix_spawn(&pid, "/bin/sh", NULL, &attributes, argv, environ) == 0);
    CHECK(exit_of(pid) == 128 + SIGUSR1);
}

CASE(nested) {
    pid_t pid = vfork();
    if (pid == 0) {
        pid_t inner = vfork();
        if (inner == 0) _exit(4);
        int status;
        waitpid(inner, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    }
    CHECK(exit_of(pid) == 5);
}

CASE(system_and_popen) {
    CHECK(system("exit 3") == 3 << 8);
    CHECK(system(NULL) != 0);
    FILE *f = popen("echo popen", "r");
    char line[100] = "";
    CHECK(fgets(line, sizeof line, f) && !strcmp(line, "popen\n"));
    CHECK(pclose(f) == 0);
}
