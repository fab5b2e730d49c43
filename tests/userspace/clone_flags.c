// clone and clone3: what parent and child share, flag by flag, and which combinations are refused.
#include "check.h"
#include <linux/sched.h>
#include <sys/utsname.h>

static char stack[1 << 18] __attribute__((aligned(16)));
#define TOP (stack + sizeof stack)
static volatile int shared;
static int code;

static int set_shared(void *argument) {
    shared = 7;
    (void)argument;
    return code;
}

CASE(own_memory_without_clone_vm) {
    shared = 1;
    pid_t pid = clone(set_shared, TOP, SIGCHLD, NULL);
    NEED(pid > 0);
    CHECK(exit_of(pid) == 0);
    CHECK(shared == 1);
}

CASE(clone_vm_shares_memory) {
    shared = 1;
    code = 5;
    pid_t pid = clone(set_shared, TOP, CLONE_VM | SIGCHLD, NULL);
    NEED(pid > 0);
    CHECK(exit_of(pid) == 5);
    CHECK(shared == 7);
}

static int map_something(void *argument) {
    *(void **)argument = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(*(char **)argument, "mapped by the child");
    return 0;
}

CASE(clone_vm_shares_new_maps) {
    char *where = NULL;
    pid_t pid = clone(map_something, TOP, CLONE_VM | SIGCHLD, &where);
    CHECK(exit_of(pid) == 0);
    CHECK(!strcmp(where, "mapped by the child"));
}

static int conversation[2];
static int converse(void *argument) {
    (void)argument;
    for (int i = 0; i < 100; i++) {
        while (__atomic_load_n(&conversation[0], __ATOMIC_ACQUIRE) != i) syscall(SYS_futex, &conversation[0], 0, i - 1, NULL);
        __atomic_store_n(&conversation[1], i + 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &conversation[1], 1, 1);
    }
    return 0;
}

CASE(clone_vm_processes_converse_by_futex) {
    pid_t pid = clone(converse, TOP, CLONE_VM | SIGCHLD, NULL);
    NEED(pid > 0);
    for (int i = 0; i < 100; i++) {
        __atomic_store_n(&conversation[0], i, __ATOMIC_RELEASE);
        syscall(SYS_futex, &conversation[0], 1, 1);
        int seen;
        while ((seen = __atomic_load_n(&conversation[1], __ATOMIC_ACQUIRE)) != i + 1) syscall(SYS_futex, &conversation[1], 0, seen, NULL);
    }
    CHECK(exit_of(pid) == 0);
}

static int open_null(void *argument) {
    (void)argument;
    return dup2(1, 77) == 77 ? 0 : 1;
}

CASE(clone_files) {
    pid_t pid = clone(open_null, TOP, SIGCHLD, NULL);
    CHECK(exit_of(pid) == 0);
    FAILS(fcntl(77, F_GETFD), EBADF);
    pid = clone(open_null, TOP, CLONE_FILES | SIGCHLD, NULL);
    CHECK(exit_of(pid) == 0);
    CHECK(fcntl(77, F_GETFD) == 0);
}

static int change_directory(void *argument) {
    (void)argument;
    umask(0123);
    return chdir("/");
}

CASE(clone_fs) {
    umask(022);
    char before[4096], after[4096];
    CHECK(getcwd(before, sizeof before) != NULL);
    CHECK(exit_of(clone(change_directory, TOP, SIGCHLD, NULL)) == 0);
    CHECK(getcwd(after, sizeof after) && !strcmp(before, after));
    CHECK(exit_of(clone(change_directory, TOP, CLONE_FS | SIGCHLD, NULL)) == 0);
    CHECK(getcwd(after, sizeof after) && !strcmp(after, "/"));
    CHECK(umask(022) == 0123);
}

static void handler(int s) { (void)s; }
static int set_handler(void *argument) {
    (void)argument;
    signal(SIGUSR1, handler);
    return 0;
}

CASE(clone_sighand) {
    struct sigaction action;
    CHECK(exit_of(clone(set_handler, TOP, CLONE_VM | SIGCHLD, NULL)) == 0);
    CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
    CHECK(exit_of(clone(set_handler, TOP, CLONE_VM | CLONE_SIGHAND | SIGCHLD, NULL)) == 0);
    CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == handler);
}

CASE(clear_sighand) {
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    struct clone_args arguments = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) {
        struct sigaction action;
        CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
        CHECK(sigaction(SIGUSR2, NULL, &action) == 0 && action.sa_handler == SIG_IGN);
        _exit(check_failures);
    }
    if (pid < 0 && errno == ENOSYS) SKIP("no clone3");
    CHECK(exit_of(pid) == 0);
}

static volatile pid_t parent_tid, child_tid;
static int nothing(void *argument) {
    (void)argument;
    return 0;
}

CASE(parent_settid) {
    pid_t pid = clone(nothing, TOP, CLONE_PARENT_SETTID | SIGCHLD, NULL, &parent_tid);
    CHECK(parent_tid == pid);
    CHECK(exit_of(pid) == 0);
}

static int own_tid(void *argument) {
    (void)argument;
    return child_tid == getpid() ? 0 : 1;
}

CASE(child_settid) {
    pid_t pid = clone(own_tid, TOP, CLONE_CHILD_SETTID | SIGCHLD, NULL, NULL, NULL, &child_tid);
    CHECK(exit_of(pid) == 0);
    CHECK(child_tid == 0);
}

CASE(child_cleartid) {
    child_tid = 99;
    pid_t pid = clone(nothing, TOP, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, NULL, NULL, NULL, &child_tid);
    NEED(pid > 0);
    while (child_tid == 99) syscall(SYS_futex, &child_tid, 0, 99, NULL);
    CHECK(child_tid == 0);
    CHECK(exit_of(pid) == 0);
}

