// Credentials, capabilities, securebits, limits, prctl, sessions' plain calls, priorities, seccomp.
#include "check.h"
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sys/personality.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static void need_root(void) {
    if (getuid() || geteuid()) SKIP("needs root");
}
static bool uids(uid_t r, uid_t e, uid_t s) {
    uid_t a, b, c;
    return getresuid(&a, &b, &c) == 0 && a == r && b == e && c == s;
}
static bool gids(gid_t r, gid_t e, gid_t s) {
    gid_t a, b, c;
    return getresgid(&a, &b, &c) == 0 && a == r && b == e && c == s;
}
static struct __user_cap_data_struct caps[2];
static int get_caps(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    return syscall(SYS_capget, &header, caps);
}
static int set_caps(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    return syscall(SYS_capset, &header, caps);
}

CASE(setuid_family_as_root) {
    need_root();
    IN_CHILD({ CHECK(setuid(1000) == 0 && uids(1000, 1000, 1000)); FAILS(setuid(0), EPERM); });
    IN_CHILD({ CHECK(seteuid(1000) == 0 && uids(0, 1000, 0)); CHECK(seteuid(0) == 0 && uids(0, 0, 0)); });
    IN_CHILD({ CHECK(setreuid(1000, 2000) == 0 && uids(1000, 2000, 2000)); FAILS(setreuid(3000, -1), EPERM); CHECK(setreuid(-1, 1000) == 0); });
    IN_CHILD({ CHECK(setresuid(1, 2, 3) == 0 && uids(1, 2, 3)); CHECK(setresuid(-1, 3, -1) == 0 && uids(1, 3, 3)); FAILS(setresuid(4, -1, -1), EPERM); });
    IN_CHILD({ CHECK(setgid(1000) == 0 && gids(1000, 1000, 1000)); CHECK(setegid(5) == 0 && gids(1000, 5, 1000)); });
    IN_CHILD({ CHECK(setresgid(1, 2, 3) == 0 && setuid(9) == 0); CHECK(setregid(2, 1) == 0 && gids(2, 1, 1)); FAILS(setgid(77), EPERM); });
    IN_CHILD({ CHECK(setfsuid(77) == 0 && setfsuid(-1) == 77); });
    IN_CHILD({ FAILS(setuid(-1), EINVAL); CHECK(setresuid(-1, -1, -1) == 0); });
}

CASE(groups_as_root) {
    need_root();
    IN_CHILD({
        gid_t in[] = {5, 3, 9};
        gid_t out[10];
        CHECK(setgroups(3, in) == 0);
        CHECK(getgroups(0, NULL) == 3 && getgroups(10, out) == 3);
        note("%d %d %d", out[0], out[1], out[2]);
        FAILS(getgroups(2, out), EINVAL);
        FAILS(getgroups(-1, out), EINVAL);
        FAILS(setgroups(70000, in), EINVAL);
        FAILS(setgroups(3, (void *)16), EFAULT);
        CHECK(setuid(7) == 0);
        FAILS(setgroups(1, in), EPERM);
    });
}

CASE(capabilities_follow_uids) {
    need_root();
    IN_CHILD({
        CHECK(get_caps() == 0 && (caps[0].effective & 1) && (caps[0].permitted & 1));
        CHECK(seteuid(1000) == 0 && get_caps() == 0 && caps[0].effective == 0 && (caps[0].permitted & 1));
        CHECK(seteuid(0) == 0 && get_caps() == 0 && (caps[0].effective & 1));
        CHECK(setuid(1000) == 0 && get_caps() == 0 && caps[0].effective == 0 && caps[0].permitted == 0);
    });
    IN_CHILD({
        CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && prctl(PR_GET_KEEPCAPS) == 1);
        CHECK(setuid(1000) == 0 && get_caps() == 0 && caps[0].effective == 0 && (caps[0].permitted & 1));
        caps[0].effective = 1 << CAP_CHOWN;
        CHECK(set_caps() == 0);
        put("f", "");
    });
    IN_CHILD({
        get_caps();
        caps[0].effective &= ~(1 << CAP_DAC_OVERRIDE) & ~(1 << CAP_DAC_READ_SEARCH);
        CHECK(set_caps() == 0);
        CHECK(close(open("secret", O_CREAT | O_WRONLY, 0)) == 0);
        FAILS(open("secret", O_RDONLY), EACCES);
        caps[0].effective |= 1 << CAP_DAC_OVERRIDE;
        CHECK(set_caps() == 0 && open("secret", O_RDONLY) >= 0);
        caps[0].permitted &= ~(1 << CAP_SETUID);
        caps[0].effective = caps[0].permitted;
        CHECK(set_caps() == 0);
        FAILS(setuid(5), EPERM);
        caps[0].permitted |= 1 << CAP_SETUID;
        FAILS(set_caps(), EPERM);
    });
    struct __user_cap_header_struct header = {0x12345, 0};
    FAILS(syscall(SYS_capget, &header, caps), EINVAL);
    CHECK(header.version == _LINUX_CAPABILITY_VERSION_3);
    header.pid = 999999;
    FAILS(syscall(SYS_capget, &header, caps), ESRCH);
    FAILS(syscall(SYS_capget, 16, caps), EFAULT);
}

