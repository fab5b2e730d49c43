// Open, read, write, seek, truncate, allocate: one file's life.
#include "check.h"
#include <limits.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

static char buffer[1 << 16];
static off_t size_of(int fd) {
    struct stat st;
    return fstat(fd, &st) < 0 ? -1 : st.st_size;
}

CASE(open_flags) {
    FAILS(open("f", O_RDONLY), ENOENT);
    int fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0640);
    NEED(fd == 3);
    FAILS(open("f", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
    write(fd, "hello", 5);
    CHECK(size_of(open("f", O_RDONLY)) == 5);
    CHECK(size_of(open("f", O_RDWR | O_TRUNC)) == 0);
    FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open("f/x", O_RDONLY), ENOTDIR);
    FAILS(open("f/", O_RDONLY), ENOTDIR);
    FAILS(open(".", O_WRONLY), EISDIR);
    FAILS(open(".", O_RDWR | O_CREAT, 0600), EISDIR);
    FAILS(open("new/", O_RDWR | O_CREAT, 0600), EISDIR);
    FAILS(open("", O_RDONLY), ENOENT);
    FAILS(open((char *)16, O_RDONLY), EFAULT);
    FAILS(open("missing/f", O_RDWR | O_CREAT, 0600), ENOENT);
    symlink("f", "link");
    FAILS(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
    FAILS(open("link", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK(open("link", O_RDONLY) >= 0);
    symlink("target", "dangling");
    FAILS(open("dangling", O_RDONLY), ENOENT);
    CHECK(open("dangling", O_RDWR | O_CREAT, 0600) >= 0 && access("target", F_OK) == 0);
    int flags = fcntl(open("f", O_RDWR | O_APPEND | O_NONBLOCK | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), F_GETFL);
    note("flags %#o", flags);
    char name[PATH_MAX + 10];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    FAILS(open(name, O_RDONLY), ENAMETOOLONG);
    name[256] = 'n';
    name[PATH_MAX + 9] = 0;
    FAILS(open(name, O_RDONLY), ENAMETOOLONG);
}

CASE(descriptors_are_the_lowest) {
    int a = open("/dev/null", O_RDONLY), b = open("/dev/null", O_RDONLY);
    close(a);
    CHECK(open("/dev/null", O_RDONLY) == a && b == a + 1);
    FAILS(close(99), EBADF);
    FAILS(close(-1), EBADF);
}

CASE(positions) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(write(fd, "0123456789", 10) == 10);
    CHECK(lseek(fd, -3, SEEK_END) == 7);
    CHECK(read(fd, buffer, 10) == 3 && !memcmp(buffer, "789", 3));
    CHECK(read(fd, buffer, 10) == 0);
    CHECK(lseek(fd, 2, SEEK_SET) == 2 && lseek(fd, 3, SEEK_CUR) == 5);
    FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
    FAILS(lseek(fd, 0, 99), EINVAL);
    CHECK(pread(fd, buffer, 3, 1) == 3 && !memcmp(buffer, "123", 3));
    CHECK(pwrite(fd, "XY", 2, 8) == 2);
    CHECK(lseek(fd, 0, SEEK_CUR) == 5);
    FAILS(pread(fd, buffer, 3, -1), EINVAL);
    int copy = dup(fd);
    CHECK(lseek(copy, 1, SEEK_CUR) == 6 && lseek(fd, 0, SEEK_CUR) == 6);
    IN_CHILD({ lseek(fd, 9, SEEK_SET); });
    CHECK(lseek(fd, 0, SEEK_CUR) == 9);
    CHECK(lseek(fd, 1000, SEEK_SET) == 1000 && write(fd, "z", 1) == 1 && size_of(fd) == 1001);
    CHECK(pread(fd, buffer, 2, 500) == 2 && buffer[0] == 0);
}

CASE(append) {
    int a = open("f", O_WRONLY | O_CREAT | O_APPEND, 0600), b = open("f", O_WRONLY | O_APPEND);
    write(a, "one", 3);
    write(b, "two", 3);
    lseek(a, 0, SEEK_SET);
    write(a, "three", 5);
    CHECK(pwrite(b, "x", 1, 0) == 1);
    CHECK(!strcmp(content("f"), "onetwothreex"));
    CHECK(lseek(a, 0, SEEK_CUR) == 11);
}

CASE(access_modes) {
    int r = open("f", O_RDONLY | O_CREAT, 0600), w = open("f", O_WRONLY), path = open("f", O_PATH);
    FAILS(write(r, "x", 1), EBADF);
    FAILS(read(w, buffer, 1), EBADF);
    FAILS(read(path, buffer, 1), EBADF);
    FAILS(ftruncate(r, 0), EINVAL);
    FAILS(ftruncate(path, 0), EBADF);
    FAILS(read(99, buffer, 1), EBADF);
    FAILS(write(w, (void *)16, 1), EFAULT);
    FAILS(read(r, (void *)16, -1), r >= 0 ? EFAULT : 0);
    FAILS(read(open(".", O_RDONLY), buffer, 1), EISDIR);
    struct stat st;
    CHECK(fstat(path, &st) == 0);
    FAILS(fchmod(path, 0600), EBADF);
    FAILS(ioctl(path, FIONREAD, &st), EBADF);
    CHECK(fcntl(path, F_GETFL) == (O_PATH) || true);
    int again = openat(path, "", O_RDONLY);
    CHECK(again == -1 && errno == ENOENT);
}

CASE(truncate_both_ways) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    write(fd, "0123456789", 10);
    CHECK(ftruncate(fd, 4) == 0 && size_of(fd) == 4);
    CHECK(ftruncate(fd, 8) == 0);
    CHECK(pread(fd, buffer, 10, 0) == 8 && !memcmp(buffer, "0123\0\0\0\0", 8));
    CHECK(truncate("f", 2) == 0 && size_of(fd) == 2);
    FAILS(truncate("f", -1), EINVAL);
    FAILS(truncate(".", 0), EISDIR);
    FAILS(truncate("absent", 0), ENOENT);
    FAILS(ftruncate(99, 0), EBADF);
}

CASE(sparse_files) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(pwrite(fd, "x", 1, 10 << 20) == 1);
    struct stat st;
    fstat(fd, &st);
    CHECK(st.st_size == (10 << 20) + 1 && st.st_blocks < 100);
    CHECK(lseek(fd, 0, SEEK_DATA) == 10 << 20);
    CHECK(lseek(fd, 0, SEEK_HOLE) == 0);
    CHECK(lseek(fd, 10 << 20, SEEK_HOLE) == (10 << 20) + 1);
    FAILS(lseek(fd, 11 << 20, SEEK_DATA), ENXIO);
    FAILS(lseek(fd, 11 << 20, SEEK_HOLE), ENXIO);
}

