/* The frame of a userspace test: a program of CASEs that passes on Linux first, and then on polynix, unchanged.

   CASE(name) { ... }       one case; it runs in a forked child, a process group with a fresh empty directory, dead after 20 s
   CHECK(condition)         go on and fail the case when false (errno is printed)
   NEED(condition)          the same, and end the case
   FAILS(call, E...)        the call must return -1 with that errno
   SKIP(why)                end the case: this machine or this user can't show it
   note(format, ...)        a line of the case's output, which must be the same on Linux and here

   Arguments: names of cases to run, all without; --here runs them in this process, --list names them. */
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct check_case {
    const char *name;
    void (*run)(void);
    struct check_case *next;
};
static struct check_case *check_cases, **check_tail = &check_cases;
static volatile int check_failures;

#define CASE(title)                                                                                                                                  \
    static void case_##title(void);                                                                                                                  \
    __attribute__((constructor)) static void register_##title(void) {                                                                               \
        static struct check_case self = {#title, case_##title, NULL};                                                                                \
        *check_tail = &self;                                                                                                                         \
        check_tail = &self.next;                                                                                                                     \
    }                                                                                                                                                \
    static void case_##title(void)

__attribute__((format(printf, 1, 2), unused)) static void note(const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length++] = '\n';
    if (write(1, line, length) != length) _exit(99);
}

#define CHECK_FAILED(what)                                                                                                                           \
    do {                                                                                                                                             \
        int check_errno = errno;                                                                                                                     \
        check_failures++;                                                                                                                            \
        note("%s:%d: %s (errno %d %s)", strrchr("/" __FILE__, '/') + 1, __LINE__, what, check_errno, strerrorname_np(check_errno));                  \
    } while (0)
#define CHECK(...)                                                                                                                                   \
    do {                                                                                                                                             \
        if (!(__VA_ARGS__)) CHECK_FAILED("CHECK(" #__VA_ARGS__ ")");                                                                                 \
    } while (0)
#define NEED(...)                                                                                                                                    \
    do {                                                                                                                                             \
        if (!(__VA_ARGS__)) {                                                                                                                        \
            CHECK_FAILED("NEED(" #__VA_ARGS__ ")");                                                                                                  \
            _exit(1);                                                                                                                                \
        }                                                                                                                                            \
    } while (0)
#define FAILS(call, ...)                                                                                                                             \
    do {                                                                                                                                             \
        errno = 0;                                                                                                                                   \
        long check_result = (long)(call);                                                                                                            \
        if (check_result != -1 || errno != (__VA_ARGS__)) {                                                                                          \
            check_failures++;                                                                                                                        \
            note("%s:%d: %s returned %ld (errno %d %s), not " #__VA_ARGS__, strrchr("/" __FILE__, '/') + 1, __LINE__, #call, check_result, errno,    \
                 strerrorname_np(errno));                                                                                                            \
        }                                                                                                                                            \
    } while (0)
#define SKIP(why)                                                                                                                                    \
    do {                                                                                                                                             \
        note("skip: %s", why);                                                                                                                       \
        _exit(77);                                                                                                                                   \
    } while (0)

/* Reap a child and give its wait status; -1 when there is none. */
__attribute__((unused)) static int reap(pid_t pid) {
    int status = -1;
    pid_t got;
    do got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -1 : status;
}
/* The child's exit status, or 128 + the signal that ended it. */
__attribute__((unused)) static int exit_of(pid_t pid) {
    int status = reap(pid);
    return status < 0 ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
/* Run a block in a forked child: pid_t p = CHILD({ ... }); the child exits 0 at its end, 1 if a CHECK in it failed. */
#define CHILD(...)                                                                                                                                   \
    ({                                                                                                                                               \
        pid_t check_pid = fork();                                                                                                                    \
        if (check_pid == 0) {                                                                                                                        \
            __VA_ARGS__;                                                                                                                             \
            _exit(check_failures != 0);                                                                                                              \
        }                                                                                                                                            \
        check_pid;                                                                                                                                   \
    })
/* CHECK that a child passes. */
#define IN_CHILD(...)                                                                                                                                \
    do {                                                                                                                                             \
        if (exit_of(CHILD(__VA_ARGS__)) != 0) CHECK_FAILED("IN_CHILD");                                                                              \
    } while (0)
__attribute__((unused)) static void sleep_ms(long milliseconds) {
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {}
}
__attribute__((unused)) static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
/* The whole content of a small file (of /proc, mostly), NUL-terminated, in a static buffer; NULL when it can't be read. */
__attribute__((unused)) static char *content(const char *path) {
    static char buffer[1 << 16];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    size_t length = 0;
    for (ssize_t n; length < sizeof buffer - 1 && (n = read(fd, buffer + length, sizeof buffer - 1 - length)) > 0;) length += n;
    close(fd);
    buffer[length] = 0;
    return buffer;
}
__attribute__((unused)) static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : -1;
}
/* The state letter of a process in /proc/PID/stat; '?' when it can't be read. */
__attribute__((unused)) static char state_of(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    char *text = content(path), *end = text ? strrchr(text, ')') : NULL;
    return end && end[1] ? end[2] : '?';
}
/* Wait until a process or thread sleeps (or is stopped, or a zombie), at most five seconds. */
__attribute__((unused)) static bool wait_for_state(pid_t pid, char state) {
    for (int i = 0; i < 500; i++) {
        if (state_of(pid) == state) return true;
        sleep_ms(10);
    }
    return false;
}

static int check_run(struct check_case *this, int here) {
    char directory[] = "check.XXXXXX";
    note("[ RUN ] %s", this->name);
    int status = 0;
    if (here) {
        this->run();
        status = check_failures ? 1 << 8 : 0;
    } else {
        bool inside = mkdtemp(directory) != NULL;
        pid_t pid = fork();
        if (pid < 0) {
            note("fork: %s", strerrorname_np(errno));
            status = 1 << 8;
        } else if (pid == 0) {
            if (!inside || chdir(directory) < 0) {
                note("directory: %s", strerrorname_np(errno));
                _exit(1);
            }
            setpgid(0, 0);
            alarm(20);
            this->run();
            _exit(check_failures != 0);
        } else {
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
            kill(-pid, SIGKILL); /* what it left behind in its process group */
        }
    }
    const char *verdict = WIFEXITED(status) ? WEXITSTATUS(status) == 0 ? "OK" : WEXITSTATUS(status) == 77 ? "SKIP" : "FAIL" : "DIED";
    if (WIFSIGNALED(status)) note("signal %d", WTERMSIG(status));
    note("[ %s ] %s", verdict, this->name);
    return verdict[0] == 'F' || verdict[0] == 'D';
}

/* Whoever started us may ignore signals, those that libc keeps for itself among them: begin as a login shell's child does. */
static void check_default_signals(void) {
    struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } action = {0};
    for (int number = 1; number <= 64; number++) syscall(SYS_rt_sigaction, number, &action, NULL, 8);
}

int main(int argc, char **argv) {
    check_default_signals();
    int here = 0, first = 1, failed = 0;
    if (argc > 1 && !strcmp(argv[1], "--list")) {
        for (struct check_case *each = check_cases; each; each = each->next) puts(each->name);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "--here")) here = 1, first++;
    for (struct check_case *each = check_cases; each; each = each->next) {
        bool wanted = first == argc;
        for (int i = first; i < argc; i++) wanted |= !strcmp(argv[i], each->name);
        if (wanted) failed |= check_run(each, here);
    }
    return failed;
}
#endif
