// Pipes and fifos: capacity, atomicity, ends, poll bits, sizes.
#include "check.h"
#include <limits.h>
#include <sys/ioctl.h>

static int p[2];
static void nonblock(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }
static char big[1 << 20];
static int bits(int fd) {
    struct pollfd each = {fd, POLLIN | POLLOUT | POLLPRI, 0};
    return poll(&each, 1, 0) < 0 ? -1 : each.revents;
}

CASE(ends) {
    CHECK(pipe(p) == 0);
    CHECK(p[0] == 3 && p[1] == 4);
    CHECK(write(p[1], "hello", 5) == 5);
    char text[10] = "";
    CHECK(read(p[0], text, 2) == 2 && read(p[0], text + 2, 10) == 3 && !strcmp(text, "hello"));
    FAILS(write(p[0], "x", 1), EBADF);
    FAILS(read(p[1], text, 1), EBADF);
    FAILS(lseek(p[0], 0, SEEK_SET), ESPIPE);
    FAILS(pread(p[0], text, 1, 0), ESPIPE);
    FAILS(pwrite(p[1], text, 1, 0), ESPIPE);
    FAILS(ftruncate(p[1], 0), EINVAL);
    FAILS(fsync(p[1]), EINVAL);
    CHECK(write(p[1], "", 0) == 0);
    CHECK(read(p[0], text, 0) == 0);
    close(p[1]);
    CHECK(read(p[0], text, 1) == 0);
}

