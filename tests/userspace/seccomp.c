// The guest's own seccomp filters: what they see, which of several wins, and what each action does.
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/utsname.h>

static long install(struct sock_filter *filter, unsigned short length, unsigned flags) {
    struct sock_fprog program = {length, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
#define INSTALL(flags, ...)                                                                                                                          \
    ({                                                                                                                                               \
        struct sock_filter filter[] = {__VA_ARGS__};                                                                                                 \
        install(filter, sizeof filter / sizeof *filter, flags);                                                                                      \
    })
#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define ON(call, action) LOAD(nr), UNLESS(call, 1), RETURN(action), RETURN(SECCOMP_RET_ALLOW)

CASE(errno_and_its_limit) {
    struct utsname name;
    CHECK(INSTALL(0, ON(SYS_uname, SECCOMP_RET_ERRNO | EXFULL)) == 0);
    FAILS(uname(&name), EXFULL);
    CHECK(getppid() > 0);
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_ERRNO | 0xffff)) == 0);
    FAILS(getpgid(0), 4095);
    CHECK(INSTALL(0, ON(SYS_getsid, SECCOMP_RET_ERRNO)) == 0);
    CHECK(getsid(0) == 0);
    IN_CHILD(FAILS(uname(&name), EXFULL));
}

CASE(arguments) {
    CHECK(INSTALL(0, LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS), LOAD(nr),
                  UNLESS(SYS_lseek, 5), LOAD(args[1]), UNLESS(0x55667788, 3), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1]) + 4),
                  UNLESS(0x11223344, 1), RETURN(SECCOMP_RET_ERRNO | EUCLEAN), RETURN(SECCOMP_RET_ALLOW)) == 0);
    FAILS(lseek(-1, 0x1122334455667788, 0), EUCLEAN);
    FAILS(lseek(-1, 0x1122334555667788, 0), EBADF);
    FAILS(lseek(-1, 0, 0), EBADF);
}

CASE(the_most_drastic_wins) {
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_ERRNO | 5)) == 0);
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_ERRNO | 7)) == 0);
    FAILS(getpgid(0), 7);
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_TRACE)) == 0);
    FAILS(getpgid(0), 7);
    CHECK(INSTALL(0, ON(SYS_getsid, SECCOMP_RET_TRACE)) == 0);
    FAILS(getsid(0), ENOSYS);
    pid_t pid = CHILD({
        INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_KILL_PROCESS));
        getpgid(0);
    });
    CHECK(exit_of(pid) == 128 + SIGSYS);
}

static volatile siginfo_t last;
static volatile long trapped_rax;
static void trapped(int signo, siginfo_t *info, void *context) {
    (void)signo;
    memcpy((void *)&last, info, sizeof last);
    ucontext_t *registers = context;
    trapped_rax = registers->uc_mcontext.gregs[REG_RAX];
    registers->uc_mcontext.gregs[REG_RAX] = 4242;
}

CASE(trap_can_be_emulated) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_TRAP | 77)) == 0);
    CHECK(syscall(SYS_getpgid, 0) == 4242);
    CHECK(last.si_signo == SIGSYS && last.si_code == 1 && last.si_errno == 77 && last.si_syscall == SYS_getpgid && last.si_arch == AUDIT_ARCH_X86_64);
    CHECK(trapped_rax == SYS_getpgid && last.si_call_addr);
    signal(SIGSYS, SIG_IGN);
    pid_t pid = CHILD({ syscall(SYS_getpgid, 0); });
    CHECK(exit_of(pid) == 128 + SIGSYS);
}

static void *call_getpgid(void *argument) {
    (void)argument;
    syscall(SYS_getpgid, 0);
    return NULL;
}
static void *errno_of_getpgid(void *argument) {
    read(*(int *)argument, &(char){0}, 1);
    errno = 0;
    getpgid(0);
    return (void *)(long)errno;
}

CASE(kill_thread_leaves_the_others) {
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_KILL_THREAD)) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, call_getpgid, NULL);
    pthread_join(thread, NULL);
    note("alive");
    pid_t pid = CHILD(syscall(SYS_getpgid, 0));
    CHECK(exit_of(pid) == 128 + SIGSYS);
}

CASE(threads_in_step) {
    int gate[2];
    pipe(gate);
    pthread_t thread;
    pthread_create(&thread, NULL, errno_of_getpgid, gate);
    CHECK(INSTALL(SECCOMP_FILTER_FLAG_TSYNC, ON(SYS_getpgid, SECCOMP_RET_ERRNO | 9)) == 0);
    write(gate[1], "x", 1);
    void *result;
    pthread_join(thread, &result);
    CHECK(result == (void *)9);
    pthread_create(&thread, NULL, errno_of_getpgid, gate);
    CHECK(INSTALL(0, ON(SYS_getpgid, SECCOMP_RET_ERRNO | 11)) == 0);
    write(gate[1], "x", 1);
    pthread_join(thread, &result);
    CHECK(result == (void *)9);
}

CASE(refused_programs) {
    struct sock_filter good = RETURN(SECCOMP_RET_ALLOW);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    FAILS(install(&good, 0, 0), EINVAL);
    FAILS(install(&good, 4097, 0), EINVAL);
    FAILS(install((void *)16, 1, 0), EFAULT);
    FAILS(install(&good, 1, 1 << 20), EINVAL);
    FAILS(INSTALL(0, LOAD(nr)), EINVAL);
    FAILS(INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), good), EINVAL);
    FAILS(INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 3), good), EINVAL);
    FAILS(INSTALL(0, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), good), EINVAL);
    FAILS(INSTALL(0, BPF_JUMP(BPF_JMP | BPF_JA, 5, 0, 0), good), EINVAL);
    FAILS(INSTALL(0, BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), good), EINVAL);
    FAILS(INSTALL(0, BPF_STMT(BPF_LD | BPF_MEM, 2), good), EINVAL);
    FAILS(INSTALL(0, BPF_STMT(BPF_ST, 16), good), EINVAL);
    FAILS(syscall(SYS_seccomp, 55, 0, NULL), EINVAL);
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL), EINVAL);
    FAILS(prctl(PR_SET_SECCOMP, 7, 0, 0, 0), EINVAL);
    CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0);
    unsigned action = SECCOMP_RET_TRAP;
    CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0);
    action = 0x12340000;
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), EOPNOTSUPP);
    CHECK(INSTALL(0, good) == 0 && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2);
    FAILS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0), EINVAL);
    char *status = content("/proc/self/status");
    CHECK(status && strstr(status, "Seccomp:\t2") && strstr(status, "Seccomp_filters:\t1"));
}

CASE(kept_by_exec) {
    CHECK(INSTALL(0, ON(SYS_uname, SECCOMP_RET_ERRNO | ENOTTY)) == 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(open("/dev/null", O_WRONLY), 2);
        execl("/bin/uname", "uname", NULL);
        _exit(77);
    }
    CHECK(exit_of(pid) == 1);
}
