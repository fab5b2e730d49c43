// Linux AIO: reads, writes, polls and their events.
#include "check.h"
#include <linux/aio_abi.h>
#include <sys/eventfd.h>

static long submit(aio_context_t context, struct iocb *one) { return syscall(SYS_io_submit, context, 1, &one); }
static long events_of(aio_context_t context, long least, long most, struct io_event *events, struct timespec *timeout) {
    return syscall(SYS_io_getevents, context, least, most, events, timeout);
}
static aio_context_t setup(unsigned count) {
    aio_context_t context = 0;
    NEED(syscall(SYS_io_setup, count, &context) == 0 && context != 0);
    return context;
}
static struct iocb request(int operation, int fd, void *buffer, size_t length, long offset) {
    static long number;
    return (struct iocb){.aio_lio_opcode = operation, .aio_fildes = fd, .aio_buf = (uintptr_t)buffer, .aio_nbytes = length, .aio_offset = offset,
                         .aio_data = 1000 + number++};
}
/* Submit one, and give the result of its event. */
static long run(aio_context_t context, struct iocb one) {
    struct io_event event = {0};
    NEED(submit(context, &one) == 1);
    NEED(events_of(context, 1, 1, &event, NULL) == 1);
    CHECK(event.data == one.aio_data && event.obj == (uintptr_t)&one && event.res2 == 0);
    return event.res;
}

CASE(files) {
    aio_context_t context = setup(8);
    char buffer[100] = {0};
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    CHECK(run(context, request(IOCB_CMD_PWRITE, fd, "0123456789", 10, 5)) == 10);
    CHECK(run(context, request(IOCB_CMD_PREAD, fd, buffer, 100, 7)) == 8 && !strcmp(buffer, "23456789"));
    CHECK(run(context, request(IOCB_CMD_PREAD, fd, buffer, 100, 99)) == 0);
    struct iovec pieces[] = {{"ab", 2}, {"cde", 3}}, into[] = {{buffer, 1}, {buffer + 50, 3}};
    CHECK(run(context, request(IOCB_CMD_PWRITEV, fd, pieces, 2, 0)) == 5);
    CHECK(run(context, request(IOCB_CMD_PREADV, fd, into, 2, 0)) == 4 && buffer[0] == 'a' && !memcmp(buffer + 50, "bcd", 3));
    CHECK(run(context, request(IOCB_CMD_FSYNC, fd, NULL, 0, 0)) == 0 && run(context, request(IOCB_CMD_FDSYNC, fd, NULL, 0, 0)) == 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 0);
    struct iocb append = request(IOCB_CMD_PWRITE, fd, "!", 1, 0);
    append.aio_rw_flags = RWF_APPEND;
    CHECK(run(context, append) == 1 && lseek(fd, 0, SEEK_END) == 16);
    CHECK(run(context, request(IOCB_CMD_PREAD, fd, (void *)8, 10, 0)) == -EFAULT);
    CHECK(syscall(SYS_io_destroy, context) == 0);
    FAILS(syscall(SYS_io_destroy, context), EINVAL);
}

CASE(several_at_once) {
    aio_context_t context = setup(16);
    struct iocb all[10], *pointers[10];
    struct io_event events[10];
    char pages[10][16];
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < 10; i++) {
        memset(pages[i], 'a' + i, 16);
        all[i] = request(IOCB_CMD_PWRITE, fd, pages[i], 16, 16 * i);
        pointers[i] = &all[i];
    }
    CHECK(syscall(SYS_io_submit, context, 10, pointers) == 10);
    CHECK(events_of(context, 10, 10, events, NULL) == 10);
    unsigned seen = 0;
    for (int i = 0; i < 10; i++) {
        CHECK(events[i].res == 16);
        seen |= 1 << ((struct iocb *)events[i].obj - all);
    }
    CHECK(seen == 0x3ff && lseek(fd, 0, SEEK_END) == 160);
    /* The second one is bad: the first is taken. */
    all[1].aio_fildes = 999;
    CHECK(syscall(SYS_io_submit, context, 3, pointers) == 1 && events_of(context, 0, 10, events, NULL) == 1);
    pointers[0] = &all[1];
    FAILS(syscall(SYS_io_submit, context, 1, pointers), EBADF);
}

