// sendfile, splice, tee, vmsplice, copy_file_range.
#include "check.h"
#include <sys/sendfile.h>

static int p[2], q[2];
static char buffer[1 << 20];
static int file_with(const char *name, const char *text) {
    put(name, text);
    return open(name, O_RDWR);
}

CASE(sendfile_between_files_and_pipes) {
    int in = file_with("in", "0123456789"), out = open("out", O_RDWR | O_CREAT, 0600);
    CHECK(sendfile(out, in, NULL, 100) == 10);
    CHECK(!strcmp(content("out"), "0123456789"));
    CHECK(sendfile(out, in, NULL, 100) == 0);
    off_t offset = 4;
    pipe(p);
    CHECK(sendfile(p[1], in, &offset, 3) == 3 && offset == 7);
    CHECK(read(p[0], buffer, 10) == 3 && !memcmp(buffer, "456", 3));
    CHECK(lseek(in, 0, SEEK_CUR) == 10);
    FAILS(sendfile(out, p[0], NULL, 1), EINVAL);
    FAILS(sendfile(99, in, NULL, 1), EBADF);
    int readonly = open("out", O_RDONLY);
    FAILS(sendfile(readonly, in, NULL, 1), EBADF);
    offset = -1;
    FAILS(sendfile(out, in, &offset, 1), EINVAL);
    FAILS(sendfile(out, in, (void *)16, 1), EFAULT);
    int append = open("out", O_WRONLY | O_APPEND);
    FAILS(sendfile(append, in, NULL, 1), EINVAL);
}

CASE(large_sendfile) {
    int in = open("in", O_RDWR | O_CREAT, 0600), out = open("out", O_RDWR | O_CREAT, 0600);
    for (unsigned i = 0; i < sizeof buffer; i++) buffer[i] = i * 31 >> 3;
    write(in, buffer, sizeof buffer);
    lseek(in, 0, SEEK_SET);
    ssize_t total = 0, n;
    while ((n = sendfile(out, in, NULL, 1 << 20)) > 0) total += n;
    CHECK(total == sizeof buffer);
    CHECK(system("cmp in out") == 0);
}

CASE(splice_file_to_pipe_to_file) {
    int in = file_with("in", "0123456789"), out = open("out", O_RDWR | O_CREAT, 0600);
    pipe(p);
    loff_t from = 2, to = 5;
    CHECK(splice(in, &from, p[1], NULL, 6, 0) == 6 && from == 8);
    CHECK(splice(p[0], NULL, out, &to, 100, 0) == 6 && to == 11);
    CHECK(pread(out, buffer, 20, 0) == 11 && !memcmp(buffer, "\0\0\0\0\000234567", 11));
    FAILS(splice(in, NULL, out, NULL, 1, 0), EINVAL);
    FAILS(splice(in, NULL, p[1], &to, 1, 0), ESPIPE);
    FAILS(splice(p[0], NULL, p[1], NULL, 1, 0), EINVAL);
    FAILS(splice(p[0], NULL, out, NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
    FAILS(splice(99, NULL, out, NULL, 1, 0), EBADF);
    FAILS(splice(in, NULL, p[1], NULL, 1, 0x100), EINVAL);
    close(p[1]);
    CHECK(splice(p[0], NULL, out, NULL, 1, 0) == 0);
}

CASE(splice_pipe_to_pipe_and_tee) {
    pipe(p), pipe(q);
    write(p[1], "abcdef", 6);
    CHECK(tee(p[0], q[1], 4, 0) == 4);
    CHECK(read(q[0], buffer, 10) == 4 && !memcmp(buffer, "abcd", 4));
    CHECK(splice(p[0], NULL, q[1], NULL, 10, 0) == 6);
    CHECK(read(q[0], buffer, 10) == 6 && !memcmp(buffer, "abcdef", 6));
    FAILS(tee(p[0], q[1], 4, SPLICE_F_NONBLOCK), EAGAIN);
    FAILS(tee(p[0], p[1], 4, 0), EINVAL);
    FAILS(tee(0, q[1], 4, 0), EINVAL);
}

CASE(vmsplice_both_ways) {
    pipe(p);
    struct iovec v[2] = {{"one ", 4}, {"two", 3}};
    CHECK(vmsplice(p[1], v, 2, 0) == 7);
    char text[8] = "";
    struct iovec r = {text, 7};
    CHECK(vmsplice(p[0], &r, 1, 0) == 7 && !strcmp(text, "one two"));
    v[0].iov_base = (void *)16;
    FAILS(vmsplice(p[1], v, 2, 0), EFAULT);
}

CASE(copy_file_range_forms) {
    int in = file_with("in", "0123456789"), out = open("out", O_RDWR | O_CREAT, 0600);
    loff_t from = 3, to = 1;
    CHECK(copy_file_range(in, &from, out, &to, 4, 0) == 4 && from == 7 && to == 5);
    CHECK(pread(out, buffer, 10, 0) == 5 && !memcmp(buffer, "\0003456", 5));
    CHECK(copy_file_range(in, NULL, out, NULL, 100, 0) == 10);
    CHECK(copy_file_range(in, NULL, out, NULL, 100, 0) == 0);
    FAILS(copy_file_range(in, NULL, out, NULL, 1, 1), EINVAL);
    from = 0, to = 2;
    FAILS(copy_file_range(in, &from, in, &to, 5, 0), EINVAL);
    pipe(p);
    FAILS(copy_file_range(in, NULL, p[1], NULL, 1, 0), EINVAL);
    FAILS(copy_file_range(open(".", O_RDONLY), NULL, out, NULL, 1, 0), EISDIR);
    FAILS(copy_file_range(in, NULL, open("out", O_RDONLY), NULL, 1, 0), EBADF);
}

CASE(splice_blocks_for_data) {
    pipe(p);
    int out = open("out", O_RDWR | O_CREAT, 0600);
    pid_t pid = CHILD({
        sleep_ms(40);
        write(p[1], "late", 4);
    });
    CHECK(splice(p[0], NULL, out, NULL, 100, 0) == 4);
    exit_of(pid);
}