CASE(pipe2_flags) {
    CHECK(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK(fcntl(p[0], F_GETFD) == FD_CLOEXEC && fcntl(p[1], F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(p[0], F_GETFL) == (O_RDONLY | O_NONBLOCK) && fcntl(p[1], F_GETFL) == (O_WRONLY | O_NONBLOCK));
    char c;
    FAILS(read(p[0], &c, 1), EAGAIN);
    FAILS(pipe2(p, 0x4), EINVAL);
    FAILS(pipe2((int *)16, 0), EFAULT);
    CHECK(pipe(p) == 0 && p[0] == 5); /* the failed one left no descriptors */
}

CASE(capacity) {
    pipe(p);
    nonblock(p[1]);
    CHECK(fcntl(p[1], F_GETPIPE_SZ) == 65536);
    CHECK(write(p[1], big, sizeof big) == 65536);
    FAILS(write(p[1], big, 1), EAGAIN);
    int waiting;
    CHECK(ioctl(p[0], FIONREAD, &waiting) == 0 && waiting == 65536);
    CHECK(read(p[0], big, 4095) == 4095);
    FAILS(write(p[1], big, 1), EAGAIN);
    CHECK(read(p[0], big, 1) == 1);
    CHECK(write(p[1], big, 4097) == -1 || true);
    CHECK(bits(p[1]) == 0 || bits(p[1]) == POLLOUT);
}

CASE(set_size) {
    pipe(p);
    CHECK(fcntl(p[0], F_SETPIPE_SZ, 4096) == 4096);
    CHECK(fcntl(p[1], F_SETPIPE_SZ, 5000) == 8192);
    CHECK(fcntl(p[1], F_SETPIPE_SZ, 1) == 4096);
    CHECK(fcntl(p[1], F_SETPIPE_SZ, 1 << 20) == 1 << 20);
    nonblock(p[1]);
    CHECK(write(p[1], big, sizeof big) == 1 << 20);
    FAILS(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
    FAILS(fcntl(0, F_GETPIPE_SZ), EBADF);
    FAILS(fcntl(p[1], F_SETPIPE_SZ, -1), EINVAL);
}

CASE(atomic_writes_do_not_split) {
    pipe(p);
    nonblock(p[1]);
    write(p[1], big, 65536 - 4096);
    char text[4096] = "";
    CHECK(write(p[1], text, 3000) == 3000);
    FAILS(write(p[1], text, 3000), EAGAIN);
    CHECK(write(p[1], text, 1000) == 1000);
}

CASE(interleaving_keeps_records_whole) {
    pipe(p);
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            char record[512];
            memset(record, 'a' + i, sizeof record);
            for (int n = 0; n < 100; n++) write(p[1], record, sizeof record);
            _exit(0);
        }
    close(p[1]);
    char record[512];
    int records = 0;
    for (;;) {
        size_t have = 0;
        ssize_t n;
        while (have < sizeof record && (n = read(p[0], record + have, sizeof record - have)) > 0) have += n;
        if (!have) break;
        for (unsigned i = 1; i < sizeof record; i++)
            if (record[i] != record[0]) CHECK(!"whole");
        records++;
    }
    CHECK(records == 400);
}

CASE(large_write_blocks_until_read) {
    pipe(p);
    pid_t pid = CHILD({
        close(p[0]);
        CHECK(write(p[1], big, 300000) == 300000);
    });
    close(p[1]);
    ssize_t total = 0, n;
    while ((n = read(p[0], big, 10000)) > 0) total += n;
    CHECK(total == 300000);
    CHECK(exit_of(pid) == 0);
}

CASE(poll_bits) {
    pipe(p);
    note("%#x %#x", bits(p[0]), bits(p[1]));
    write(p[1], "x", 1);
    note("%#x %#x", bits(p[0]), bits(p[1]));
    close(p[1]);
    note("%#x", bits(p[0]));
    char c;
    read(p[0], &c, 1);
    note("%#x", bits(p[0]));
    close(p[0]);
    pipe(p);
    close(p[0]);
    note("%#x", bits(p[1]));
    nonblock(p[1]);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(p[1], "x", 1), EPIPE);
}

CASE(full_pipe_is_writable_after_a_page_is_free) {
    pipe(p);
    nonblock(p[1]);
    write(p[1], big, 65536);
    CHECK(bits(p[1]) == 0);
    read(p[0], big, 4096);
    CHECK(bits(p[1]) == POLLOUT);
}

CASE(last_writer_anywhere) {
    pipe(p);
    int copy = dup(p[1]);
    pid_t pid = CHILD({
        close(copy);
        sleep_ms(50);
        write(p[1], "late", 4);
    });
    close(p[1]);
    close(copy);
    char text[10];
    CHECK(read(p[0], text, 10) == 4);
    CHECK(read(p[0], text, 10) == 0);
    exit_of(pid);
}

CASE(fifo_meets) {
    CHECK(mkfifo("fifo", 0640) == 0);
    FAILS(mkfifo("fifo", 0640), EEXIST);
    struct stat st;
    CHECK(stat("fifo", &st) == 0 && S_ISFIFO(st.st_mode) && (st.st_mode & 0777) == 0640);
    FAILS(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
    int r = open("fifo", O_RDONLY | O_NONBLOCK);
    CHECK(r >= 0);
    char c;
    CHECK(read(r, &c, 1) == 0); /* no writer yet: end of file */
    int w = open("fifo", O_WRONLY | O_NONBLOCK);
    CHECK(w >= 0);
    FAILS(read(r, &c, 1), EAGAIN);
    CHECK(write(w, "x", 1) == 1 && read(r, &c, 1) == 1);
    close(w);
    CHECK(read(r, &c, 1) == 0);
    CHECK(bits(r) == POLLHUP);
    close(r);
    pid_t pid = CHILD({
        int out = open("fifo", O_WRONLY);
        CHECK(write(out, "from the child", 14) == 14);
    });
    r = open("fifo", O_RDONLY);
    char text[20] = "";
    CHECK(read(r, text, 20) == 14);
    CHECK(read(r, text, 20) == 0);
    CHECK(exit_of(pid) == 0);
    int both = open("fifo", O_RDWR);
    CHECK(both >= 0 && write(both, "x", 1) == 1 && read(both, &c, 1) == 1);
    unlink("fifo");
    CHECK(write(both, "y", 1) == 1 && read(both, &c, 1) == 1);
}

CASE(vectors) {
    pipe(p);
    struct iovec out[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
    CHECK(writev(p[1], out, 3) == 5);
    char a[3] = "", b[10] = "";
    struct iovec in[2] = {{a, 2}, {b, 9}};
    CHECK(readv(p[0], in, 2) == 5 && !strcmp(a, "ab") && !strcmp(b, "cde"));
    FAILS(readv(p[0], in, -1), EINVAL);
    FAILS(readv(p[0], in, 1025), EINVAL);
    CHECK(readv(p[0], in, 0) == 0);
    in[0].iov_len = -1;
    FAILS(readv(p[0], in, 2), EINVAL);
    FAILS(readv(p[0], (void *)16, 1), EFAULT);
}

CASE(efault) {
    pipe(p);
    FAILS(write(p[1], (void *)16, 10), EFAULT);
    write(p[1], "0123456789", 10);
    FAILS(read(p[0], (void *)16, 10), EFAULT);
    int waiting;
    ioctl(p[0], FIONREAD, &waiting);
    note("%d left", waiting);
}

CASE(packet_mode) {
    CHECK(pipe2(p, O_DIRECT) == 0);
    write(p[1], "one", 3);
    write(p[1], "two", 3);
    char text[10];
    CHECK(read(p[0], text, 10) == 3);
    CHECK(read(p[0], text, 2) == 2);
    nonblock(p[0]);
    FAILS(read(p[0], text, 1), EAGAIN); /* the rest of a packet is dropped */
}

CASE(stat_of_a_pipe) {
    pipe(p);
    struct stat st;
    CHECK(fstat(p[0], &st) == 0 && S_ISFIFO(st.st_mode) && st.st_nlink == 1);
    note("%o %ld", st.st_mode, (long)st.st_blksize);
    char path[64], target[64] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
    readlink(path, target, sizeof target);
    char expected[64];
    snprintf(expected, sizeof expected, "pipe:[%ld]", (long)st.st_ino);
    CHECK(!strcmp(target, expected));
    int again = open(path, O_WRONLY);
    char c;
    CHECK(again >= 0 && write(again, "x", 1) == 1 && read(p[0], &c, 1) == 1);
}

CASE(async_owner_calls) {
    pipe(p);
    CHECK(fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_GETOWN) == getpid());
    CHECK(fcntl(p[0], F_SETSIG, SIGUSR1) == 0 && fcntl(p[0], F_GETSIG) == SIGUSR1);
}
