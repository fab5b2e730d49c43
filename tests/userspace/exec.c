// execve, execveat, #! scripts: what a new program inherits, and why it may not start.
#include "check.h"
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>

static int run(char *const argv[], char *const envp[]) {
    pid_t pid = fork();
    if (!pid) {
        execve(argv[0], argv, envp);
        _exit(100 + errno % 100);
    }
    return exit_of(pid);
}
#define RUN(...) run((char *[]){__VA_ARGS__, NULL}, (char *[]){"PATH=/usr/bin:/bin", "X=1", NULL})

CASE(arguments_and_environment) {
    CHECK(RUN("/bin/sh", "-c", "echo \"$0 $1 $2 $# $X\"", "zero", "one", "two words") == 0);
    CHECK(RUN("/usr/bin/env", "-i", "A=b", "/usr/bin/env") == 0);
    CHECK(RUN("/bin/sh", "-c", "exit 7") == 7);
    CHECK(run((char *[]){"/usr/bin/env", NULL}, (char *[]){NULL}) == 0);
}

CASE(errors) {
    FAILS(execl("/nonexistent/x", "x", NULL), ENOENT);
    FAILS(execl("/etc/passwd", "x", NULL), EACCES);
    FAILS(execl("/etc", "x", NULL), EACCES);
    FAILS(execl("/etc/passwd/x", "x", NULL), ENOTDIR);
    FAILS(execl("", "x", NULL), ENOENT);
    put("text", "no program\n");
    chmod("text", 0755);
    FAILS(execl("./text", "x", NULL), ENOEXEC);
    put("empty", "");
    chmod("empty", 0755);
    FAILS(execl("./empty", "x", NULL), ENOEXEC);
    put("bad", "#!/nonexistent/interpreter\n");
    chmod("bad", 0755);
    FAILS(execl("./bad", "x", NULL), ENOENT);
    put("short", "\177ELF\002\001\001");
    chmod("short", 0755);
    FAILS(execl("./short", "x", NULL), ENOEXEC);
    symlink("loop", "loop");
    FAILS(execl("./loop", "x", NULL), ELOOP);
    char name[5000];
    memset(name, 'a', sizeof name);
    name[4999] = 0;
    FAILS(execl(name, "x", NULL), ENAMETOOLONG);
    name[300] = 0;
    FAILS(execl(name, "x", NULL), ENAMETOOLONG);
}

CASE(busy_text) {
    int in = open("/bin/true", O_RDONLY), out = open("prog", O_WRONLY | O_CREAT, 0755);
    static char buffer[1 << 20];
    ssize_t n = read(in, buffer, sizeof buffer);
    CHECK(write(out, buffer, n) == n);
    FAILS(execl("./prog", "x", NULL), ETXTBSY);
    close(out);
    CHECK(RUN("./prog") == 0);
    CHECK(chmod("prog", 0644) == 0);
    FAILS(execl("./prog", "x", NULL), EACCES);
}

CASE(script) {
    put("script", "#!/bin/sh\necho \"$0 $# $1\"\n");
    chmod("script", 0755);
    CHECK(RUN("./script", "an argument") == 0);
    put("option", "#! /bin/sh -e \nfalse\necho not reached\n");
    chmod("option", 0755);
    CHECK(RUN("./option") == 1);
    put("nested", "#!./script\nignored\n");
    chmod("nested", 0755);
    CHECK(RUN("./nested", "x") == 0);
    put("one", "#!/bin/echo two words\n");
    chmod("one", 0755);
    CHECK(RUN("./one", "third") == 0);
    put("noline", "#!/bin/echo");
    chmod("noline", 0755);
    CHECK(RUN("./noline", "third") == 0);
}

CASE(script_recursion_ends) {
    put("self", "#!./self\n");
    chmod("self", 0755);
    FAILS(execl("./self", "self", NULL), ELOOP);
}