CASE(bounding_and_ambient) {
    need_root();
    CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 1);
    FAILS(prctl(PR_CAPBSET_READ, 77), EINVAL);
    IN_CHILD({
        if (prctl(PR_CAPBSET_DROP, CAP_CHOWN) < 0) SKIP("may not drop");
        CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 0);
    });
    IN_CHILD({
        FAILS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), EPERM);
        get_caps();
        caps[0].inheritable |= 1 << CAP_KILL;
        CHECK(set_caps() == 0);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0) == 1);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0);
    });
    CHECK(prctl(PR_GET_SECUREBITS) == 0);
    IN_CHILD({ CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT) == 0 && prctl(PR_GET_SECUREBITS) == SECBIT_NOROOT); });
}

CASE(exec_as_another_user) {
    need_root();
    pid_t pid = fork();
    if (!pid) {
        setgroups(0, NULL);
        setgid(65534), setuid(65534);
        execl("/bin/sh", "sh", "-c", "id -u; id -g; grep -E '^Cap(Prm|Eff)' /proc/self/status", NULL);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(setuid_program) {
    need_root();
    chmod(".", 0755);
    static char code[1 << 20];
    int in = open("/usr/bin/id", O_RDONLY), out = open("id", O_WRONLY | O_CREAT, 0755);
    ssize_t n = read(in, code, sizeof code);
    write(out, code, n);
    close(out);
    CHECK(chown("id", 1234, 5678) == 0 && chmod("id", 06755) == 0);
    pid_t pid = fork();
    if (!pid) {
        setgroups(0, NULL);
        setgid(65534), setuid(65534);
        execl("./id", "id", NULL);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
    pid = fork();
    if (!pid) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        setgroups(0, NULL);
        setgid(65534), setuid(65534);
        execl("./id", "id", NULL);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(limits) {
    struct rlimit limit, old;
    for (int r = 0; r < 16; r++) {
        CHECK(getrlimit(r, &limit) == 0);
        CHECK(limit.rlim_cur <= limit.rlim_max);
    }
    FAILS(getrlimit(16, &limit), EINVAL);
    limit = (struct rlimit){100, 50};
    FAILS(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
    limit = (struct rlimit){50, 60};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0 && getrlimit(RLIMIT_NOFILE, &old) == 0 && old.rlim_cur == 50 && old.rlim_max == 60);
    limit.rlim_cur = 55;
    CHECK(prlimit(0, RLIMIT_NOFILE, &limit, &old) == 0 && old.rlim_cur == 50);
    IN_CHILD({
        if (!getuid()) setresuid(65534, 65534, 65534);
        limit.rlim_max = 70;
        FAILS(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
        getrlimit(RLIMIT_NOFILE, &old);
        CHECK(old.rlim_cur == 55);
    });
    pid_t pid = CHILD({
        for (;;) pause();
    });
    CHECK(prlimit(pid, RLIMIT_NOFILE, NULL, &old) == 0 && old.rlim_cur == 55);
    limit = (struct rlimit){20, 30};
    CHECK(prlimit(pid, RLIMIT_NOFILE, &limit, NULL) == 0 && prlimit(pid, RLIMIT_NOFILE, NULL, &old) == 0 && old.rlim_max == 30);
    kill(pid, SIGKILL);
    reap(pid);
    FAILS(prlimit(999999, RLIMIT_NOFILE, NULL, &old), ESRCH);
    FAILS(syscall(SYS_getrlimit, RLIMIT_NOFILE, 16), EFAULT);
}

CASE(process_limit) {
    need_root();
    IN_CHILD({
        uid_t uid = 60000 + getpid() % 5000; /* nobody else's, while other runs go on beside this one */
        setresuid(uid, uid, uid);
        struct rlimit limit = {3, 3};
        CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0);
        int made = 0;
        pid_t pids[5];
        for (int i = 0; i < 5; i++) {
            pid_t pid = fork();
            if (pid == 0) {
                pause();
                _exit(0);
            }
            if (pid > 0) pids[made++] = pid;
            else CHECK(errno == EAGAIN);
        }
        CHECK(made == 2);
        for (int i = 0; i < made; i++) kill(pids[i], SIGKILL);
    });
}

CASE(prctl_names_and_flags) {
    char name[16] = "";
    CHECK(prctl(PR_SET_NAME, "sixteen characters and more") == 0 && prctl(PR_GET_NAME, name) == 0);
    note("%s", name);
    CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
    int value = 0;
    CHECK(prctl(PR_GET_PDEATHSIG, &value) == 0 && value == SIGUSR1);
    FAILS(prctl(PR_SET_PDEATHSIG, 100), EINVAL);
    IN_CHILD({ CHECK(prctl(PR_GET_PDEATHSIG, &value) == 0 && value == 0); });
    CHECK(prctl(PR_GET_DUMPABLE) == 1 && prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_GET_DUMPABLE) == 0);
    FAILS(prctl(PR_SET_DUMPABLE, 5), EINVAL);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    FAILS(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    CHECK(prctl(PR_SET_TIMERSLACK, 100000) == 0 && prctl(PR_GET_TIMERSLACK) == 100000);
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    CHECK(prctl(PR_GET_TSC, &value) == 0 && value == PR_TSC_ENABLE);
    FAILS(prctl(12345), EINVAL);
    FAILS(prctl(PR_SET_NAME, 16), EFAULT);
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0 && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
}

CASE(groups_and_sessions) {
    int gate[2];
    pipe(gate);
    pid_t self = getpid();
    CHECK(getpgrp() == self && getpgid(0) == self && getsid(0) == getsid(getppid()));
    FAILS(setsid(), EPERM);
    FAILS(setpgid(0, 999999), EPERM);
    FAILS(setpgid(999999, 0), ESRCH);
    FAILS(setpgid(0, -1), EINVAL);
    FAILS(getpgid(999999), ESRCH);
    FAILS(getsid(999999), ESRCH);
    pid_t pid = CHILD({
        char c;
        read(gate[0], &c, 1);
        pid_t sid = setsid();
        CHECK(sid == getpid() && getsid(0) == sid && getpgrp() == sid);
        FAILS(setpgid(0, 0), EPERM);
        write(gate[1], "x", 1);
        sleep_ms(100);
    });
    CHECK(setpgid(pid, pid) == 0 && getpgid(pid) == pid);
    CHECK(setpgid(pid, self) == 0 && getpgid(pid) == self);
    write(gate[1], "x", 1);
    sleep_ms(50);
    FAILS(setpgid(pid, self), EPERM);
    CHECK(exit_of(pid) == 0);
    pid = fork();
    if (!pid) {
        execl("/bin/sleep", "sleep", "0.3", NULL);
        _exit(1);
    }
    sleep_ms(150);
    FAILS(setpgid(pid, pid), EACCES); /* it has executed a program */
    CHECK(exit_of(pid) == 0);
}

CASE(priorities) {
    IN_CHILD({
        errno = 0;
        CHECK(getpriority(PRIO_PROCESS, 0) == 0);
        CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0 && getpriority(PRIO_PROCESS, 0) == 5);
        CHECK(syscall(SYS_getpriority, PRIO_PROCESS, 0) == 15);
        CHECK(nice(3) == 8);
        CHECK(setpriority(PRIO_PROCESS, 0, 100) == 0 && getpriority(PRIO_PROCESS, 0) == 19);
        FAILS(setpriority(7, 0, 0), EINVAL);
        FAILS(setpriority(PRIO_PROCESS, 999999, 0), ESRCH);
        if (!getuid()) setresuid(65534, 65534, 65534);
        FAILS(setpriority(PRIO_PROCESS, 0, 0), EACCES);
    });
}

CASE(scheduling) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= 1);
    CHECK(CPU_COUNT(&set) == sysconf(_SC_NPROCESSORS_ONLN) || true);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set)) {
            CPU_SET(i, &one);
            break;
        }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CPU_ZERO(&set);
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1);
    CPU_ZERO(&one);
    FAILS(sched_setaffinity(0, sizeof one, &one), EINVAL);
    FAILS(sched_getaffinity(0, 1, &set), EINVAL);
    FAILS(sched_getaffinity(999999, sizeof set, &set), ESRCH);
    CHECK(sched_getscheduler(0) == SCHED_OTHER);
    struct sched_param p = {0};
    CHECK(sched_getparam(0, &p) == 0 && p.sched_priority == 0);
    CHECK(sched_setscheduler(0, SCHED_BATCH, &p) == 0 && sched_getscheduler(0) == SCHED_BATCH);
    FAILS(sched_setscheduler(0, 99, &p), EINVAL);
    p.sched_priority = 5;
    FAILS(sched_setscheduler(0, SCHED_OTHER, &p), EINVAL);
    CHECK(sched_get_priority_max(SCHED_FIFO) == 99 && sched_get_priority_min(SCHED_FIFO) == 1 && sched_get_priority_max(SCHED_OTHER) == 0);
    struct timespec t;
    CHECK(sched_rr_get_interval(0, &t) == 0);
    CHECK(sched_yield() == 0);
    unsigned cpu, node;
    CHECK(syscall(SYS_getcpu, &cpu, &node, NULL) == 0 && cpu < 4096);
}

