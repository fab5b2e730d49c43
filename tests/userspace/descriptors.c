// dup family, fcntl, close_range, limits, locks of all three kinds, leases.
#include "check.h"
#include <linux/close_range.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

CASE(dup_family) {
    int fd = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int copy = dup(fd);
    CHECK(copy == fd + 1 && fcntl(copy, F_GETFD) == 0);
    CHECK(dup2(fd, 20) == 20 && fcntl(20, F_GETFD) == 0);
    CHECK(dup2(fd, fd) == fd && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(dup3(fd, 21, O_CLOEXEC) == 21 && fcntl(21, F_GETFD) == FD_CLOEXEC);
    FAILS(dup3(fd, fd, 0), EINVAL);
    FAILS(dup3(fd, 22, 1), EINVAL);
    FAILS(dup(99), EBADF);
    FAILS(dup2(99, 20), EBADF);
    CHECK(fcntl(20, F_GETFD) == 0);
    FAILS(dup2(fd, -1), EBADF);
    FAILS(dup2(fd, 1 << 30), EBADF);
    CHECK(fcntl(fd, F_DUPFD, 50) == 50 && fcntl(fd, F_DUPFD, 50) == 51);
    CHECK(fcntl(fd, F_DUPFD_CLOEXEC, 60) == 60 && fcntl(60, F_GETFD) == FD_CLOEXEC);
    FAILS(fcntl(fd, F_DUPFD, -1), EINVAL);
    FAILS(fcntl(fd, F_DUPFD, 1 << 30), EINVAL);
    FAILS(fcntl(fd, 9999), EINVAL);
    FAILS(fcntl(99, F_GETFD), EBADF);
}

CASE(status_flags) {
    int fd = open("f", O_WRONLY | O_CREAT, 0600);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND | O_RDWR) == 0);
    note("%#o", fcntl(fd, F_GETFL));
    int on = 0;
    CHECK(ioctl(fd, FIONBIO, &on) == 0);
    note("%#o", fcntl(fd, F_GETFL));
    CHECK(ioctl(fd, FIOCLEX) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(ioctl(fd, FIONCLEX) == 0 && fcntl(fd, F_GETFD) == 0);
    FAILS(ioctl(fd, 0x5413, &on), ENOTTY);
    FAILS(ioctl(99, FIONBIO, &on), EBADF);
    int copy = dup(fd);
    fcntl(copy, F_SETFL, O_NONBLOCK);
    note("%#o", fcntl(fd, F_GETFL));
}

CASE(close_ranges) {
    for (int i = 10; i < 20; i++) dup2(1, i);
    CHECK(close_range(12, 15, 0) == 0);
    CHECK(fcntl(11, F_GETFD) == 0 && fcntl(12, F_GETFD) == -1 && fcntl(15, F_GETFD) == -1 && fcntl(16, F_GETFD) == 0);
    CHECK(close_range(16, 17, CLOSE_RANGE_CLOEXEC) == 0 && fcntl(16, F_GETFD) == FD_CLOEXEC);
    FAILS(close_range(5, 4, 0), EINVAL);
    FAILS(close_range(3, 4, 0x100), EINVAL);
    CHECK(close_range(18, ~0U, CLOSE_RANGE_UNSHARE) == 0);
    CHECK(fcntl(19, F_GETFD) == -1);
}

CASE(descriptor_limit) {
    struct rlimit limit = {15, 30};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int n = 0;
    while (dup(1) >= 0) n++;
    CHECK(errno == EMFILE && n == 12);
    FAILS(open("/dev/null", O_RDONLY), EMFILE);
    int p[2];
    FAILS(pipe(p), EMFILE);
    FAILS(fcntl(1, F_DUPFD, 15), EINVAL);
    FAILS(dup2(1, 15), EBADF);
    close(7);
    CHECK(dup(1) == 7);
}

static int lock(int fd, int type, off_t start, off_t length, int command) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &l);
}

CASE(record_locks_between_processes) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(lock(fd, F_WRLCK, 10, 10, F_SETLK) == 0);
    CHECK(lock(fd, F_RDLCK, 30, 10, F_SETLK) == 0);
    pid_t parent = getpid();
    IN_CHILD({
        FAILS(lock(fd, F_WRLCK, 15, 1, F_SETLK), EAGAIN);
        FAILS(lock(fd, F_RDLCK, 15, 1, F_SETLK), EAGAIN);
        CHECK(lock(fd, F_RDLCK, 35, 1, F_SETLK) == 0);
        FAILS(lock(fd, F_WRLCK, 35, 1, F_SETLK), EAGAIN);
        CHECK(lock(fd, F_WRLCK, 20, 10, F_SETLK) == 0);
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        CHECK(fcntl(fd, F_GETLK, &l) == 0);
        CHECK(l.l_type == F_WRLCK && l.l_start == 10 && l.l_len == 10 && l.l_pid == parent);
    });
    CHECK(lock(fd, F_UNLCK, 12, 2, F_SETLK) == 0);
    IN_CHILD({
        CHECK(lock(fd, F_WRLCK, 12, 2, F_SETLK) == 0);
        FAILS(lock(fd, F_WRLCK, 11, 1, F_SETLK), EAGAIN);
        FAILS(lock(fd, F_WRLCK, 14, 1, F_SETLK), EAGAIN);
    });
    close(open("f", O_RDONLY)); /* closing any descriptor of the file drops all the process's locks */
    IN_CHILD({ CHECK(lock(fd, F_WRLCK, 0, 0, F_SETLK) == 0); });
}

