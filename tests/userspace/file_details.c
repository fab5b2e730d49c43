// Finer points of descriptors and files: what flags, edges and wrong arguments give.
#include "check.h"
#include <dirent.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

static int make(const char *name, const char *text) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    NEED(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    return fd;
}

CASE(preadv2_and_pwritev2_flags) {
    int fd = make("f", "0123456789");
    char a[4], b[8];
    struct iovec in[2] = {{a, 4}, {b, 8}}, out[1] = {{"XY", 2}};
    CHECK(preadv2(fd, in, 2, 0, 0) == 10 && !memcmp(b, "456789", 6));
    CHECK(lseek(fd, 3, SEEK_SET) == 3);
    CHECK(preadv2(fd, in, 1, -1, 0) == 4 && !memcmp(a, "3456", 4) && lseek(fd, 0, SEEK_CUR) == 7);
    CHECK(pwritev2(fd, out, 1, 0, RWF_APPEND) == 2 && lseek(fd, 0, SEEK_END) == 12);
    CHECK(pwritev2(fd, out, 1, 0, RWF_DSYNC) == 2);
    CHECK(pwritev2(fd, out, 1, 0, RWF_SYNC | RWF_HIPRI) == 2);
    FAILS(preadv2(fd, in, 1, 0, 1 << 20), EOPNOTSUPP);
    FAILS(preadv2(fd, in, 1, -2, 0), EINVAL);
    FAILS(preadv(fd, in, 1, -1), EINVAL);
    FAILS(readv(fd, in, -1), EINVAL);
    FAILS(readv(fd, in, 1025), EINVAL);
    CHECK(readv(fd, in, 0) == 0);
    FAILS(readv(-1, in, 0), EBADF);
    FAILS(readv(99, (void *)16, 1), EBADF);
    FAILS(readv(fd, (void *)16, 1), EFAULT);
    in[1].iov_len = -1;
    FAILS(readv(fd, in, 2), EINVAL);
    int p[2];
    pipe(p);
    in[1].iov_len = 8;
    FAILS(preadv2(p[0], in, 1, 0, 0), ESPIPE);
    FAILS(preadv2(p[0], in, 1, -1, RWF_NOWAIT), EAGAIN);
    FAILS(pwritev(p[1], out, 1, 0), ESPIPE);
    CHECK(pwritev2(p[1], out, 1, -1, 0) == 2 && preadv2(p[0], in, 1, -1, RWF_NOWAIT) == 2);
}