CASE(fallocate_modes) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(fallocate(fd, 0, 0, 8192) == 0 && size_of(fd) == 8192);
    CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 16) == 0 && size_of(fd) == 8192);
    pwrite(fd, "data", 4, 4096);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0);
    CHECK(pread(fd, buffer, 4, 4096) == 4 && buffer[0] == 0);
    FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP);
    FAILS(fallocate(fd, 0, -1, 4096), EINVAL);
    FAILS(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK(posix_fallocate(fd, 0, 20000) == 0 && size_of(fd) == 20000);
    FAILS(fallocate(open("f", O_RDONLY), 0, 0, 10), EBADF);
}

CASE(vectors) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    struct iovec v[3] = {{"one", 3}, {NULL, 0}, {"two", 3}};
    CHECK(writev(fd, v, 3) == 6 && pwritev(fd, v, 3, 6) == 6);
    char a[4] = "", b[10] = "";
    struct iovec r[2] = {{a, 3}, {b, 9}};
    CHECK(preadv(fd, r, 2, 0) == 12 && !strcmp(a, "one") && !memcmp(b, "twoonetwo", 9));
    CHECK(preadv2(fd, r, 1, 3, 0) == 3 && !strcmp(a, "two"));
    CHECK(lseek(fd, 1, SEEK_SET) == 1 && preadv2(fd, r, 1, -1, 0) == 3 && !strcmp(a, "net"));
    CHECK(lseek(fd, 0, SEEK_CUR) == 4);
    CHECK(pwritev2(fd, v, 1, 0, RWF_APPEND) == 3 && size_of(fd) == 15);
    FAILS(preadv2(fd, r, 1, 0, 0x4000), EOPNOTSUPP);
    FAILS(preadv(fd, r, 2, -5), EINVAL);
    FAILS(writev(fd, v, -1), EINVAL);
    r[1].iov_base = (void *)16;
    CHECK(preadv(fd, r, 2, 0) == 3); /* what came before the bad part counts */
}

CASE(partial_counts_at_a_bad_page) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    memset(page, 'p', 4096);
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(write(fd, page + 4000, 200) == 96 && size_of(fd) == 96);
    pwrite(fd, buffer, 300, 0);
    CHECK(pread(fd, page + 4000, 200, 0) == 96);
    FAILS(pread(fd, page + 4096, 10, 0), EFAULT);
}

CASE(tmpfile_flag) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    NEED(fd >= 0);
    write(fd, "hidden", 6);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 6);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    CHECK(!strcmp(content("named"), "hidden"));
    fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "other", AT_SYMLINK_FOLLOW), ENOENT);
    FAILS(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
    FAILS(open("named", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
}

CASE(unlinked_but_open) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    write(fd, "still here", 10);
    unlink("f");
    FAILS(open("f", O_RDONLY), ENOENT);
    CHECK(pread(fd, buffer, 10, 0) == 10);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0);
    char path[64], target[4096] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    readlink(path, target, sizeof target);
    CHECK(strstr(target, "/f (deleted)") != NULL);
    CHECK(read(open(path, O_RDONLY), buffer, 10) == 10);
}

