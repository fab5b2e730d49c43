// uname, sysinfo, random, segments, the vdso, unknown calls, int 0x80, vsyscall, auxiliary vector.
#include "check.h"
#include <asm/prctl.h>
#include <elf.h>
#include <sys/auxv.h>
#include <sys/klog.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/utsname.h>

CASE(uname_fields) {
    struct utsname u;
    CHECK(uname(&u) == 0);
    note("%s %s", u.sysname, u.machine);
    CHECK(u.release[0] >= '4' && strlen(u.nodename) > 0 && strlen(u.version) > 0);
    FAILS(syscall(SYS_uname, 16), EFAULT);
    char name[65];
    CHECK(gethostname(name, sizeof name) == 0 && !strcmp(name, u.nodename));
}

CASE(host_names) {
    if (getuid()) SKIP("needs root");
    if (unshare(CLONE_NEWUTS) < 0) SKIP("may not unshare");
    struct utsname u;
    CHECK(sethostname("new-name", 8) == 0 && uname(&u) == 0 && !strcmp(u.nodename, "new-name"));
    CHECK(setdomainname("domain", 6) == 0 && uname(&u) == 0 && !strcmp(u.domainname, "domain"));
    FAILS(sethostname("x", 65), EINVAL);
    FAILS(sethostname("x", -1), EINVAL);
    CHECK(!strcmp(content("/proc/sys/kernel/hostname"), "new-name\n"));
}

CASE(sysinfo_fields) {
    struct sysinfo s;
    CHECK(sysinfo(&s) == 0);
    CHECK(s.uptime >= 0 && s.totalram > 0 && s.freeram > 0 && s.freeram <= s.totalram && s.procs >= 1 && s.mem_unit >= 1);
    FAILS(syscall(SYS_sysinfo, 16), EFAULT);
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1 && sysconf(_SC_NPROCESSORS_CONF) >= 1 && sysconf(_SC_PHYS_PAGES) > 0);
    CHECK(sysconf(_SC_CLK_TCK) == 100 && sysconf(_SC_PAGESIZE) == 4096 && sysconf(_SC_OPEN_MAX) > 0);
}

CASE(random_bytes) {
    unsigned char a[256], b[256];
    CHECK(getrandom(a, sizeof a, 0) == 256 && getrandom(b, sizeof b, GRND_NONBLOCK) == 256 && memcmp(a, b, 256));
    CHECK(getrandom(a, 10, GRND_RANDOM) == 10);
    CHECK(getrandom(a, 0, 0) == 0);
    FAILS(getrandom(a, 10, 0x100), EINVAL);
    FAILS(getrandom((void *)16, 10, 0), EFAULT);
    CHECK(getentropy(a, 100) == 0);
}

CASE(unknown_calls) {
    FAILS(syscall(999), ENOSYS);
    FAILS(syscall(-1), ENOSYS);
    FAILS(syscall(100000), ENOSYS);
    FAILS(syscall(SYS_create_module), ENOSYS);
    FAILS(syscall(0x40000000 | 39), ENOSYS); /* x32 */
}

CASE(segment_bases) {
    unsigned long fs = 0, gs = 0;
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0 && fs == (unsigned long)__builtin_thread_pointer());
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs) == 0);
    static long value = 77;
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, &value) == 0);
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs) == 0 && gs == (unsigned long)&value);
    long seen;
    asm volatile("mov %%gs:0, %0" : "=r"(seen));
    CHECK(seen == 77);
    sleep_ms(5);
    asm volatile("mov %%gs:0, %0" : "=r"(seen));
    CHECK(seen == 77);
    IN_CHILD({
        asm volatile("mov %%gs:0, %0" : "=r"(seen));
        CHECK(seen == 77);
    });
    FAILS(syscall(SYS_arch_prctl, ARCH_SET_GS, 1UL << 63), EPERM);
    FAILS(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
    FAILS(syscall(SYS_arch_prctl, ARCH_GET_FS, 16), EFAULT);
}

CASE(auxiliary_vector) {
    CHECK(getauxval(AT_PAGESZ) == 4096 && getauxval(AT_CLKTCK) == 100);
    CHECK(getauxval(AT_UID) == getuid() && getauxval(AT_EUID) == geteuid() && getauxval(AT_GID) == getgid() && getauxval(AT_SECURE) == 0);
    CHECK(getauxval(AT_PHDR) != 0 && getauxval(AT_PHNUM) > 0 && getauxval(AT_PHENT) == sizeof(Elf64_Phdr));
    CHECK(getauxval(AT_RANDOM) != 0 && !strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
    CHECK(getauxval(AT_MINSIGSTKSZ) >= 1024);
    const char *name = (char *)getauxval(AT_EXECFN);
    CHECK(name && strstr(name, "system"));
    CHECK(getauxval(AT_SYSINFO_EHDR) == 0 || *(unsigned *)getauxval(AT_SYSINFO_EHDR) == 0x464c457f);
    CHECK(getauxval(AT_ENTRY) != 0);
}

CASE(clock_without_system_calls_is_fast) {
    struct timespec t;
    double start = now();
    for (int i = 0; i < 100000; i++) clock_gettime(CLOCK_MONOTONIC, &t);
    CHECK(now() - start < 0.1); /* a microsecond each at most: not a system call */
}

CASE(int80_is_refused_or_answered) {
    pid_t pid = CHILD({
        long result;
        asm volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid of the 32-bit table */
        (void)result;
    });
    int code = exit_of(pid);
    CHECK(code == 0 || code == 128 + SIGSEGV || code == 128 + SIGSYS);
}

CASE(vsyscall_time) {
    pid_t pid = CHILD({
        long (*vsyscall_time)(long *) = (void *)0xffffffffff600400;
        CHECK(labs(vsyscall_time(NULL) - time(NULL)) <= 1);
    });
    int code = exit_of(pid);
    CHECK(code == 0 || code == 128 + SIGSEGV);
}

CASE(syslog_calls) {
    int size = klogctl(10, NULL, 0);
    CHECK(size > 0 || errno == EPERM);
    FAILS(klogctl(99, NULL, 0), geteuid() ? EPERM : EINVAL);
}

CASE(getpid_many_times) {
    pid_t pid = getpid();
    for (int i = 0; i < 20000; i++)
        if (syscall(SYS_getpid) != pid) CHECK(!"the same pid");
}

CASE(kernel_pointers_are_refused) {
    FAILS(syscall(SYS_write, 1, 0xffffffff80000000, 10), EFAULT);
    FAILS(syscall(SYS_read, 0, 0xffffffffffffffff, 0x10000), EFAULT);
}
