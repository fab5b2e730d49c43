// Mounting by descriptors: fsopen, fsconfig, fsmount, open_tree, move_mount, mount_setattr, fspick.
#include "check.h"
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

static long fs_open(const char *kind, unsigned flags) { return syscall(SYS_fsopen, kind, flags); }
static long config(int fd, unsigned command, const char *key, const char *value, int auxiliary) {
    return syscall(SYS_fsconfig, fd, command, key, value, auxiliary);
}
static long fs_mount(int fd, unsigned flags, unsigned attributes) { return syscall(SYS_fsmount, fd, flags, attributes); }
static long tree(int fd, const char *path, unsigned flags) { return syscall(SYS_open_tree, fd, path, flags); }
static long attach(int fd, const char *path) { return syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH); }
static long attributes(int fd, const char *path, unsigned flags, unsigned long set, unsigned long clear, unsigned long propagation) {
    struct mount_attr wanted = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    return syscall(SYS_mount_setattr, fd, path, flags, &wanted, sizeof wanted);
}
/* A mount namespace of the case's own, with three directories. */
static void begin(void) {
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0) SKIP("no mounts");
    if (mkdir("a", 0755) || mkdir("b", 0755) || mkdir("c", 0755)) SKIP("no directory to work in");
}
static int new_tmpfs(const char *mode) {
    int fd = fs_open("tmpfs", FSOPEN_CLOEXEC);
    NEED(fd >= 0);
    CHECK(config(fd, FSCONFIG_SET_STRING, "mode", mode, 0) == 0 && config(fd, FSCONFIG_SET_STRING, "source", "check", 0) == 0);
    CHECK(config(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0);
    int mount_fd = fs_mount(fd, FSMOUNT_CLOEXEC, 0);
    NEED(mount_fd >= 0);
    close(fd);
    return mount_fd;
}
static unsigned long flags_of(const char *path) {
    struct statvfs status = {0};
    CHECK(statvfs(path, &status) == 0);
    return status.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME | ST_NODIRATIME | ST_RELATIME);
}

CASE(a_file_system_of_ones_own) {
    begin();
    int fd = fs_open("tmpfs", 0), mount_fd;
    NEED(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) == 0);
    FAILS(fs_mount(fd, 0, 0), EINVAL);
    CHECK(config(fd, FSCONFIG_SET_STRING, "size", "1m", 0) == 0 && config(fd, FSCONFIG_SET_STRING, "mode", "0711", 0) == 0);
    CHECK(config(fd, FSCONFIG_SET_STRING, "source", "the-source", 0) == 0);
    FAILS(config(fd, FSCONFIG_SET_STRING, "source", "another", 0), EINVAL);
    CHECK(config(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0);
    FAILS(config(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0), EBUSY);
    FAILS(config(fd, FSCONFIG_SET_STRING, "mode", "0700", 0), EBUSY);
    mount_fd = fs_mount(fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME);
    NEED(mount_fd >= 0);
    CHECK(fcntl(mount_fd, F_GETFD) == FD_CLOEXEC && (fcntl(mount_fd, F_GETFL) & O_PATH));
    FAILS(fs_mount(fd, 0, 0), EBUSY);
    /* It can be used before it hangs anywhere. */
    int file = openat(mount_fd, "early", O_CREAT | O_WRONLY, 0600);
    CHECK(file >= 0 && close(file) == 0);
    CHECK(attach(mount_fd, "a") == 0);
    FAILS(attach(mount_fd, "a"), ELOOP);
    struct stat status;
    struct statfs sizes;
    CHECK(stat("a", &status) == 0 && (status.st_mode & 07777) == 0711 && access("a/early", F_OK) == 0);
    CHECK(statfs("a", &sizes) == 0 && sizes.f_blocks * sizes.f_bsize == 1 << 20);
    CHECK(flags_of("a") == (ST_NOSUID | ST_NOATIME));
    CHECK(strstr(content("/proc/self/mounts"), "the-source ") != NULL);
    close(mount_fd);
    CHECK(umount("a") == 0 && access("a/early", F_OK) < 0);
}

