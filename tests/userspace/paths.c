// Names: directories, links, rename with its flags, the *at calls, stat and statx, permissions, times, extended attributes.
#include "check.h"
#include <dirent.h>
#include <grp.h>
#include <limits.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <utime.h>
#ifndef RENAME_EXCHANGE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif

static struct stat st;
#define MODE(path) (lstat(path, &st) == 0 ? (int)st.st_mode : -1)
#define LINKS(path) (lstat(path, &st) == 0 ? (int)st.st_nlink : -1)

CASE(mkdir_rmdir) {
    CHECK(mkdir("d", 0751) == 0 && MODE("d") == (S_IFDIR | 0751));
    FAILS(mkdir("d", 0755), EEXIST);
    FAILS(mkdir("absent/d", 0755), ENOENT);
    CHECK(mkdir("d/e/", 0755) == 0);
    CHECK(LINKS("d") == 3 || LINKS("d") == 1);
    FAILS(rmdir("d"), ENOTEMPTY);
    CHECK(rmdir("d/e") == 0);
    FAILS(rmdir("d/."), EINVAL);
    FAILS(rmdir("d/.."), ENOTEMPTY);
    put("f", "");
    FAILS(rmdir("f"), ENOTDIR);
    FAILS(rmdir("absent"), ENOENT);
    FAILS(unlink("d"), EISDIR);
    CHECK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR) == 0);
    FAILS(unlinkat(AT_FDCWD, "f", 0x1), EINVAL);
    FAILS(rmdir("/"), EBUSY);
    FAILS(mkdir("/", 0755), EEXIST);
    FAILS(mkdir("f/x", 0755), ENOTDIR);
}

CASE(working_directory) {
    char a[PATH_MAX], b[PATH_MAX];
    getcwd(a, sizeof a);
    mkdir("d", 0755);
    CHECK(chdir("d") == 0 && getcwd(b, sizeof b) && !strncmp(a, b, strlen(a)) && !strcmp(b + strlen(a), "/d"));
    CHECK(chdir("..") == 0);
    int fd = open("d", O_RDONLY | O_DIRECTORY);
    CHECK(fchdir(fd) == 0);
    CHECK(rmdir("../d") == 0);
    FAILS(getcwd(b, sizeof b) == NULL ? -1 : 0, ENOENT);
    FAILS(open("new", O_CREAT | O_WRONLY, 0600), ENOENT);
    CHECK(chdir("..") == 0);
    FAILS(syscall(SYS_getcwd, b, 2), ERANGE);
    FAILS(chdir("absent"), ENOENT);
    put("f", "");
    FAILS(chdir("f"), ENOTDIR);
    FAILS(fchdir(open("f", O_RDONLY)), ENOTDIR);
}

CASE(hard_links) {
    put("a", "shared");
    CHECK(link("a", "b") == 0 && LINKS("a") == 2);
    struct stat sa, sb;
    stat("a", &sa), stat("b", &sb);
    CHECK(sa.st_ino == sb.st_ino && sa.st_dev == sb.st_dev);
    put("b", "changed");
    CHECK(!strcmp(content("a"), "changed"));
    FAILS(link("a", "b"), EEXIST);
    FAILS(link("absent", "c"), ENOENT);
    mkdir("d", 0755);
    FAILS(link("d", "e"), EPERM);
    CHECK(unlink("a") == 0 && LINKS("b") == 1);
    symlink("b", "s");
    CHECK(link("s", "t") == 0 && S_ISLNK(MODE("t")));
    CHECK(linkat(AT_FDCWD, "s", AT_FDCWD, "u", AT_SYMLINK_FOLLOW) == 0 && S_ISREG(MODE("u")) && LINKS("b") == 2);
    FAILS(link("b", "/dev/shm/polynix-x"), EXDEV);
}