CASE(order_of_errors) {
    int r = open("f", O_RDONLY | O_CREAT, 0644), w = open("f", O_WRONLY), path = open("f", O_PATH), dir = open(".", O_RDONLY), p[2];
    pipe(p);
    char c;
    FAILS(pread(p[1], &c, 1, 0), ESPIPE);
    FAILS(pread(p[1], &c, 1, -1), EINVAL);
    FAILS(pread(99, &c, 1, -1), EINVAL);
    FAILS(pwrite(r, &c, 1, -1), EINVAL);
    FAILS(read(w, (void *)16, 1), EBADF);
    FAILS(write(r, (void *)16, 1), EBADF);
    FAILS(read(dir, &c, 1), EISDIR);
    FAILS(pread(dir, &c, 1, 0), EISDIR);
    FAILS(write(dir, &c, 1), EBADF);
    FAILS(read(path, &c, 1), EBADF);
    FAILS(lseek(path, 0, SEEK_SET), EBADF);
    FAILS(lseek(p[0], 0, 17), EINVAL);
    FAILS(lseek(r, 0, 17), EINVAL);
    FAILS(lseek(r, -1, SEEK_SET), EINVAL);
    FAILS(ftruncate(r, 0), EINVAL);
    FAILS(ftruncate(dir, 0), EINVAL);
    FAILS(ftruncate(99, -1), EINVAL);
    FAILS(ftruncate(99, 0), EBADF);
    FAILS(fallocate(r, 0, 0, 1), EBADF);
    FAILS(fallocate(w, 0, 0, 0), EINVAL);
    FAILS(fallocate(w, 0, -1, 5), EINVAL);
    FAILS(fallocate(p[1], 0, 0, 1), ESPIPE);
    FAILS(fallocate(w, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
    FAILS(fsync(p[0]), EINVAL);
    FAILS(fsync(path), EBADF);
    FAILS(fdatasync(99), EBADF);
    CHECK(fsync(dir) == 0 && fsync(r) == 0);
    CHECK(posix_fadvise(r, 0, 0, POSIX_FADV_WILLNEED) == 0);
    CHECK(posix_fadvise(r, 0, 0, 77) == EINVAL);
    CHECK(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL) == ESPIPE);
    FAILS(readahead(w, 0, 10), EBADF);
    FAILS(readahead(p[0], 0, 10), EINVAL);
    FAILS(sync_file_range(p[1], 0, 0, 0), ESPIPE);
    FAILS(sync_file_range(r, -1, 0, 0), EINVAL);
    FAILS(sync_file_range(r, 0, 0, 64), EINVAL);
    FAILS(fchmod(path, 0600), EBADF);
    FAILS(syncfs(99), EBADF);
    char buffer[1024];
    FAILS(syscall(SYS_getdents64, r, buffer, sizeof buffer), ENOTDIR);
    FAILS(syscall(SYS_getdents64, path, buffer, sizeof buffer), EBADF);
    FAILS(syscall(SYS_getdents64, dir, buffer, 1), EINVAL);
}

CASE(copying_ranges) {
    int a = make("a", "0123456789"), b = make("b", "");
    loff_t from = 2, to = 5;
    CHECK(copy_file_range(a, &from, b, &to, 100, 0) == 8 && from == 10 && to == 13);
    char text[20] = {0};
    CHECK(pread(b, text, 20, 0) == 13 && !memcmp(text, "\0\0\0\0\00023456789", 13));
    lseek(a, 8, SEEK_SET);
    CHECK(copy_file_range(a, NULL, b, NULL, 1, 0) == 1 && lseek(a, 0, SEEK_CUR) == 9 && lseek(b, 0, SEEK_CUR) == 1);
    from = 10;
    CHECK(copy_file_range(a, &from, b, NULL, 10, 0) == 0);
    from = 0, to = 3;
    FAILS(copy_file_range(a, &from, a, &to, 5, 0), EINVAL);
    to = 5;
    CHECK(copy_file_range(a, &from, a, &to, 5, 0) == 5);
    FAILS(copy_file_range(a, NULL, b, NULL, 1, 1), EINVAL);
    int r = open("a", O_RDONLY), append = open("a", O_WRONLY | O_APPEND), dir = open(".", O_RDONLY), p[2];
    pipe(p);
    FAILS(copy_file_range(a, NULL, r, NULL, 1, 0), EBADF);
    FAILS(copy_file_range(b, NULL, append, NULL, 1, 0), EBADF);
    FAILS(copy_file_range(dir, NULL, b, NULL, 1, 0), EISDIR);
    FAILS(copy_file_range(p[0], NULL, b, NULL, 1, 0), EINVAL);
}

CASE(directory_positions) {
    char name[20];
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof name, "entry-%02d", i);
        close(make(name, ""));
    }
    DIR *dir = opendir(".");
    struct dirent *entry;
    long positions[64];
    char names[64][32];
    int n = 0;
    while ((entry = readdir(dir)) && n < 64) {
        strcpy(names[n], entry->d_name);
        positions[n++] = telldir(dir);
    }
    CHECK(n == 32);
    for (int i = 0; i < n - 1; i += 7) {
        seekdir(dir, positions[i]);
        entry = readdir(dir);
        CHECK(entry && !strcmp(entry->d_name, names[i + 1]));
    }
    seekdir(dir, positions[n - 1]);
    CHECK(!readdir(dir));
    rewinddir(dir);
    // What is removed behind the cursor doesn't disturb what is left.
    for (int i = 0; i < 10; i++) readdir(dir);
    int seen = 10, removed = 0;
    for (int i = 0; i < 30; i += 3) {
        snprintf(name, sizeof name, "entry-%02d", i);
        removed += unlink(name) == 0;
    }
    while (readdir(dir)) seen++;
    CHECK(removed == 10 && seen >= 22 && seen <= 32);
    closedir(dir);
    mkdir("gone", 0755);
    int fd = open("gone", O_RDONLY);
    rmdir("gone");
    char buffer[256];
    FAILS(syscall(SYS_getdents64, fd, buffer, sizeof buffer), ENOENT);
}

