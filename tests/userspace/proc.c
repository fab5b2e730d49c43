// /proc: what programs read of themselves and of the system, and that the numbers move with their causes.
#include "check.h"
#include <dirent.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static char *line_of(const char *path, const char *key) {
    char *all = content(path), *at = all ? strstr(all, key) : NULL;
    if (!at) return NULL;
    at[strcspn(at, "\n")] = 0;
    return at + strlen(key);
}
static long number_of(const char *path, const char *key) {
    char *text = line_of(path, key);
    return text ? strtol(text, NULL, 0) : -1;
}
/* Field n of /proc/self/stat, counted as proc(5) does. */
static long stat_field(const char *path, int n) {
    char *all = content(path), *at = all ? strrchr(all, ')') : NULL;
    if (!at) return -1;
    at++;
    for (int i = 3; i < n; i++) at = strchr(at + 1, ' ');
    return n == 3 ? at[1] : strtol(at + 1, NULL, 10);
}
static char link_text[4096];
static const char *link_of(const char *path) {
    ssize_t n = readlink(path, link_text, sizeof link_text - 1);
    link_text[n < 0 ? 0 : n] = 0;
    return link_text;
}

CASE(self_and_thread_self) {
    CHECK(atoi(link_of("/proc/self")) == getpid());
    char expected[64];
    snprintf(expected, sizeof expected, "%d/task/%d", getpid(), gettid());
    CHECK(!strcmp(link_of("/proc/thread-self"), expected));
    FAILS(open("/proc/999999/stat", O_RDONLY), ENOENT);
    struct stat st;
    CHECK(stat("/proc/self", &st) == 0 && S_ISDIR(st.st_mode));
}

CASE(stat_numbers) {
    CHECK(stat_field("/proc/self/stat", 3) == 'R');
    CHECK(stat_field("/proc/self/stat", 4) == getppid());
    CHECK(stat_field("/proc/self/stat", 5) == getpgrp());
    CHECK(stat_field("/proc/self/stat", 6) == getsid(0));
    CHECK(stat_field("/proc/self/stat", 20) == 1);
    long size = stat_field("/proc/self/stat", 23), rss = stat_field("/proc/self/stat", 24), utime = stat_field("/proc/self/stat", 14);
    char *p = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stat_field("/proc/self/stat", 23) >= size + (8 << 20));
    memset(p, 1, 8 << 20);
    CHECK(stat_field("/proc/self/stat", 24) >= rss + 1900);
    struct timespec used; /* its own time, not the clock's: the machine may be busy with others */
    do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    while (used.tv_sec == 0 && used.tv_nsec < 150000000);
    CHECK(stat_field("/proc/self/stat", 14) + stat_field("/proc/self/stat", 15) >= utime + 5);
    CHECK(stat_field("/proc/self/stat", 22) > 0);
    setpriority(PRIO_PROCESS, 0, 7);
    CHECK(stat_field("/proc/self/stat", 19) == 7);
}

CASE(status_lines) {
    const char *path = "/proc/self/status";
    note("Name:%s", line_of(path, "Name:"));
    note("Umask:%s", line_of(path, "Umask:"));
    CHECK(number_of(path, "Tgid:") == getpid() && number_of(path, "Pid:") == getpid() && number_of(path, "PPid:") == getppid());
    CHECK(number_of(path, "Uid:") == getuid() && number_of(path, "Threads:") == 1);
    CHECK(number_of(path, "VmSize:") > 0 && number_of(path, "VmRSS:") > 0 && number_of(path, "VmPeak:") >= number_of(path, "VmSize:"));
    prctl(PR_SET_NAME, "renamed");
    CHECK(!strcmp(line_of(path, "Name:"), "\trenamed"));
    long size = number_of(path, "VmData:");
    mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(number_of(path, "VmData:") >= size + 4096);
    signal(SIGUSR1, SIG_IGN);
    CHECK(strtoul(line_of(path, "SigIgn:"), NULL, 16) & 1UL << (SIGUSR1 - 1));
    CHECK(line_of(path, "voluntary_ctxt_switches:") != NULL);
    note("Seccomp:%s NoNewPrivs:%s", strdup(line_of(path, "Seccomp:")), strdup(line_of(path, "NoNewPrivs:")));
}

CASE(statm_and_limits) {
    long size, rss;
    CHECK(sscanf(content("/proc/self/statm"), "%ld %ld", &size, &rss) == 2 && size > rss && rss > 0);
    struct rlimit limit = {123, 456};
    setrlimit(RLIMIT_NOFILE, &limit);
    char *text = content("/proc/self/limits");
    CHECK(strstr(text, "Max open files            123                  456                  files"));
    CHECK(strstr(text, "Max cpu time              unlimited            unlimited            seconds"));
}