CASE(symbolic_links) {
    char text[100] = "";
    CHECK(symlink("somewhere", "s") == 0 && readlink("s", text, 100) == 9 && !strcmp(text, "somewhere"));
    CHECK(lstat("s", &st) == 0 && st.st_size == 9 && S_ISLNK(st.st_mode) && (st.st_mode & 0777) == 0777);
    FAILS(symlink("x", "s"), EEXIST);
    FAILS(symlink("", "t"), ENOENT);
    CHECK(readlink("s", text, 3) == 3);
    FAILS(readlink("s", text, 0), EINVAL);
    put("f", "");
    FAILS(readlink("f", text, 10), EINVAL);
    symlink("loop2", "loop1");
    symlink("loop1", "loop2");
    FAILS(stat("loop1", &st), ELOOP);
    CHECK(lstat("loop1", &st) == 0);
    mkdir("d", 0755);
    put("d/f", "through");
    symlink("d", "ld");
    CHECK(!strcmp(content("ld/f"), "through"));
    CHECK(S_ISLNK(MODE("ld")) && S_ISDIR(MODE("ld/")));
    FAILS(rmdir("ld"), ENOTDIR);
    FAILS(unlink("ld/"), ENOTDIR);
    symlink("d/../f", "dots");
    CHECK(stat("dots", &st) == 0);
    char name[20] = "chain0";
    put("chain0", "");
    for (int i = 1; i <= 45; i++) {
        char next[20];
        snprintf(next, sizeof next, "chain%d", i);
        symlink(name, next);
        strcpy(name, next);
    }
    CHECK(stat("chain40", &st) == 0);
    FAILS(stat("chain41", &st), ELOOP);
}

CASE(rename_files) {
    put("a", "A");
    put("b", "B");
    CHECK(rename("a", "b") == 0 && access("a", F_OK) == -1 && !strcmp(content("b"), "A"));
    FAILS(rename("absent", "b"), ENOENT);
    FAILS(rename("b", "absent/x"), ENOENT);
    CHECK(rename("b", "b") == 0);
    link("b", "c");
    CHECK(rename("b", "c") == 0 && access("b", F_OK) == 0); /* two names of one file: nothing happens */
    mkdir("d", 0755);
    FAILS(rename("b", "d"), EISDIR);
    FAILS(rename("d", "b"), ENOTDIR);
    FAILS(rename("b", "b/x"), ENOTDIR);
    CHECK(rename("b", "d/b") == 0);
    FAILS(rename("d/b", "/dev/shm/polynix-x"), EXDEV);
    FAILS(rename("d/b", "d/new/"), ENOTDIR);
}

CASE(rename_directories) {
    mkdir("a", 0755);
    mkdir("a/inner", 0755);
    put("a/inner/f", "deep");
    mkdir("b", 0755);
    CHECK(rename("a", "b") == 0 && !strcmp(content("b/inner/f"), "deep"));
    mkdir("a", 0755);
    FAILS(rename("a", "b"), ENOTEMPTY);
    FAILS(rename("b", "b/inner/x"), EINVAL);
    FAILS(rename("b/inner", "b"), ENOTEMPTY);
    FAILS(rename("b/.", "c"), EBUSY);
    FAILS(rename("b", "a/.."), EBUSY);
    int fd = open("b/inner", O_RDONLY);
    CHECK(rename("b", "c") == 0);
    CHECK(openat(fd, "f", O_RDONLY) >= 0);
    fchdir(fd);
    char cwd[PATH_MAX];
    CHECK(getcwd(cwd, sizeof cwd) && strstr(cwd, "/c/inner"));
}

CASE(rename_flags) {
    put("a", "A");
    put("b", "B");
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    CHECK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE) == 0);
    CHECK(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE) == 0);
    CHECK(!strcmp(content("b"), "A"));
    CHECK(!strcmp(content("c"), "B"));
    mkdir("d", 0755);
    put("d/x", "X");
    CHECK(renameat2(AT_FDCWD, "d", AT_FDCWD, "c", RENAME_EXCHANGE) == 0 && S_ISDIR(MODE("c")) && S_ISREG(MODE("d")));
    CHECK(!strcmp(content("c/x"), "X"));
    FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "absent", RENAME_EXCHANGE), ENOENT);
    FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "x", 3), EINVAL);
    FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "x", 0x100), EINVAL);
}

