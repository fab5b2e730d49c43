/* System calls that don't block: trivial ones, reads, opening, stat. */
#include "measure.h"

static char buffer[1 << 20];

static void do_getppid(void) { MEASURE(syscall(SYS_getppid)); }

/* A call site of the form that most of libc has: mov $nr,%eax directly before the syscall instruction. */
static void do_getpid_site(void) {
    long result;
    MEASURE(__asm__ volatile("mov $39, %%eax\n\tsyscall" : "=a"(result) : : "rcx", "r11", "memory"));
}

static void do_read_zero(void) {
    int fd = open("/dev/zero", O_RDONLY);
    if (fd < 0) fail("/dev/zero");
    MEASURE(read(fd, buffer, 1));
}

static void do_pread_host(void) {
    int fd = open("/proc/self/exe", O_RDONLY);
    if (fd < 0 || pread(fd, buffer, 4096, 0) != 4096) fail("pread");
    MEASURE(pread(fd, buffer, 4096, 0));
}

static void do_pread_tmpfs(void) {
    int fd = open("/dev/shm/polynix-bench", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, buffer, 65536) != 65536) fail("/dev/shm");
    MEASURE(pread(fd, buffer, 4096, 8192));
    unlink("/dev/shm/polynix-bench");
}

/* The vdso's, in nanoseconds. */
static void do_clock_gettime(void) {
    struct timespec now;
    double best = 1e9;
    for (int round = 0; round < 20; round++) {
        double start = seconds();
        for (int i = 0; i < 20000; i++) clock_gettime(CLOCK_MONOTONIC, &now);
        double each = (seconds() - start) / 20000 * 1e9;
        if (each < best) best = each;
    }
    printf("%.4f\n", best);
}

/* /tmp/a/b, unless it is there; whether it was made. */
static int make_file(void) {
    mkdir("/tmp/a", 0755);
    int fd = open("/tmp/a/b", O_RDWR | O_CREAT | O_EXCL, 0644);
    if (fd < 0 && errno != EEXIST) fail("/tmp/a/b");
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static void remove_file(int made) {
    if (made && unlink("/tmp/a/b") == 0) rmdir("/tmp/a"); /* stays if something else is in it */
}

static void do_open_close(void) {
    int made = make_file();
    MEASURE(close(open("/tmp/a/b", O_RDONLY)));
    remove_file(made);
}

static void do_stat(void) {
    int made = make_file();
    struct stat st;
    MEASURE(stat("/tmp/a/b", &st));
    remove_file(made);
}

static void do_read_1mb(void) {
    int fd = open("/dev/shm/polynix-bench", O_RDWR | O_CREAT | O_TRUNC, 0600);
    memset(buffer, 1, sizeof buffer);
    if (fd < 0 || write(fd, buffer, sizeof buffer) != sizeof buffer) fail("/dev/shm");
    for (int i = 0; i < 5; i++) pread(fd, buffer, sizeof buffer, 0);
    int count = 0;
    double start = seconds(), end;
    do {
        if (pread(fd, buffer, sizeof buffer, 0) != sizeof buffer) fail("pread");
        count++;
        end = seconds();
    } while (end - start < 0.3);
    unlink("/dev/shm/polynix-bench");
    printf("%.4f\n", count * (double)sizeof buffer / (end - start) / 1e9);
}

static void do_mmap_touch(void) {
    MEASURE({
        volatile char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        p[0] = p[32768] = 1;
        munmap((void *)p, 65536);
    });
}

static void on_signal(int s) { (void)s; }

static void do_signal_self(void) {
    signal(SIGUSR1, on_signal);
    pid_t pid = getpid();
    MEASURE(kill(pid, SIGUSR1));
}

static void do_cpu_loop(void) {
    double start = seconds();
    volatile double x = 1;
    for (long i = 0; i < 25000000; i++) x = x * 1.0000001 + 0.5;
    printf("%.4f\n", (seconds() - start) * 1e3);
}

ROWS({"getppid", do_getppid}, {"getpid_site", do_getpid_site}, {"read_zero", do_read_zero}, {"pread_host", do_pread_host},
     {"pread_tmpfs", do_pread_tmpfs}, {"open_close", do_open_close}, {"stat", do_stat}, {"read_1mb", do_read_1mb},
     {"mmap_touch", do_mmap_touch}, {"signal_self", do_signal_self}, {"clock_gettime", do_clock_gettime}, {"cpu_loop", do_cpu_loop})