CASE(waiting) {
    aio_context_t context = setup(4);
    struct io_event event;
    struct timespec none = {0, 0}, soon = {0, 30000000};
    CHECK(events_of(context, 0, 1, &event, NULL) == 0);
    CHECK(events_of(context, 1, 1, &event, &none) == 0);
    double before = now();
    CHECK(events_of(context, 1, 1, &event, &soon) == 0 && now() - before >= 0.03);
    int ends[2];
    pipe(ends);
    struct iocb poll_in = request(IOCB_CMD_POLL, ends[0], (void *)POLLIN, 0, 0);
    int told = eventfd(0, 0);
    poll_in.aio_flags = IOCB_FLAG_RESFD;
    poll_in.aio_resfd = told;
    CHECK(submit(context, &poll_in) == 1 && events_of(context, 0, 1, &event, NULL) == 0);
    pid_t child = CHILD({
        sleep_ms(50);
        write(ends[1], "x", 1);
    });
    uint64_t count = 0;
    CHECK(read(told, &count, 8) == 8 && count == 1);
    CHECK(events_of(context, 1, 1, &event, NULL) == 1 && event.res & POLLIN && event.data == poll_in.aio_data);
    CHECK(exit_of(child) == 0);
    CHECK(run(context, request(IOCB_CMD_POLL, ends[0], (void *)POLLIN, 0, 0)) == POLLIN);
}

static void nothing(int signo) { (void)signo; }

CASE(signals_and_cancelling) {
    aio_context_t context = setup(4);
    struct io_event event;
    int ends[2];
    pipe(ends);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, NULL);
    ualarm(50000, 0);
    FAILS(events_of(context, 1, 1, &event, NULL), EINTR);
    struct iocb poll_in = request(IOCB_CMD_POLL, ends[0], (void *)POLLIN, 0, 0);
    CHECK(submit(context, &poll_in) == 1);
    FAILS(syscall(SYS_io_cancel, context, &poll_in, &event), EINPROGRESS);
    CHECK(events_of(context, 1, 1, &event, NULL) == 1 && event.data == poll_in.aio_data);
    FAILS(syscall(SYS_io_cancel, context, &poll_in, &event), EINVAL);
    /* What is under way ends with the context. */
    CHECK(submit(context, &poll_in) == 1 && syscall(SYS_io_destroy, context) == 0);
    FAILS(events_of(context, 0, 1, &event, NULL), EINVAL);
}

CASE(a_child_has_none) {
    aio_context_t context = setup(4);
    struct io_event event;
    IN_CHILD(FAILS(events_of(context, 0, 1, &event, NULL), EINVAL));
    CHECK(events_of(context, 0, 1, &event, NULL) == 0);
}

CASE(arguments) {
    aio_context_t context = 1, good = setup(4);
    struct io_event event;
    char buffer[8];
    FAILS(syscall(SYS_io_setup, 4, &context), EINVAL);
    context = 0;
    FAILS(syscall(SYS_io_setup, 0, &context), EINVAL);
    FAILS(syscall(SYS_io_setup, 4, 8), EFAULT);
    FAILS(syscall(SYS_io_submit, context, 1, NULL), EINVAL);
    FAILS(syscall(SYS_io_submit, good, -1L, NULL), EINVAL);
    FAILS(syscall(SYS_io_submit, good, 1, 8), EFAULT);
    FAILS(submit(good, (void *)8), EFAULT);
    FAILS(events_of(good, 2, 1, &event, NULL), EINVAL);
    FAILS(events_of(good, -1, 1, &event, NULL), EINVAL);
    int fd = open("file", O_RDONLY | O_CREAT, 0600), writer = open("file", O_WRONLY);
    struct iocb one = request(99, fd, buffer, 8, 0);
    FAILS(submit(good, &one), EINVAL);
    one = request(IOCB_CMD_PWRITE, fd, buffer, 8, 0);
    FAILS(submit(good, &one), EBADF);
    one = request(IOCB_CMD_PREAD, writer, buffer, 8, 0);
    FAILS(submit(good, &one), EBADF);
    one = request(IOCB_CMD_PREAD, fd, buffer, 8, -1);
    FAILS(submit(good, &one), EINVAL);
    one = request(IOCB_CMD_PREAD, fd, buffer, 8, 0);
    one.aio_flags = IOCB_FLAG_RESFD, one.aio_resfd = fd;
    FAILS(submit(good, &one), EINVAL);
    one = request(IOCB_CMD_PREAD, fd, buffer, 8, 0);
    one.aio_reserved2 = 1;
    FAILS(submit(good, &one), EINVAL);
    one = request(IOCB_CMD_FSYNC, fd, buffer, 8, 0);
    FAILS(submit(good, &one), EINVAL);
}

CASE(mask_of_signals) {
    aio_context_t context = setup(4);
    struct io_event event;
    sigset_t mask, blocked;
    sigemptyset(&mask);
    sigfillset(&blocked);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing}, NULL);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1);
    struct { sigset_t *mask; size_t size; } argument = {&mask, 8};
    struct timespec soon = {0, 30000000};
    FAILS(syscall(SYS_io_pgetevents, context, 1, 1, &event, NULL, &argument), EINTR);
    CHECK(syscall(SYS_io_pgetevents, context, 1, 1, &event, &soon, NULL) == 0);
    argument.size = 7;
    FAILS(syscall(SYS_io_pgetevents, context, 1, 1, &event, &soon, &argument), EINVAL);
}