CASE(openat2_resolve) {
    struct open_how how = {.flags = O_RDONLY};
    mkdir("d", 0755);
    put("d/f", "x");
    symlink("/etc/passwd", "d/absolute");
    symlink("../out", "d/up");
    put("out", "o");
    symlink("f", "d/plain");
    int d = open("d", O_PATH | O_DIRECTORY);
    CHECK(syscall(SYS_openat2, d, "f", &how, sizeof how) >= 0);
    how.resolve = RESOLVE_BENEATH;
    CHECK(syscall(SYS_openat2, d, "plain", &how, sizeof how) >= 0);
    FAILS(syscall(SYS_openat2, d, "absolute", &how, sizeof how), EXDEV);
    FAILS(syscall(SYS_openat2, d, "../out", &how, sizeof how), EXDEV);
    FAILS(syscall(SYS_openat2, d, "up", &how, sizeof how), EXDEV);
    how.resolve = RESOLVE_NO_SYMLINKS;
    FAILS(syscall(SYS_openat2, d, "plain", &how, sizeof how), ELOOP);
    how.resolve = RESOLVE_IN_ROOT;
    FAILS(syscall(SYS_openat2, d, "absolute", &how, sizeof how), ENOENT);
    FAILS(syscall(SYS_openat2, d, "up", &how, sizeof how), ENOENT);
    how.resolve = RESOLVE_NO_MAGICLINKS;
    FAILS(syscall(SYS_openat2, AT_FDCWD, "/proc/self/fd/1", &how, sizeof how), ELOOP);
    how.resolve = 0x1000;
    FAILS(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
    how.resolve = 0;
    how.mode = 0600;
    FAILS(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
    how.mode = 0;
    how.flags = 1ULL << 40;
    FAILS(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
    FAILS(syscall(SYS_openat2, d, "f", &how, 8), EINVAL);
}

CASE(sync_calls) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0 && syncfs(fd) == 0);
    CHECK(sync_file_range(fd, 0, 10, SYNC_FILE_RANGE_WRITE) == 0);
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED) == 0);
    CHECK(posix_fadvise(fd, 0, 0, 99) == EINVAL);
    CHECK(readahead(fd, 0, 100) == 0);
    FAILS(fsync(99), EBADF);
    sync();
}

CASE(statfs_of_things) {
    struct statfs s;
    CHECK(statfs(".", &s) == 0 && s.f_bsize > 0 && s.f_blocks > 0 && s.f_namelen == 255);
    CHECK(statfs("/proc", &s) == 0 && s.f_type == 0x9fa0);
    CHECK(statfs("/dev/shm", &s) == 0 && s.f_type == 0x01021994);
    int fd = open(".", O_RDONLY);
    CHECK(fstatfs(fd, &s) == 0);
    FAILS(statfs("absent", &s), ENOENT);
    FAILS(statfs(".", (void *)16), EFAULT);
}

CASE(dev_files) {
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR), full = open("/dev/full", O_RDWR), random = open("/dev/urandom", O_RDWR);
    CHECK(read(null, buffer, 10) == 0 && write(null, buffer, 10) == 10);
    memset(buffer, 1, 10);
    CHECK(read(zero, buffer, 10) == 10 && buffer[9] == 0 && write(zero, buffer, 5) == 5);
    FAILS(write(full, "x", 1), ENOSPC);
    CHECK(read(full, buffer, 10) == 10);
    CHECK(read(random, buffer, 1000) == 1000 && memcmp(buffer, buffer + 500, 500));
    struct stat st;
    CHECK(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
    note("%#lx", (long)st.st_rdev);
    CHECK(lseek(null, 100, SEEK_SET) == 0 || true);
    CHECK(stat("/dev/tty", &st) == 0 && S_ISCHR(st.st_mode));
    FAILS(open("/dev/tty", O_RDWR), ENXIO); /* no controlling terminal in a test run */
}

CASE(large_offsets) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(pwrite(fd, "x", 1, 5L << 32) == 1);
    CHECK(size_of(fd) == (5L << 32) + 1);
    CHECK(pread(fd, buffer, 10, 5L << 32) == 1 && buffer[0] == 'x');
    CHECK(lseek(fd, 5L << 32, SEEK_SET) == 5L << 32);
    CHECK(ftruncate(fd, 0) == 0);
}

CASE(write_length_is_capped) {
    int zero = open("/dev/zero", O_RDONLY);
    char *p = mmap(NULL, 1UL << 32, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int null = open("/dev/null", O_WRONLY);
    CHECK(write(null, p, 1UL << 32) == 0x7ffff000);
    CHECK(read(zero, p, 0) == 0);
}