CASE(seccomp_strict) {
    pid_t pid = CHILD({
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        write(1, "still writes\n", 13);
        syscall(SYS_exit, 5);
    });
    CHECK(exit_of(pid) == 5);
    pid = CHILD({
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        getpid();
        syscall(SYS_getppid);
        syscall(SYS_exit, 5);
    });
    CHECK(exit_of(pid) == 128 + SIGKILL);
}

static int install(unsigned nr, unsigned action) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
static siginfo_t trapped;
static void on_sys(int s, siginfo_t *info, void *context) {
    trapped = *info;
    (void)s, (void)context;
}

CASE(seccomp_filters) {
    IN_CHILD({
        CHECK(install(SYS_getppid, SECCOMP_RET_ERRNO | 55) == 0);
        FAILS(syscall(SYS_getppid), 55);
        CHECK(getpid() > 0 && prctl(PR_GET_SECCOMP) == 2);
        CHECK(install(SYS_getuid, SECCOMP_RET_ERRNO | 66) == 0);
        FAILS(syscall(SYS_getppid), 55);
        FAILS(syscall(SYS_getuid), 66);
        IN_CHILD({ FAILS(syscall(SYS_getppid), 55); });
    });
    pid_t pid = CHILD({
        install(SYS_getppid, SECCOMP_RET_KILL_PROCESS);
        syscall(SYS_getppid);
    });
    CHECK(exit_of(pid) == 128 + SIGSYS);
    IN_CHILD({
        struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, NULL);
        CHECK(install(SYS_getppid, SECCOMP_RET_TRAP | 9) == 0);
        syscall(SYS_getppid);
        CHECK(trapped.si_signo == SIGSYS && trapped.si_code == 1 && trapped.si_syscall == SYS_getppid && trapped.si_errno == 9);
    });
    struct sock_fprog bad = {0, NULL};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    FAILS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &bad), EINVAL);
    FAILS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 16), EFAULT);
    FAILS(syscall(SYS_seccomp, 99, 0, NULL), EINVAL);
}

CASE(personalities) {
    CHECK(personality(0xffffffff) == PER_LINUX);
    CHECK(personality(ADDR_NO_RANDOMIZE) == PER_LINUX && personality(0xffffffff) == ADDR_NO_RANDOMIZE);
}