CASE(directory_reading) {
    mkdir("d", 0755);
    for (int i = 0; i < 300; i++) {
        char name[32];
        snprintf(name, sizeof name, "d/file%03d", i);
        put(name, "");
    }
    mkdir("d/sub", 0755);
    symlink("x", "d/link");
    DIR *dir = opendir("d");
    NEED(dir);
    int files = 0, directories = 0, links = 0, others = 0;
    struct dirent *each;
    long middle = 0;
    while ((each = readdir(dir))) {
        if (each->d_type == DT_REG) files++;
        else if (each->d_type == DT_DIR) directories++;
        else if (each->d_type == DT_LNK) links++;
        else others++;
        CHECK(each->d_ino != 0);
        if (files == 150 && !middle) middle = telldir(dir);
    }
    note("%d files %d directories %d links %d others", files, directories, links, others);
    seekdir(dir, middle);
    int rest = 0;
    while (readdir(dir)) rest++;
    CHECK(rest > 0 && rest < 304);
    rewinddir(dir);
    int all = 0;
    while (readdir(dir)) all++;
    CHECK(all == 304);
    rewinddir(dir);
    int removed = 0;
    while ((each = readdir(dir)))
        if (each->d_type == DT_REG && unlinkat(dirfd(dir), each->d_name, 0) == 0) removed++;
    CHECK(removed == 300);
    char small[10];
    int fd = open("d", O_RDONLY);
    FAILS(syscall(SYS_getdents64, fd, small, sizeof small), EINVAL);
    FAILS(syscall(SYS_getdents64, open("d/new", O_CREAT | O_RDWR, 0600), small, sizeof small), ENOTDIR);
    FAILS(syscall(SYS_getdents64, fd, 16, 4096), EFAULT);
}

CASE(inode_numbers_agree) {
    mkdir("d", 0755);
    put("d/f", "");
    DIR *dir = opendir("d");
    struct dirent *each;
    while ((each = readdir(dir))) {
        char path[300];
        snprintf(path, sizeof path, "d/%s", each->d_name);
        CHECK(lstat(path, &st) == 0 && st.st_ino == each->d_ino);
    }
    struct stat parent, self;
    stat("d/..", &parent), stat(".", &self);
    CHECK(parent.st_ino == self.st_ino && parent.st_dev == self.st_dev);
    DIR *root = opendir("/");
    while ((each = readdir(root)))
        if (!strcmp(each->d_name, "..")) CHECK(stat("/..", &st) == 0 && stat("/", &self) == 0 && st.st_ino == self.st_ino);
}

CASE(stat_fields) {
    put("f", "0123456789");
    chmod("f", 0604);
    CHECK(stat("f", &st) == 0);
    CHECK(st.st_size == 10 && st.st_mode == (S_IFREG | 0604) && st.st_nlink == 1 && st.st_uid == geteuid() && st.st_gid == getegid());
    CHECK(st.st_blocks == 8 && st.st_blksize == 4096);
    CHECK(labs(time(NULL) - st.st_mtim.tv_sec) <= 2);
    struct stat other;
    int fd = open("f", O_RDONLY);
    CHECK(fstat(fd, &other) == 0 && other.st_ino == st.st_ino);
    CHECK(fstatat(AT_FDCWD, "f", &other, 0) == 0 && fstatat(fd, "", &other, AT_EMPTY_PATH) == 0 && other.st_ino == st.st_ino);
    FAILS(fstatat(AT_FDCWD, "", &other, 0), ENOENT);
    FAILS(fstatat(AT_FDCWD, "f", &other, 0x10), EINVAL);
    FAILS(fstatat(fd, "x", &other, 0), ENOTDIR);
    FAILS(fstatat(99, "x", &other, 0), EBADF);
    CHECK(fstatat(99, "/", &other, 0) == 0);
    FAILS(stat("absent", &st), ENOENT);
    FAILS(stat("f/x", &st), ENOTDIR);
    FAILS(syscall(SYS_stat, "f", 16), EFAULT);
    CHECK(fstat(0, &st) == 0);
}

CASE(statx_fields) {
    put("f", "0123456789");
    struct statx x;
    CHECK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS | STATX_BTIME, &x) == 0);
    CHECK(x.stx_size == 10 && (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS && x.stx_nlink == 1);
    stat("f", &st);
    CHECK(x.stx_ino == st.st_ino && makedev(x.stx_dev_major, x.stx_dev_minor) == st.st_dev && x.stx_mode == st.st_mode);
    CHECK(x.stx_mtime.tv_sec == st.st_mtim.tv_sec && x.stx_mtime.tv_nsec == st.st_mtim.tv_nsec);
    int fd = open("f", O_RDONLY);
    CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &x) == 0 && x.stx_size == 10);
    FAILS(statx(AT_FDCWD, "f", 0x80000, STATX_SIZE, &x), EINVAL);
    FAILS(statx(AT_FDCWD, "f", 0, STATX__RESERVED, &x), EINVAL);
    FAILS(syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_SIZE, 16), EFAULT);
    symlink("f", "s");
    CHECK(statx(AT_FDCWD, "s", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &x) == 0 && S_ISLNK(x.stx_mode));
}