CASE(what_nobody_attaches_is_gone) {
    begin();
    int fd = new_tmpfs("0700"), file = openat(fd, "file", O_CREAT | O_RDWR, 0600);
    close(fd);
    CHECK(write(file, "x", 1) == 1); /* as after a lazy umount */
    close(file);
    CHECK(strstr(content("/proc/self/mounts"), "check") == NULL);
}

CASE(clones) {
    begin();
    CHECK(attach(new_tmpfs("0700"), "a") == 0 && mkdir("a/below", 0755) == 0 && attach(new_tmpfs("0711"), "a/below") == 0);
    close(open("a/below/file", O_CREAT | O_WRONLY, 0600));
    int one = tree(AT_FDCWD, "a", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), all = tree(AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE);
    NEED(one >= 0 && all >= 0);
    CHECK(faccessat(one, "below/file", F_OK, 0) < 0 && faccessat(all, "below/file", F_OK, 0) == 0);
    CHECK(attach(one, "b") == 0 && attach(all, "c") == 0);
    CHECK(access("b/below", F_OK) == 0 && access("b/below/file", F_OK) < 0 && access("c/below/file", F_OK) == 0);
    FAILS(umount("c"), EBUSY);
    int place = tree(AT_FDCWD, "a", 0);
    CHECK(place >= 0 && (fcntl(place, F_GETFL) & O_PATH));
    FAILS(tree(AT_FDCWD, "a", AT_RECURSIVE), EINVAL);
    FAILS(tree(AT_FDCWD, "none", OPEN_TREE_CLONE), ENOENT);
    FAILS(tree(AT_FDCWD, "a", 0x80000001 & ~OPEN_TREE_CLOEXEC), EINVAL);
    /* Moving what is attached. */
    CHECK(syscall(SYS_move_mount, AT_FDCWD, "b", AT_FDCWD, "c", 0) == 0 && access("c/below/file", F_OK) < 0);
    FAILS(syscall(SYS_move_mount, AT_FDCWD, "a/below/file", AT_FDCWD, "b", 0), EINVAL);
    FAILS(syscall(SYS_move_mount, AT_FDCWD, "a", AT_FDCWD, "a/below", 0), ELOOP);
    FAILS(syscall(SYS_move_mount, AT_FDCWD, "a", AT_FDCWD, "b", 0x1000), EINVAL);
}

CASE(attributes_of_mounts) {
    begin();
    CHECK(attach(new_tmpfs("0700"), "a") == 0 && mkdir("a/below", 0755) == 0 && attach(new_tmpfs("0711"), "a/below") == 0);
    CHECK(flags_of("a") == ST_RELATIME);
    CHECK(attributes(AT_FDCWD, "a", 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, 0, 0) == 0);
    CHECK(flags_of("a") == (ST_RDONLY | ST_NOEXEC | ST_RELATIME) && flags_of("a/below") == ST_RELATIME);
    FAILS(mkdir("a/new", 0755), EROFS);
    CHECK(attributes(AT_FDCWD, "a", AT_RECURSIVE, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, 0) == 0);
    CHECK(flags_of("a") == (ST_NOSUID | ST_RELATIME) && flags_of("a/below") == (ST_NOSUID | ST_RELATIME));
    CHECK(attributes(AT_FDCWD, "a", 0, MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME, 0) == 0 && flags_of("a") == (ST_NOSUID | ST_NOATIME));
    FAILS(attributes(AT_FDCWD, "a", 0, MOUNT_ATTR_NOATIME, 0, 0), EINVAL);
    FAILS(attributes(AT_FDCWD, "a", 0, 0, MOUNT_ATTR_NOATIME, 0), EINVAL);
    FAILS(attributes(AT_FDCWD, "a", 0, 1UL << 40, 0, 0), EINVAL);
    FAILS(attributes(AT_FDCWD, "a", 0, 0, 0, MS_SHARED | MS_PRIVATE), EINVAL);
    FAILS(attributes(AT_FDCWD, "b", 0, MOUNT_ATTR_RDONLY, 0, 0), EINVAL);
    CHECK(attributes(AT_FDCWD, "a", AT_RECURSIVE, 0, 0, MS_PRIVATE) == 0 && attributes(AT_FDCWD, "b", 0, 0, 0, 0) == 0);
    int fd = new_tmpfs("0700");
    CHECK(attributes(fd, "", AT_EMPTY_PATH, MOUNT_ATTR_NODEV, 0, 0) == 0 && attach(fd, "b") == 0);
    CHECK(flags_of("b") == (ST_NODEV | ST_RELATIME));
    struct mount_attr wanted[2] = {{.attr_set = MOUNT_ATTR_RDONLY}, {.attr_set = 1}};
    FAILS(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, wanted, 31), EINVAL);
    FAILS(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, wanted, 64), E2BIG);
    FAILS(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, wanted, 5000), E2BIG);
}

