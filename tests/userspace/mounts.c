// mount, umount2, bind, chroot, tmpfs with limits, namespaces of mounts.
#include "check.h"
#include <sys/mount.h>
#include <sys/statfs.h>

static struct stat st;
static void own_namespace(void) {
    if (getuid()) SKIP("needs root");
    if (unshare(CLONE_NEWNS) < 0) SKIP("may not make a mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) SKIP("may not change propagation");
}

CASE(tmpfs_hides_and_shows) {
    own_namespace();
    mkdir("m", 0755);
    put("m/under", "x");
    CHECK(mount("none", "m", "tmpfs", 0, "mode=0711") == 0);
    FAILS(access("m/under", F_OK), ENOENT);
    CHECK(stat("m", &st) == 0 && (st.st_mode & 07777) == 0711);
    struct stat outside;
    stat(".", &outside);
    CHECK(st.st_dev != outside.st_dev);
    put("m/inside", "y");
    FAILS(rename("m/inside", "x"), EXDEV);
    FAILS(rmdir("m"), EBUSY);
    int fd = open("m/inside", O_RDONLY);
    FAILS(umount2("m", 0), EBUSY);
    close(fd);
    CHECK(umount2("m", 0) == 0);
    CHECK(access("m/under", F_OK) == 0);
    FAILS(access("m/inside", F_OK), ENOENT);
    FAILS(umount2("m", 0), EINVAL);
    FAILS(mount("none", "absent", "tmpfs", 0, NULL), ENOENT);
    FAILS(mount("none", "m", "nosuchfs", 0, NULL), ENODEV);
}

CASE(tmpfs_size_limit) {
    own_namespace();
    mkdir("m", 0755);
    CHECK(mount("none", "m", "tmpfs", 0, "size=64k,nr_inodes=10") == 0);
    int fd = open("m/f", O_RDWR | O_CREAT, 0600);
    static char big[1 << 17];
    ssize_t n = write(fd, big, sizeof big);
    CHECK(n == 1 << 16);
    FAILS(write(fd, big, 1), ENOSPC);
    ftruncate(fd, 0);
    CHECK(write(fd, big, 4096) == 4096);
    struct statfs s;
    CHECK(statfs("m", &s) == 0 && s.f_blocks == 16 && s.f_files == 10);
    int made = 0;
    for (int i = 0; i < 20; i++) {
        char name[20];
        snprintf(name, sizeof name, "m/%d", i);
        if (mkdir(name, 0755) == 0) made++;
    }
    CHECK(errno == ENOSPC && made == 8);
}

CASE(bind_and_read_only) {
    own_namespace();
    mkdir("a", 0755);
    mkdir("b", 0755);
    put("a/f", "x");
    CHECK(mount("a", "b", NULL, MS_BIND, NULL) == 0);
    CHECK(access("b/f", F_OK) == 0);
    put("b/g", "y");
    CHECK(access("a/g", F_OK) == 0);
    CHECK(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
    FAILS(open("b/f", O_WRONLY), EROFS);
    FAILS(unlink("b/f"), EROFS);
    FAILS(mkdir("b/d", 0755), EROFS);
    FAILS(chmod("b/f", 0600), EROFS);
    FAILS(access("b/f", W_OK), EROFS);
    CHECK(open("a/f", O_WRONLY) >= 0 && open("b/f", O_RDONLY) >= 0);
    CHECK(umount("b") == -1 && errno == EBUSY);
    CHECK(umount2("b", MNT_DETACH) == 0);
    put("file", "");
    CHECK(mount("a/f", "file", NULL, MS_BIND, NULL) == 0 && !strcmp(content("file"), "x"));
    CHECK(umount("file") == 0);
}

CASE(mount_flags) {
    own_namespace();
    mkdir("m", 0755);
    CHECK(mount("none", "m", "tmpfs", MS_NOEXEC | MS_NODEV, NULL) == 0);
    put("m/script", "#!/bin/sh\n");
    chmod("m/script", 0755);
    FAILS(execl("m/script", "x", NULL), EACCES);
    CHECK(mount("none", "m", "tmpfs", MS_REMOUNT | MS_RDONLY, NULL) == 0);
    FAILS(open("m/new", O_CREAT | O_WRONLY, 0600), EROFS);
    char *mounts = content("/proc/self/mounts");
    char *line = strstr(mounts, "/m tmpfs ro");
    CHECK(line != NULL);
}

CASE(namespaces_are_separate) {
    own_namespace();
    mkdir("m", 0755);
    int p[2], q[2];
    pipe(p), pipe(q);
    pid_t pid = CHILD({
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount("none", "m", "tmpfs", 0, NULL) == 0);
        put("m/x", "");
        write(p[1], "x", 1);
        char c;
        read(q[0], &c, 1);
        CHECK(access("m/x", F_OK) == 0);
    });
    char c;
    read(p[0], &c, 1);
    FAILS(access("m/x", F_OK), ENOENT);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
    int ns = open(path, O_RDONLY);
    IN_CHILD({
        char here[4096];
        getcwd(here, sizeof here);
        if (ns >= 0 && setns(ns, CLONE_NEWNS) == 0) {
            strcat(here, "/m/x");
            CHECK(access(here, F_OK) == 0);
        } else
            CHECK(!"setns");
    });
    write(q[1], "x", 1);
    CHECK(exit_of(pid) == 0);
}

CASE(proc_can_be_mounted) {
    own_namespace();
    mkdir("p", 0755);
    CHECK(mount("proc", "p", "proc", 0, NULL) == 0);
    char path[64];
    snprintf(path, sizeof path, "p/%d/comm", getpid());
    CHECK(access(path, F_OK) == 0 && access("p/self/status", F_OK) == 0);
    CHECK(umount("p") == 0);
}

CASE(devpts_instance) {
    own_namespace();
    mkdir("pts", 0755);
    CHECK(mount("devpts", "pts", "devpts", 0, "newinstance,ptmxmode=0666") == 0);
    CHECK(access("pts/ptmx", F_OK) == 0);
}

CASE(chroot_confines) {
    if (getuid()) SKIP("needs root");
    mkdir("jail", 0755);
    put("jail/f", "inside");
    put("out", "outside");
    IN_CHILD({
        CHECK(chroot("jail") == 0 && chdir("/") == 0);
        CHECK(access("/f", F_OK) == 0);
        FAILS(access("/out", F_OK), ENOENT);
        FAILS(access("/../out", F_OK), ENOENT);
        FAILS(access("/etc/passwd", F_OK), ENOENT);
        char cwd[100];
        CHECK(getcwd(cwd, sizeof cwd) && !strcmp(cwd, "/"));
    });
    CHECK(access("out", F_OK) == 0);
    FAILS(chroot("out"), ENOTDIR);
    FAILS(chroot("absent"), ENOENT);
    IN_CHILD({
        CHECK(chroot("jail") == 0); /* without chdir: the old directory is outside, getcwd says so */
        char cwd[4096];
        CHECK(syscall(SYS_getcwd, cwd, sizeof cwd) > 0 && !strncmp(cwd, "(unreachable)", 13));
    });
}

CASE(permissions_to_mount) {
    if (getuid()) SKIP("needs root");
    mkdir("m", 0755);
    chmod(".", 0755);
    IN_CHILD({
        setresuid(65534, 65534, 65534);
        FAILS(mount("none", "m", "tmpfs", 0, NULL), EPERM);
        FAILS(umount2("/proc", 0), EPERM);
        FAILS(chroot("."), EPERM);
    });
}

CASE(mount_over_itself_and_move) {
    own_namespace();
    mkdir("m", 0755);
    mkdir("n", 0755);
    CHECK(mount("none", "m", "tmpfs", 0, NULL) == 0);
    put("m/one", "");
    CHECK(mount("none", "m", "tmpfs", 0, NULL) == 0);
    FAILS(access("m/one", F_OK), ENOENT);
    CHECK(umount("m") == 0 && access("m/one", F_OK) == 0);
    CHECK(mount("m", "n", NULL, MS_MOVE, NULL) == 0 && access("n/one", F_OK) == 0);
    FAILS(access("m/one", F_OK), ENOENT);
    CHECK(umount("n") == 0);
}

CASE(unbindable) {
    own_namespace();
    mkdir("m", 0755), mkdir("n", 0755);
    CHECK(mount("none", "m", "tmpfs", 0, NULL) == 0 && mkdir("m/below", 0755) == 0 && mount("none", "m/below", "tmpfs", 0, NULL) == 0);
    put("m/below/file", "");
    CHECK(mount(NULL, "m/below", NULL, MS_UNBINDABLE, NULL) == 0);
    FAILS(mount("m/below", "n", NULL, MS_BIND, NULL), EINVAL);
    CHECK(strstr(content("/proc/self/mountinfo"), " unbindable - tmpfs") != NULL);
    CHECK(mount("m", "n", NULL, MS_BIND | MS_REC, NULL) == 0 && access("n/below", F_OK) == 0);
    FAILS(access("n/below/file", F_OK), ENOENT);
    CHECK(umount2("n", MNT_DETACH) == 0);
    CHECK(mount(NULL, "m", NULL, MS_PRIVATE | MS_REC, NULL) == 0 && mount("m", "n", NULL, MS_BIND | MS_REC, NULL) == 0 && access("n/below/file", F_OK) == 0);
    CHECK(mount(NULL, "n", NULL, MS_SLAVE, NULL) == 0); /* of nobody: it stays private */
    CHECK(!strstr(content("/proc/self/mountinfo"), "unbindable") && !strstr(content("/proc/self/mountinfo"), "master:"));
    FAILS(mount(NULL, "m", NULL, MS_PRIVATE | MS_SLAVE, NULL), EINVAL);
    FAILS(mount(NULL, "m/below/file", NULL, MS_PRIVATE, NULL), EINVAL);
}