CASE(maps_lines) {
    char *p = mmap(NULL, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(p + 4096, 4096, PROT_READ | PROT_WRITE);
    char key[64];
    snprintf(key, sizeof key, "%lx-%lx rw-p 00000000 00:00 0", (long)p + 4096, (long)p + 8192);
    CHECK(strstr(content("/proc/self/maps"), key) != NULL);
    put("mapped file", "x");
    int fd = open("mapped file", O_RDWR);
    char *q = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    snprintf(key, sizeof key, "%lx-", (long)q);
    char *line = strstr(content("/proc/self/maps"), key);
    NEED(line);
    line[strcspn(line, "\n")] = 0;
    CHECK(strstr(line, "rw-s 00000000 ") && strstr(line, "/mapped file"));
    struct stat st;
    fstat(fd, &st);
    char inode[32];
    snprintf(inode, sizeof inode, " %ld ", (long)st.st_ino);
    CHECK(strstr(line, inode));
    unlink("mapped file");
    line = strstr(content("/proc/self/maps"), key);
    CHECK(strstr(line, "mapped file (deleted)"));
    char *all = content("/proc/self/maps");
    CHECK(strstr(all, "[stack]") && strstr(all, "[heap]") == NULL ? sbrk(4096) && strstr(content("/proc/self/maps"), "[heap]") : 1);
    CHECK(strstr(content("/proc/self/maps"), "libc.so.6"));
    CHECK(strstr(content("/proc/self/smaps"), "Rss:") && strstr(content("/proc/self/smaps"), "VmFlags:"));
}

CASE(links_of_a_process) {
    char cwd[4096];
    getcwd(cwd, sizeof cwd);
    CHECK(!strcmp(link_of("/proc/self/cwd"), cwd));
    CHECK(!strcmp(link_of("/proc/self/root"), "/"));
    CHECK(strstr(link_of("/proc/self/exe"), "/proc"));
    put("through", "x");
    CHECK(access("/proc/self/cwd/through", F_OK) == 0);
    CHECK(access("/proc/self/root/etc/passwd", F_OK) == 0);
    int fd = open("/proc/self/exe", O_RDONLY);
    char magic[4];
    CHECK(read(fd, magic, 4) == 4 && !memcmp(magic, "\177ELF", 4));
    char path[64];
    pid_t pid = CHILD({
        chdir("/");
        pause();
    });
    sleep_ms(40);
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    CHECK(!strcmp(link_of(path), "/"));
    kill(pid, SIGKILL);
    sleep_ms(40);
    FAILS(readlink(path, link_text, 10), ENOENT);
    reap(pid);
}

CASE(command_line_and_environment) {
    int p[2];
    pipe(p);
    pid_t pid = fork();
    if (!pid) {
        char *argv[] = {"sleep", "5", NULL}, *envp[] = {"ONE=1", "TWO=2", NULL};
        execve("/bin/sleep", argv, envp);
        _exit(1);
    }
    sleep_ms(150);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    CHECK(!memcmp(content(path), "sleep\0005\0", 8));
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    CHECK(!memcmp(content(path), "ONE=1\0TWO=2\0", 12));
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    CHECK(!strcmp(content(path), "sleep\n"));
    CHECK(state_of(pid) == 'S');
    kill(pid, SIGKILL);
    wait_for_state(pid, 'Z');
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    CHECK(!strcmp(content(path), ""));
    reap(pid);
}

CASE(writing_comm) {
    int fd = open("/proc/self/comm", O_RDWR);
    CHECK(write(fd, "by file", 7) == 7);
    char name[16];
    prctl(PR_GET_NAME, name);
    CHECK(!strcmp(name, "by file"));
}

CASE(descriptor_directory) {
    int fd = open("/dev/null", O_RDONLY), count = 0;
    DIR *dir = opendir("/proc/self/fd");
    bool found = false;
    struct dirent *each;
    while ((each = readdir(dir))) {
        if (each->d_name[0] == '.') continue;
        count++;
        found |= atoi(each->d_name) == fd;
    }
    CHECK(found && count == 5);
    struct stat st;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && (st.st_mode & 0777) == 0500);
    CHECK(!strcmp(link_of(path), "/dev/null"));
}

static void *sleeper(void *argument) {
    prctl(PR_SET_NAME, "sleeper");
    pause();
    return argument;
}

CASE(task_directory) {
    pthread_t thread;
    pthread_create(&thread, NULL, sleeper, NULL);
    sleep_ms(50);
    DIR *dir = opendir("/proc/self/task");
    struct dirent *each;
    int count = 0, named = 0;
    while ((each = readdir(dir))) {
        if (each->d_name[0] == '.') continue;
        count++;
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", each->d_name);
        named += !strcmp(content(path), "sleeper\n");
    }
    CHECK(count == 2 && named == 1);
    CHECK(stat_field("/proc/self/stat", 20) == 2);
}