CASE(changing_a_file_system) {
    begin();
    CHECK(attach(new_tmpfs("0700"), "a") == 0);
    int fd = syscall(SYS_fspick, AT_FDCWD, "a", FSPICK_CLOEXEC);
    NEED(fd >= 0);
    CHECK(config(fd, FSCONFIG_SET_FLAG, "ro", NULL, 0) == 0 && config(fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) == 0);
    FAILS(mkdir("a/new", 0755), EROFS);
    FAILS(config(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0), EBUSY);
    FAILS(syscall(SYS_fspick, AT_FDCWD, "b", 0), EINVAL);
    int again = syscall(SYS_fspick, AT_FDCWD, "a", 0);
    CHECK(config(again, FSCONFIG_SET_FLAG, "rw", NULL, 0) == 0 && config(again, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) == 0);
    CHECK(mkdir("a/new", 0755) == 0);
}

CASE(arguments) {
    begin();
    int fd = fs_open("tmpfs", 0), pair[2];
    pipe(pair);
    char byte;
    FAILS(read(fd, &byte, 1), ENODATA);
    FAILS(fs_open("no-such-type", 0), ENODEV);
    FAILS(fs_open("tmpfs", 2), EINVAL);
    FAILS(fs_open((void *)8, 0), EFAULT);
    FAILS(config(-1, FSCONFIG_SET_FLAG, "ro", NULL, 0), EINVAL);
    FAILS(config(999, FSCONFIG_SET_FLAG, "ro", NULL, 0), EBADF);
    FAILS(config(pair[0], FSCONFIG_SET_FLAG, "ro", NULL, 0), EINVAL);
    FAILS(config(fd, FSCONFIG_SET_FLAG, "ro", "x", 0), EINVAL);
    FAILS(config(fd, FSCONFIG_SET_STRING, "mode", NULL, 0), EINVAL);
    FAILS(config(fd, FSCONFIG_CMD_CREATE, "x", NULL, 0), EINVAL);
    FAILS(config(fd, 99, NULL, NULL, 0), EOPNOTSUPP);
    FAILS(config(fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0), EBUSY);
    FAILS(fs_mount(pair[0], 0, 0), EINVAL);
    FAILS(fs_mount(fd, 2, 0), EINVAL);
    FAILS(fs_mount(fd, 0, 0x70), EINVAL);
    FAILS(attach(pair[0], "a"), EINVAL);
    FAILS(attach(999, "a"), EBADF);
    IN_CHILD({
        if (setuid(1000)) _exit(1);
        FAILS(fs_open("tmpfs", 0), EPERM);
        FAILS(tree(AT_FDCWD, "/", OPEN_TREE_CLONE), EPERM);
        FAILS(fs_mount(fd, 0, 0), EPERM);
        FAILS(attributes(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY, 0, 0), EPERM);
    });
}