CASE(file_size_limit) {
    signal(SIGXFSZ, SIG_IGN);
    int fd = make("f", "12345");
    struct rlimit limit = {100, 100};
    NEED(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    char big[200];
    memset(big, 'x', sizeof big);
    CHECK(write(fd, big, 200) == 95);
    FAILS(write(fd, big, 1), EFBIG);
    CHECK(write(fd, big, 0) == 0);
    FAILS(pwrite(fd, big, 1, 100), EFBIG);
    CHECK(pwrite(fd, big, 10, 95) == 5);
    FAILS(ftruncate(fd, 101), EFBIG);
    CHECK(ftruncate(fd, 100) == 0);
    FAILS(truncate("f", 200), EFBIG);
    FAILS(fallocate(fd, 0, 90, 20), EFBIG);
    int p[2];
    pipe(p);
    CHECK(write(p[1], big, 200) == 200);
    signal(SIGXFSZ, SIG_DFL);
    pid_t pid = fork();
    if (!pid) {
        write(fd, big, 1);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
}

CASE(ioctls_of_any_file) {
    int fd = make("f", "0123456789"), n = -1, on = 1, p[2];
    lseek(fd, 4, SEEK_SET);
    CHECK(ioctl(fd, FIONREAD, &n) == 0 && n == 6);
    pipe(p);
    write(p[1], "abc", 3);
    CHECK(ioctl(p[0], FIONREAD, &n) == 0 && n == 3);
    CHECK(ioctl(p[0], FIONBIO, &on) == 0 && fcntl(p[0], F_GETFL) & O_NONBLOCK);
    on = 0;
    CHECK(ioctl(p[0], FIONBIO, &on) == 0 && !(fcntl(p[0], F_GETFL) & O_NONBLOCK));
    CHECK(ioctl(fd, FIOCLEX) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(ioctl(fd, FIONCLEX) == 0 && fcntl(fd, F_GETFD) == 0);
    FAILS(ioctl(fd, TCGETS, &n), ENOTTY);
    FAILS(ioctl(p[0], TIOCGWINSZ, &n), ENOTTY);
    FAILS(ioctl(99, FIONREAD, &n), EBADF);
    FAILS(ioctl(fd, FIONBIO, (void *)16), EFAULT);
    FAILS(ioctl(open("f", O_PATH), FIONREAD, &n), EBADF);
    CHECK(ioctl(fd, FIGETBSZ, &n) == 0 && n > 0);
}

static volatile int signals;
static volatile siginfo_t last;
static void caught(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    memcpy((void *)&last, info, sizeof last);
    signals++;
}

CASE(signal_driven_input) {
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    sigaction(SIGIO, &action, NULL);
    sigaction(SIGRTMIN + 3, &action, NULL);
    int p[2];
    pipe(p);
    CHECK(fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_GETOWN) == getpid());
    CHECK(fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
    CHECK(signals == 0);
    write(p[1], "x", 1);
    CHECK(signals == 1 && last.si_signo == SIGIO);
    char c;
    CHECK(read(p[0], &c, 1) == 1);
    CHECK(fcntl(p[0], F_SETSIG, SIGRTMIN + 3) == 0 && fcntl(p[0], F_GETSIG) == SIGRTMIN + 3);
    write(p[1], "x", 1);
    CHECK(signals == 2 && last.si_code == POLL_IN && last.si_fd == p[0]);
    note("band %lx", (long)last.si_band);
    FAILS(fcntl(p[0], F_SETSIG, 65), EINVAL);
    FAILS(fcntl(p[0], F_SETOWN, 999999), ESRCH);
    struct f_owner_ex owner = {F_OWNER_TID, gettid()}, got;
    CHECK(fcntl(p[0], F_SETOWN_EX, &owner) == 0 && fcntl(p[0], F_GETOWN_EX, &got) == 0 && got.type == F_OWNER_TID && got.pid == gettid());
    owner.type = 9;
    FAILS(fcntl(p[0], F_SETOWN_EX, &owner), EINVAL);
    CHECK(fcntl(p[0], F_SETFL, O_NONBLOCK) == 0);
    write(p[1], "x", 1);
    CHECK(signals == 2);
}

CASE(fcntl_refusals) {
    int fd = make("f", ""), path = open("f", O_PATH), p[2];
    pipe(p);
    FAILS(fcntl(fd, 9999), EINVAL);
    FAILS(fcntl(fd, F_DUPFD, -1), EINVAL);
    FAILS(fcntl(99, F_GETFD), EBADF);
    FAILS(fcntl(path, F_SETFL, 0), EBADF);
    FAILS(fcntl(path, F_GETOWN), EBADF);
    CHECK(fcntl(path, F_GETFD) == 0 && fcntl(path, F_GETFL) == O_PATH);
    FAILS(fcntl(fd, F_GETPIPE_SZ), EBADF);
    CHECK(fcntl(p[0], F_GETPIPE_SZ) == 65536);
    CHECK(fcntl(fd, F_SETFL, O_RDONLY | O_CREAT | O_TRUNC | O_APPEND) == 0);
    note("flags %o", fcntl(fd, F_GETFL));
    note("pipe flags %o %o", fcntl(p[0], F_GETFL), fcntl(p[1], F_GETFL));
    note("directory flags %o", fcntl(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), F_GETFL));
    struct flock lock = {.l_type = F_RDLCK};
    FAILS(fcntl(fd, F_GETLK, (void *)16), EFAULT);
    lock.l_type = 7;
    FAILS(fcntl(fd, F_SETLK, &lock), EINVAL);
    lock.l_type = F_WRLCK, lock.l_pid = 1;
    FAILS(fcntl(fd, F_OFD_SETLK, &lock), EINVAL);
    FAILS(flock(fd, 0), EINVAL);
    FAILS(flock(path, LOCK_SH), EBADF);
}

struct waiter {
    int fd, result, error;
};
static void *lock_it(void *argument) {
    struct waiter *self = argument;
    struct flock lock = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
    self->result = fcntl(self->fd, F_SETLKW, &lock);
    self->error = errno;
    return NULL;
}

CASE(lock_wait_ends_when_its_descriptor_is_closed) {
    int fd = make("f", ""), ready[2], go[2];
    pipe(ready), pipe(go);
    pid_t pid = fork();
    if (!pid) {
        char c;
        struct flock lock = {.l_type = F_WRLCK};
        int own = open("f", O_RDWR);
        fcntl(own, F_SETLK, &lock);
        write(ready[1], "x", 1);
        read(go[0], &c, 1);
        _exit(0);
    }
    char c;
    read(ready[0], &c, 1);
    struct waiter waiter = {fd, 0, 0};
    pthread_t thread;
    pthread_create(&thread, NULL, lock_it, &waiter);
    usleep(50000);
    close(fd);
    write(go[1], "x", 1);
    waitpid(pid, NULL, 0);
    pthread_join(thread, NULL);
    CHECK(waiter.result == -1 && waiter.error == EBADF);
    fd = open("f", O_RDWR);
    pid = fork();
    if (!pid) {
        struct flock lock = {.l_type = F_WRLCK};
        _exit(fcntl(open("f", O_RDWR), F_SETLK, &lock) == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

CASE(locks_end_with_their_holder) {
    int fd = make("f", "");
    for (int kind = 0; kind < 3; kind++) {
        int ready[2];
        pipe(ready);
        pid_t pid = fork();
        if (!pid) {
            int own = open("f", O_RDWR);
            struct flock lock = {.l_type = F_WRLCK};
            if (kind == 0) fcntl(own, F_SETLK, &lock);
            if (kind == 1) fcntl(own, F_OFD_SETLK, &lock);
            if (kind == 2) flock(own, LOCK_EX);
            write(ready[1], "x", 1);
            pause();
        }
        char c;
        read(ready[0], &c, 1);
        struct flock lock = {.l_type = F_WRLCK};
        if (kind < 2) FAILS(fcntl(fd, F_SETLK, &lock), EAGAIN);
        else FAILS(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        lock.l_type = F_WRLCK;
        CHECK((kind < 2 ? fcntl(fd, F_SETLK, &lock) : flock(fd, LOCK_EX | LOCK_NB)) == 0);
        lock.l_type = F_UNLCK;
        fcntl(fd, F_SETLK, &lock);
    }
}

CASE(locks_survive_exec) {
    int fd = make("f", "");
    struct flock lock = {.l_type = F_WRLCK};
    pid_t pid = fork();
    if (!pid) {
        fcntl(fd, F_SETLK, &lock);
        execl("/bin/sh", "sh", "-c", "sleep 0.4", NULL);
        _exit(1);
    }
    usleep(200000);
    FAILS(fcntl(fd, F_SETLK, &lock), EAGAIN);
    struct flock who = {.l_type = F_WRLCK};
    CHECK(fcntl(fd, F_GETLK, &who) == 0 && who.l_type == F_WRLCK && who.l_pid == pid);
    CHECK(fcntl(fd, F_SETLKW, &lock) == 0);
    waitpid(pid, NULL, 0);
}

CASE(file_handles) {
    struct { struct file_handle head; unsigned char bytes[MAX_HANDLE_SZ]; } handle = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount_id, ends[2];
    pipe(ends);
    FAILS(name_to_handle_at(ends[0], "", &handle.head, &mount_id, AT_EMPTY_PATH), EOPNOTSUPP);
    FAILS(name_to_handle_at(AT_FDCWD, "/proc/self/fd/0", &handle.head, &mount_id, 0x8000), EINVAL);
    FAILS(name_to_handle_at(AT_FDCWD, "absent", &handle.head, &mount_id, 0), ENOENT);
    FAILS(name_to_handle_at(999, "absent", &handle.head, &mount_id, 0), EBADF);
    if (geteuid() != 0) SKIP("not root");
    int here = open(".", O_RDONLY);
    handle.head.handle_bytes = 0;
    FAILS(open_by_handle_at(here, &handle.head, O_RDONLY), EINVAL);
    handle.head.handle_bytes = MAX_HANDLE_SZ + 1;
    FAILS(open_by_handle_at(here, &handle.head, O_RDONLY), EINVAL);
    handle.head.handle_bytes = 8;
    handle.head.handle_type = 77;
    FAILS(open_by_handle_at(here, &handle.head, O_RDONLY), ESTALE);
    FAILS(open_by_handle_at(here, (void *)8, O_RDONLY), EFAULT);
    FAILS(open_by_handle_at(999, &handle.head, O_RDONLY), EBADF);
    IN_CHILD({
        if (setuid(1000)) _exit(1);
        FAILS(open_by_handle_at(here, &handle.head, O_RDONLY), EPERM);
    });
}