CASE(modes_and_umask) {
    CHECK(umask(027) == 022);
    close(open("f", O_CREAT | O_WRONLY, 0777));
    mkdir("d", 0777);
    CHECK(MODE("f") == (S_IFREG | 0750) && MODE("d") == (S_IFDIR | 0750));
    CHECK(umask(0) == 027 && umask(01777) == 0 && umask(022) == 0777);
    CHECK(chmod("f", 06755) == 0 && MODE("f") == (S_IFREG | 06755));
    int fd = open("f", O_RDWR);
    CHECK(fchmod(fd, 0100600 | 04) == 0 && MODE("f") == (S_IFREG | 0604));
    CHECK(fchmodat(AT_FDCWD, "f", 0644, 0) == 0);
    FAILS(chmod("absent", 0644), ENOENT);
    symlink("f", "s");
    CHECK(chmod("s", 0600) == 0 && MODE("f") == (S_IFREG | 0600));
    CHECK(chmod("d", 01777) == 0 && MODE("d") == (S_IFDIR | 01777));
}

CASE(owners) {
    if (getuid()) SKIP("needs root");
    put("f", "");
    CHECK(chmod("f", 06755) == 0);
    CHECK(chown("f", 5, 6) == 0 && lstat("f", &st) == 0 && st.st_uid == 5 && st.st_gid == 6);
    CHECK((st.st_mode & 07777) == 0755); /* setuid and setgid go, for root as well */
    CHECK(chown("f", -1, 7) == 0 && lstat("f", &st) == 0 && st.st_uid == 5 && st.st_gid == 7);
    symlink("f", "s");
    CHECK(lchown("s", 8, 9) == 0 && lstat("s", &st) == 0 && st.st_uid == 8);
    CHECK(stat("s", &st) == 0 && st.st_uid == 5);
    int fd = open("f", O_RDONLY);
    CHECK(fchown(fd, 1, 2) == 0 && fchownat(fd, "", 3, 4, AT_EMPTY_PATH) == 0 && lstat("f", &st) == 0 && st.st_uid == 3);
    chmod(".", 0777);
    IN_CHILD({
        gid_t groups[] = {50};
        setgroups(1, groups);
        setgid(40), setuid(30);
        FAILS(chown("f", 30, -1), EPERM);
        put("mine", "");
        CHECK(chown("mine", -1, 50) == 0);
        FAILS(chown("mine", -1, 60), EPERM);
        FAILS(chown("mine", 31, -1), EPERM);
        CHECK(chown("mine", 30, 40) == 0);
        FAILS(chmod("f", 0777), EPERM);
        CHECK(chmod("mine", 02755) == 0 && lstat("mine", &st) == 0 && (st.st_mode & 07777) == 02755);
    });
    mkdir("sg", 0777);
    chown("sg", 0, 77);
    chmod("sg", 02777);
    put("sg/f", "");
    mkdir("sg/d", 0755);
    CHECK(lstat("sg/f", &st) == 0 && st.st_gid == 77);
    CHECK(lstat("sg/d", &st) == 0 && st.st_gid == 77 && (st.st_mode & S_ISGID));
}

