/* Meets every gap that the kernel is known to have, one after the other: each must be counted where it is met. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static char page[4096];

static void set_sysctl(const char *name, const char *value) {
    int fd = open(name, O_WRONLY);
    if (fd < 0 || write(fd, value, 1) != 1) perror(name);
    close(fd);
}

int main(void) {
    int pair[2], one = 1;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);

    mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL);
    struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_CACHED};
    close(syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how));
    mkdir("/tmp/gap", 0755);
    mount("gap", "/tmp/gap", "tmpfs", 0, NULL);
    umount2("/tmp/gap", MNT_EXPIRE);
    setxattr("/tmp/gap", "system.posix_acl_access", page, 4, 0);
    send(pair[0], "x", 1, MSG_OOB);
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    prctl(PR_SET_MM, PR_SET_MM_START_BRK, sbrk(0), 0, 0);
    mmap(NULL, 1 << 21, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    syscall(SYS_pkey_alloc, 0, 0);
    syscall(SYS_mbind, page, sizeof page, 0, NULL, 0, 0);
    syscall(SYS_get_mempolicy, NULL, NULL, 0, NULL, 0);
    syscall(SYS_set_mempolicy, 0, NULL, 0);
    syscall(SYS_name_to_handle_at, AT_FDCWD, "/dev/shm", page, &one, 0);
    syscall(SYS_ptrace, 0, 0, 0, 0);
    syscall(SYS_io_uring_setup, 1, page);
    syscall(SYS_membarrier, 1 << 6, 0, 0);
    unshare(CLONE_NEWPID);
    pid_t tid = 100;
    struct clone_args chosen = {.exit_signal = SIGCHLD, .set_tid = (unsigned long)&tid, .set_tid_size = 1};
    syscall(SYS_clone3, &chosen, sizeof chosen);
    struct clone_args grouped = {.exit_signal = SIGCHLD, .flags = CLONE_INTO_CGROUP};
    syscall(SYS_clone3, &grouped, sizeof grouped);
    wait4(-1, NULL, WNOHANG | __WNOTHREAD, NULL);
    waitid(P_ALL, 0, NULL, WEXITED | WNOHANG | __WNOTHREAD);
    for (int family = AF_INET; family <= AF_NETLINK; family++)
        if (family == AF_INET || family == AF_INET6 || family == AF_NETLINK) close(socket(family, SOCK_DGRAM, 0));
    set_sysctl("/proc/sys/vm/overcommit_memory", "2");
    set_sysctl("/proc/sys/fs/file-max", "9");
    return 0;
}