static int slow(void *argument) {
    (void)argument;
    sleep_ms(100);
    shared = 9;
    return 3;
}

CASE(clone_vfork_suspends_parent) {
    shared = 0;
    pid_t pid = clone(slow, TOP, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    CHECK(shared == 9);
    CHECK(exit_of(pid) == 3);
    shared = 0;
    pid = clone(slow, TOP, CLONE_VFORK | SIGCHLD, NULL);
    CHECK(shared == 0);
    FAILS(waitpid(pid, NULL, __WCLONE | WNOHANG), ECHILD);
    CHECK(exit_of(pid) == 3);
}

CASE(other_exit_signals) {
    pid_t pid = clone(nothing, TOP, 0, NULL);
    NEED(pid > 0);
    sleep_ms(20);
    FAILS(waitpid(pid, NULL, 0), ECHILD);
    int status;
    CHECK(waitpid(pid, &status, __WCLONE) == pid);
    pid = clone(nothing, TOP, 0, NULL);
    CHECK(waitpid(pid, &status, __WALL) == pid);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    pid = clone(nothing, TOP, SIGUSR1, NULL);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_pid == pid && info.si_code == CLD_EXITED);
    CHECK(waitpid(pid, &status, __WALL) == pid);
}

CASE(clone_parent_makes_siblings) {
    int p[2];
    NEED(pipe(p) == 0);
    pid_t self = getpid();
    pid_t middle = CHILD({
        pid_t sibling = clone(nothing, TOP, CLONE_PARENT | SIGCHLD, NULL);
        write(p[1], &sibling, sizeof sibling);
        FAILS(waitpid(sibling, NULL, 0), ECHILD);
    });
    pid_t sibling;
    CHECK(read(p[0], &sibling, sizeof sibling) == sizeof sibling);
    CHECK(exit_of(sibling) == 0);
    CHECK(exit_of(middle) == 0);
    (void)self;
}

CASE(refused_combinations) {
    FAILS(clone(nothing, TOP, CLONE_SIGHAND | SIGCHLD, NULL), EINVAL);
    FAILS(clone(nothing, TOP, CLONE_THREAD | CLONE_VM | SIGCHLD, NULL), EINVAL);
    FAILS(clone(nothing, TOP, CLONE_THREAD | CLONE_SIGHAND | SIGCHLD, NULL), EINVAL);
    FAILS(clone(nothing, TOP, CLONE_FS | CLONE_NEWNS | SIGCHLD, NULL), EINVAL);
    struct clone_args arguments = {.flags = 1ULL << 60, .exit_signal = SIGCHLD};
    FAILS(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
    arguments.flags = 0;
    arguments.exit_signal = 100;
    FAILS(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
    arguments.exit_signal = SIGCHLD;
    arguments.stack = 16;
    FAILS(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
    FAILS(syscall(SYS_clone3, &arguments, 8), EINVAL);
    FAILS(syscall(SYS_clone3, 16, sizeof arguments), EFAULT);
}

CASE(clone3_plain) {
    pid_t tid = 0;
    struct clone_args arguments = {.flags = CLONE_PARENT_SETTID, .parent_tid = (uintptr_t)&tid, .exit_signal = SIGCHLD};
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) _exit(11);
    NEED(pid > 0);
    CHECK(tid == pid);
    CHECK(exit_of(pid) == 11);
}

CASE(clone_pidfd) {
    int pidfd = -1;
    pid_t pid = clone(slow, TOP, CLONE_PIDFD | SIGCHLD, NULL, &pidfd);
    NEED(pid > 0 && pidfd >= 0);
    CHECK(fcntl(pidfd, F_GETFD) == FD_CLOEXEC);
    struct pollfd poll_pidfd = {pidfd, POLLIN, 0};
    CHECK(poll(&poll_pidfd, 1, 0) == 0);
    CHECK(poll(&poll_pidfd, 1, 5000) == 1 && poll_pidfd.revents == POLLIN);
    siginfo_t info;
    CHECK(waitid(P_PIDFD, pidfd, &info, WEXITED) == 0 && info.si_status == 3 && info.si_pid == pid);
}

static int rename_host(void *argument) {
    (void)argument;
    struct utsname name;
    if (sethostname("inside", 6) < 0 || uname(&name) < 0) return 1;
    return strcmp(name.nodename, "inside") != 0;
}

CASE(new_uts_namespace) {
    struct utsname before, after;
    uname(&before);
    pid_t pid = clone(rename_host, TOP, CLONE_NEWUTS | SIGCHLD, NULL);
    if (pid < 0 && errno == EPERM) SKIP("may not make namespaces");
    CHECK(exit_of(pid) == 0);
    uname(&after);
    CHECK(!strcmp(before.nodename, after.nodename));
}

static int raise_exit(void *argument) {
    syscall(SYS_exit, (long)argument);
    return 0;
}

CASE(exit_alone_ends_the_process_of_one) {
    CHECK(exit_of(clone(raise_exit, TOP, SIGCHLD, (void *)21)) == 21);
    CHECK(exit_of(clone(raise_exit, TOP, CLONE_VM | SIGCHLD, (void *)22)) == 22);
}

CASE(death_of_a_clone_vm_child_leaves_the_parent) {
    pid_t pid = clone(slow, TOP, CLONE_VM | SIGCHLD, NULL);
    kill(pid, SIGKILL);
    CHECK(exit_of(pid) == 128 + SIGKILL);
    CHECK(malloc(100000) != NULL);
}