CASE(permission_checks) {
    if (getuid()) SKIP("needs root");
    chmod(".", 0755);
    put("owner", "o");
    chmod("owner", 0600);
    put("world", "w");
    chmod("world", 0604);
    put("grouped", "g");
    chown("grouped", 0, 50);
    chmod("grouped", 0640);
    mkdir("closed", 0700);
    put("closed/f", "");
    mkdir("listonly", 0744);
    put("listonly/f", "");
    mkdir("passonly", 0711);
    put("passonly/f", "");
    mkdir("sticky", 01777);
    chmod("sticky", 01777);
    put("sticky/f", "");
    IN_CHILD({
        gid_t groups[] = {50};
        setgroups(1, groups);
        setgid(40), setuid(30);
        FAILS(open("owner", O_RDONLY), EACCES);
        CHECK(open("world", O_RDONLY) >= 0);
        FAILS(open("world", O_WRONLY), EACCES);
        CHECK(open("grouped", O_RDONLY) >= 0);
        FAILS(open("grouped", O_RDWR), EACCES);
        FAILS(stat("closed/f", &st), EACCES);
        FAILS(chdir("closed"), EACCES);
        FAILS(stat("listonly/f", &st), EACCES);
        CHECK(opendir("listonly") != NULL);
        CHECK(stat("passonly/f", &st) == 0);
        FAILS(open("passonly", O_RDONLY), EACCES);
        FAILS(open("new", O_CREAT | O_WRONLY, 0600), EACCES);
        FAILS(unlink("world"), EACCES);
        FAILS(rename("world", "x"), EACCES);
        FAILS(mkdir("dir", 0755), EACCES);
        FAILS(unlink("sticky/f"), EPERM);
        FAILS(rename("sticky/f", "sticky/g"), EPERM);
        put("sticky/mine", "");
        CHECK(unlink("sticky/mine") == 0);
        FAILS(access("owner", R_OK), EACCES);
        CHECK(access("world", R_OK) == 0 && access("owner", F_OK) == 0);
        FAILS(access("world", X_OK), EACCES);
        FAILS(truncate("world", 0), EACCES);
        FAILS(utime("world", NULL), EACCES);
        FAILS(chroot("."), EPERM);
        FAILS(mknod("sticky/dev", S_IFCHR | 0600, makedev(1, 3)), EPERM);
        CHECK(mknod("sticky/fifo", S_IFIFO | 0600, 0) == 0);
    });
    CHECK(open("owner", O_RDWR) >= 0 && stat("closed/f", &st) == 0);
    FAILS(access("owner", X_OK), EACCES); /* even for root: no execute bit at all */
    put("none", "");
    chmod("none", 0);
    CHECK(open("none", O_RDWR) >= 0);
    IN_CHILD({
        setresuid(30, 0, 0);
        FAILS(access("owner", R_OK), EACCES); /* the real uid counts */
        CHECK(faccessat(AT_FDCWD, "owner", R_OK, AT_EACCESS) == 0);
    });
}