CASE(too_big) {
    static char big[200000];
    memset(big, 'x', sizeof big - 1);
    FAILS(execl("/bin/true", "x", big, NULL), E2BIG);
    big[130000] = 0;
    CHECK(RUN("/bin/true", big) == 0);
    static char *many[3000];
    for (int i = 0; i < 2999; i++) many[i] = big;
    FAILS(execv("/bin/true", many), E2BIG);
    for (int i = 0; i < 2999; i++) many[i] = "argument";
    pid_t pid = fork();
    if (!pid) {
        execv("/bin/true", many);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(bad_pointers) {
    char *bad[] = {"x", (char *)16, NULL};
    FAILS(execve("/bin/true", bad, NULL), EFAULT);
    FAILS(execve("/bin/true", (char **)16, NULL), EFAULT);
    FAILS(execve((char *)16, bad, NULL), EFAULT);
}

CASE(close_on_exec) {
    int keep = open("/dev/null", O_RDONLY), lose = open("/dev/null", O_RDONLY | O_CLOEXEC);
    NEED(keep >= 0 && lose >= 0);
    char script[128];
    snprintf(script, sizeof script, "[ -e /proc/self/fd/%d ] && echo kept; [ -e /proc/self/fd/%d ] || echo closed", keep, lose);
    CHECK(RUN("/bin/sh", "-c", script) == 0);
    CHECK(fcntl(lose, F_GETFD) == FD_CLOEXEC);
}

CASE(signals_across_exec) {
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, (void (*)(int))case_signals_across_exec);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    CHECK(RUN("/bin/sh", "-c", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status") == 0);
}

CASE(pending_signal_survives) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pid_t pid = fork();
    if (!pid) {
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGUSR1);
kill(getpid(), SIGUSR1);
        execl("/bin/grep", "grep", "-E", "^(Shd|Sig)Pnd", "/proc/self/status", NULL);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(attributes_kept) {
    umask(027);
    CHECK(chdir("/tmp") == 0);
    struct rlimit limit = {100, 200};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(RUN("/bin/sh", "-c", "umask; pwd; ulimit -Sn; ulimit -Hn") == 0);
    prctl(PR_SET_NAME, "changed");
    CHECK(RUN("/bin/cat", "/proc/self/comm") == 0);
}

CASE(pid_and_parent_stay) {
    int p[2];
    NEED(pipe(p) == 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(p[1], 1);
        execl("/bin/sh", "sh", "-c", "echo $$ $PPID", NULL);
        _exit(1);
    }
    close(p[1]);
    char text[100] = "", expected[100];
    CHECK(read(p[0], text, sizeof text) > 0);
    snprintf(expected, sizeof expected, "%d %d\n", pid, getpid());
    CHECK(!strcmp(text, expected));
    CHECK(exit_of(pid) == 0);
}

CASE(execveat_forms) {
    int dir = open("/bin", O_PATH | O_DIRECTORY), file = open("/bin/echo", O_PATH);
    char *argv[] = {"echo", "via", "execveat", NULL}, *envp[] = {NULL};
    pid_t pid = fork();
    if (!pid) {
        syscall(SYS_execveat, dir, "echo", argv, envp, 0);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
    pid = fork();
    if (!pid) {
        syscall(SYS_execveat, file, "", argv, envp, AT_EMPTY_PATH);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
    FAILS(syscall(SYS_execveat, 99, "echo", argv, envp, 0), EBADF);
    FAILS(syscall(SYS_execveat, file, "", argv, envp, 0), ENOENT);
    FAILS(syscall(SYS_execveat, dir, "echo", argv, envp, 0x40000), EINVAL);
    symlink("/bin/echo", "link");
    FAILS(syscall(SYS_execveat, AT_FDCWD, "link", argv, envp, AT_SYMLINK_NOFOLLOW), ELOOP);
    pid = fork();
    if (!pid) {
        fexecve(open("/bin/echo", O_RDONLY | O_CLOEXEC), argv, envp);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(memory_is_fresh) {
    mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(RUN("/bin/sh", "-c", "grep -c ^10000000- /proc/self/maps; exit 0") == 0);
}

CASE(argv_empty_becomes_empty_string) {
    pid_t pid = fork();
    if (!pid) {
        char *none[] = {NULL};
        execve("/bin/true", none, none);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(timers_across_exec) {
    pid_t pid = fork();
    if (!pid) {
        struct itimerval soon = {{0, 0}, {0, 300000}};
        setitimer(ITIMER_REAL, &soon, NULL); /* survives */
        execl("/bin/sleep", "sleep", "10", NULL);
        _exit(1);
    }
    CHECK(exit_of(pid) == 128 + SIGALRM);
}

CASE(auxiliary_vector_and_cmdline) {
    int p[2];
    NEED(pipe(p) == 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(p[1], 1);
        execl("/bin/cat", "my name", "/proc/self/cmdline", NULL);
        _exit(1);
    }
    close(p[1]);
    char text[100] = "";
    CHECK(read(p[0], text, sizeof text) == 27);
    CHECK(!memcmp(text, "my name\0/proc/self/cmdline", 27));
    CHECK(exit_of(pid) == 0);
}

CASE(directory_search_permission) {
    if (geteuid() != 0) SKIP("needs root");
    mkdir("closed", 0700);
    int in = open("/bin/true", O_RDONLY), out = open("closed/prog", O_WRONLY | O_CREAT, 0755);
    static char buffer[1 << 20];
    ssize_t n = read(in, buffer, sizeof buffer);
    CHECK(write(out, buffer, n) == n);
    close(out);
    chmod(".", 0755);
    IN_CHILD({
        NEED(setgid(65534) == 0 && setuid(65534) == 0);
        FAILS(execl("closed/prog", "prog", NULL), EACCES);
    });
    IN_CHILD({
        chmod("closed", 0755);
        chmod("closed/prog", 0711);
        NEED(setgid(65534) == 0 && setuid(65534) == 0);
        execl("closed/prog", "prog", NULL);
        CHECK(!"executable without read permission");
    });
}