CASE(system_files) {
    CHECK(number_of("/proc/meminfo", "MemTotal:") > 0 && number_of("/proc/meminfo", "MemAvailable:") > 0 && number_of("/proc/meminfo", "MemFree:") > 0);
    CHECK(line_of("/proc/cpuinfo", "model name") && line_of("/proc/cpuinfo", "flags"));
    CHECK(number_of("/proc/stat", "btime ") > 1600000000 && number_of("/proc/stat", "processes ") > 0 && line_of("/proc/stat", "cpu0 "));
    double up, idle;
    CHECK(sscanf(content("/proc/uptime"), "%lf %lf", &up, &idle) == 2 && up > 0);
    sleep_ms(60);
    double later;
    CHECK(sscanf(content("/proc/uptime"), "%lf", &later) == 1 && later > up);
    double a, b, c;
    int running, total, last;
    CHECK(sscanf(content("/proc/loadavg"), "%lf %lf %lf %d/%d %d", &a, &b, &c, &running, &total, &last) == 6 && total >= 1);
    CHECK(!strncmp(content("/proc/version"), "Linux version ", 14));
    CHECK(strstr(content("/proc/filesystems"), "nodev\tproc\n") && strstr(content("/proc/filesystems"), "tmpfs"));
    CHECK(strstr(content("/proc/mounts"), " / ") && strstr(content("/proc/mounts"), " /proc proc "));
    CHECK(strstr(content("/proc/self/mountinfo"), " - proc "));
    int pid_max = atoi(content("/proc/sys/kernel/pid_max"));
    CHECK(pid_max >= 32768);
    CHECK(!strcmp(content("/proc/sys/kernel/ostype"), "Linux\n") && strlen(content("/proc/sys/kernel/osrelease")) > 3);
    CHECK(atoi(content("/proc/sys/fs/pipe-max-size")) == 1048576 && atol(content("/proc/sys/fs/file-max")) > 0);
    CHECK(strlen(content("/proc/sys/kernel/random/boot_id")) == 37 && strlen(content("/proc/sys/kernel/random/uuid")) == 37);
    char first[64];
    strcpy(first, content("/proc/sys/kernel/random/uuid"));
    CHECK(strcmp(first, content("/proc/sys/kernel/random/uuid")));
    CHECK(content("/proc/sys/vm/overcommit_memory") && content("/proc/sys/vm/max_map_count") && content("/proc/sys/kernel/threads-max"));
    CHECK(content("/proc/cmdline") && content("/proc/devices") && content("/proc/self/cgroup") && content("/proc/partitions"));
    CHECK(content("/sys/devices/system/cpu/online") && content("/sys/devices/system/cpu/possible"));
}

CASE(process_count_moves) {
    long before = number_of("/proc/stat", "processes ");
    for (int i = 0; i < 5; i++) reap(CHILD({}));
    CHECK(number_of("/proc/stat", "processes ") >= before + 5);
    DIR *dir = opendir("/proc");
    struct dirent *each;
    bool found = false;
    while ((each = readdir(dir))) found |= atoi(each->d_name) == getpid();
    CHECK(found);
}

CASE(io_and_oom) {
    CHECK(content("/proc/self/io") && line_of("/proc/self/io", "rchar:"));
    long before = number_of("/proc/self/io", "wchar:");
    put("f", "0123456789");
    CHECK(number_of("/proc/self/io", "wchar:") >= before + 10);
    CHECK(!strcmp(content("/proc/self/oom_score_adj"), content("/proc/self/oom_score_adj")));
    CHECK(put("/proc/self/oom_score_adj", "500") == 0 && atoi(content("/proc/self/oom_score_adj")) == 500);
    CHECK(content("/proc/self/wchan") && content("/proc/self/personality") && content("/proc/self/auxv"));
}

CASE(reading_in_pieces) {
    int fd = open("/proc/self/status", O_RDONLY);
    char whole[8192] = "", pieces[8192] = "";
    ssize_t n = read(fd, whole, sizeof whole - 1);
    lseek(fd, 0, SEEK_SET);
    ssize_t have = 0, got;
    while ((got = read(fd, pieces + have, 100)) > 0) have += got;
    CHECK(have == n);
    CHECK(pread(fd, pieces, 5, 0) == 5 && !memcmp(pieces, "Name:", 5));
    FAILS(open("/proc/self/new", O_WRONLY | O_CREAT, 0600), ENOENT);
    FAILS(mkdir("/proc/new", 0755), ENOENT);
    if (geteuid() == 0) FAILS(unlink("/proc/self/status"), EPERM); /* for others, kernels differ */
}

CASE(memory_file) {
    static char secret[] = "find me";
    int fd = open("/proc/self/mem", O_RDWR);
    NEED(fd >= 0);
    char seen[8];
    CHECK(pread(fd, seen, 8, (off_t)secret) == 8 && !strcmp(seen, "find me"));
    CHECK(pwrite(fd, "F", 1, (off_t)secret) == 1 && secret[0] == 'F');
    FAILS(pread(fd, seen, 8, 16), EIO);
}