CASE(times) {
    put("f", "");
    struct timespec t[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    CHECK(utimensat(AT_FDCWD, "f", t, 0) == 0 && stat("f", &st) == 0);
    CHECK(st.st_atim.tv_sec == 1000000000 && st.st_atim.tv_nsec == 123456789 && st.st_mtim.tv_nsec == 987654321);
    t[0].tv_nsec = UTIME_OMIT;
    t[1].tv_nsec = UTIME_NOW;
    CHECK(utimensat(AT_FDCWD, "f", t, 0) == 0 && stat("f", &st) == 0 && st.st_atim.tv_sec == 1000000000 && labs(st.st_mtim.tv_sec - time(NULL)) <= 2);
    int fd = open("f", O_RDWR);
    t[0] = t[1] = (struct timespec){5, 0};
    CHECK(futimens(fd, t) == 0 && fstat(fd, &st) == 0 && st.st_mtim.tv_sec == 5);
    t[0].tv_nsec = 1000000000;
    FAILS(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
    struct timeval v[2] = {{10, 5}, {20, 7}};
    CHECK(utimes("f", v) == 0 && stat("f", &st) == 0 && st.st_mtim.tv_nsec == 7000);
    CHECK(utime("f", &(struct utimbuf){3, 4}) == 0 && stat("f", &st) == 0 && st.st_atim.tv_sec == 3);
    symlink("f", "s");
    t[0] = t[1] = (struct timespec){99, 0};
    CHECK(utimensat(AT_FDCWD, "s", t, AT_SYMLINK_NOFOLLOW) == 0 && lstat("s", &st) == 0 && st.st_mtim.tv_sec == 99);
    FAILS(utimensat(AT_FDCWD, "absent", NULL, 0), ENOENT);
    t[0].tv_sec = 50;
    utimensat(AT_FDCWD, ".", t, 0);
    put("new", "");
    CHECK(stat(".", &st) == 0 && labs(st.st_mtim.tv_sec - time(NULL)) <= 2); /* a directory's time moves with its entries */
    write(fd, "x", 1);
    CHECK(fstat(fd, &st) == 0 && labs(st.st_mtim.tv_sec - time(NULL)) <= 2);
}

CASE(special_files) {
    CHECK(mknod("fifo", S_IFIFO | 0644, 0) == 0 && S_ISFIFO(MODE("fifo")));
    CHECK(mknod("plain", S_IFREG | 0644, 0) == 0 && S_ISREG(MODE("plain")));
    CHECK(mknod("sock", S_IFSOCK | 0644, 0) == 0 && S_ISSOCK(MODE("sock")));
    FAILS(open("sock", O_RDONLY), ENXIO);
    FAILS(mknod("d", S_IFDIR | 0755, 0), EPERM);
    FAILS(mknod("fifo", S_IFIFO, 0), EEXIST);
    FAILS(mknod("bad", 0170000, 0), EINVAL);
    if (geteuid()) return;
    if (mknod("null", S_IFCHR | 0666, makedev(1, 3)) < 0) SKIP("may not make devices");
    CHECK(lstat("null", &st) == 0 && st.st_rdev == makedev(1, 3));
    int fd = open("null", O_WRONLY);
    if (fd < 0) SKIP("devices don't open here");
    CHECK(write(fd, "x", 1) == 1);
    CHECK(mknod("nodriver", S_IFCHR | 0666, makedev(240, 77)) == 0);
    FAILS(open("nodriver", O_RDONLY), ENXIO);
}

CASE(extended_attributes) {
    put("f", "");
    char value[100];
    if (setxattr("f", "user.one", "value", 5, 0) < 0 && errno == EOPNOTSUPP) SKIP("no extended attributes here");
    CHECK(getxattr("f", "user.one", value, sizeof value) == 5 && !memcmp(value, "value", 5));
    CHECK(getxattr("f", "user.one", NULL, 0) == 5);
    FAILS(getxattr("f", "user.one", value, 2), ERANGE);
    FAILS(getxattr("f", "user.two", value, 100), ENODATA);
    FAILS(setxattr("f", "user.one", "x", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("f", "user.two", "x", 1, XATTR_REPLACE), ENODATA);
    CHECK(setxattr("f", "user.two", "", 0, XATTR_CREATE) == 0);
    int fd = open("f", O_RDWR);
    CHECK(fsetxattr(fd, "user.three", "3", 1, 0) == 0 && fgetxattr(fd, "user.three", value, 9) == 1);
    ssize_t n = listxattr("f", value, sizeof value);
    CHECK(n == 9 + 9 + 11);
    CHECK(removexattr("f", "user.one") == 0);
    FAILS(removexattr("f", "user.one"), ENODATA);
    FAILS(setxattr("f", "nonsense", "x", 1, 0), EOPNOTSUPP);
    FAILS(setxattr("f", "user.", "x", 1, 0), EINVAL);
    FAILS(setxattr("f", "user.big", value, 1 << 17, 0), E2BIG);
    symlink("f", "s");
    FAILS(lsetxattr("s", "user.x", "x", 1, 0), EPERM);
    CHECK(lgetxattr("s", "user.two", value, 9) == -1);
    char name[300] = "user.";
    memset(name + 5, 'n', 290);
    FAILS(setxattr("f", name, "x", 1, 0), ERANGE);
}

CASE(at_calls_with_directories) {
    mkdir("d", 0755);
    int d = open("d", O_RDONLY | O_DIRECTORY), o = open("d", O_PATH | O_DIRECTORY);
    CHECK(openat(d, "f", O_CREAT | O_WRONLY, 0600) >= 0 && access("d/f", F_OK) == 0);
    CHECK(mkdirat(o, "sub", 0755) == 0 && symlinkat("f", o, "s") == 0 && mknodat(o, "fifo", S_IFIFO | 0600, 0) == 0);
    CHECK(linkat(o, "f", d, "sub/g", 0) == 0);
    CHECK(renameat(o, "sub/g", AT_FDCWD, "here") == 0 && access("here", F_OK) == 0);
    char text[10];
    CHECK(readlinkat(o, "s", text, 10) == 1);
    CHECK(faccessat(o, "f", F_OK, 0) == 0);
    CHECK(unlinkat(o, "sub", AT_REMOVEDIR) == 0);
    int link_fd = openat(o, "s", O_PATH | O_NOFOLLOW);
    CHECK(link_fd >= 0 && readlinkat(link_fd, "", text, 10) == 1);
    CHECK(fstat(link_fd, &st) == 0 && S_ISLNK(st.st_mode));
    FAILS(openat(open("here", O_RDONLY), "x", O_RDONLY), ENOTDIR);
    FAILS(mkdirat(99, "x", 0755), EBADF);
}

CASE(dots_and_slashes) {
    mkdir("a", 0755);
    put("a/f", "x");
    CHECK(access("a//f", F_OK) == 0 && access("./a/./f", F_OK) == 0 && access("a/../a/f", F_OK) == 0 && access("////", F_OK) == 0);
    FAILS(access("a/f/.", F_OK), ENOTDIR);
    FAILS(access("a/f/..", F_OK), ENOTDIR);
    FAILS(access("absent/../a", F_OK), ENOENT);
    CHECK(access("/../../etc", F_OK) == 0);
    FAILS(access("", F_OK), ENOENT);
    FAILS(access("a", 77), EINVAL);
}