CASE(record_lock_waits) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    lock(fd, F_WRLCK, 0, 0, F_SETLK);
    pid_t pid = CHILD({
        double start = now();
        CHECK(lock(fd, F_WRLCK, 0, 0, F_SETLKW) == 0);
        CHECK(now() - start > 0.03);
    });
    sleep_ms(60);
    lock(fd, F_UNLCK, 0, 0, F_SETLK);
    CHECK(exit_of(pid) == 0);
}

CASE(record_lock_deadlock) {
    int fd = open("f", O_RDWR | O_CREAT, 0600), p[2];
    pipe(p);
    lock(fd, F_WRLCK, 0, 1, F_SETLK);
    pid_t pid = CHILD({
        lock(fd, F_WRLCK, 1, 1, F_SETLK);
        write(p[1], "x", 1);
        lock(fd, F_WRLCK, 0, 1, F_SETLKW);
    });
    char c;
    read(p[0], &c, 1);
    sleep_ms(50);
    FAILS(lock(fd, F_WRLCK, 1, 1, F_SETLKW), EDEADLK);
    lock(fd, F_UNLCK, 0, 1, F_SETLK);
    CHECK(exit_of(pid) == 0);
}

CASE(record_lock_errors) {
    int r = open("f", O_RDONLY | O_CREAT, 0600), w = open("f", O_WRONLY);
    FAILS(lock(r, F_WRLCK, 0, 1, F_SETLK), EBADF);
    FAILS(lock(w, F_RDLCK, 0, 1, F_SETLK), EBADF);
    FAILS(lock(w, 77, 0, 1, F_SETLK), EINVAL);
    FAILS(lock(w, F_WRLCK, -1, 1, F_SETLK), EINVAL);
    FAILS(fcntl(w, F_SETLK, (void *)16), EFAULT);
}

CASE(open_file_description_locks) {
    int a = open("f", O_RDWR | O_CREAT, 0600), b = open("f", O_RDWR);
    CHECK(lock(a, F_WRLCK, 0, 10, F_OFD_SETLK) == 0);
    FAILS(lock(b, F_WRLCK, 5, 1, F_OFD_SETLK), EAGAIN);
    FAILS(lock(b, F_RDLCK, 5, 1, F_SETLK), EAGAIN);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(b, F_OFD_GETLK, &l) == 0 && l.l_type == F_WRLCK && l.l_pid == -1);
    int copy = dup(a);
    close(a);
    FAILS(lock(b, F_WRLCK, 5, 1, F_OFD_SETLK), EAGAIN);
    close(copy);
    CHECK(lock(b, F_WRLCK, 5, 1, F_OFD_SETLK) == 0);
    l.l_pid = 5;
    FAILS(fcntl(b, F_OFD_SETLK, &l), EINVAL);
}

CASE(flock_forms) {
    int a = open("f", O_RDWR | O_CREAT, 0600), b = open("f", O_RDONLY);
    CHECK(flock(a, LOCK_SH) == 0 && flock(b, LOCK_SH) == 0);
    FAILS(flock(a, LOCK_EX | LOCK_NB), EAGAIN);
    CHECK(flock(b, LOCK_UN) == 0 && flock(a, LOCK_EX | LOCK_NB) == 0);
    IN_CHILD({
        FAILS(flock(b, LOCK_SH | LOCK_NB), EAGAIN);
        CHECK(flock(a, LOCK_SH) == 0); /* the same description: converts */
    });
    CHECK(flock(b, LOCK_SH | LOCK_NB) == 0);
    FAILS(flock(a, 0), EINVAL);
    FAILS(flock(99, LOCK_SH), EBADF);
    close(a);
    CHECK(flock(b, LOCK_EX | LOCK_NB) == 0);
    a = open("f", O_RDWR);
    pid_t pid = CHILD({ CHECK(flock(a, LOCK_EX) == 0); });
    sleep_ms(40);
    flock(b, LOCK_UN);
    CHECK(exit_of(pid) == 0);
}

static void *close_it(void *argument) {
    close(*(int *)argument);
    return NULL;
}

CASE(close_in_another_thread) {
    int p[2];
    pipe(p);
    int fd = p[1];
    pthread_t thread;
    pthread_create(&thread, NULL, close_it, &fd);
    pthread_join(thread, NULL);
    FAILS(write(p[1], "x", 1), EBADF);
    char c;
    CHECK(read(p[0], &c, 1) == 0);
}

CASE(proc_self_fd_lists) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    char path[64], target[4096], cwd[2048];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    NEED(n > 0);
    target[n] = 0;
    getcwd(cwd, sizeof cwd);
    strcat(cwd, "/f");
    CHECK(!strcmp(target, cwd));
    CHECK(write(fd, "abc", 3) == 3);
    int again = open(path, O_RDONLY);
    char text[10];
    CHECK(read(again, text, 10) == 3);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    char *info = content(path);
    NEED(info);
    CHECK(strstr(info, "pos:\t3\n") && strstr(info, "flags:\t0100002\n"));
}
