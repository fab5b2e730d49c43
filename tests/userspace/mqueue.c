// POSIX message queues: priorities, waiting, limits, notification, the queue as a file.
#include "check.h"
#include <mqueue.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>

static char name[64];
static void unlink_queue(const mqd_t *queue) { (void)queue, mq_unlink(name); }
static mqd_t open_new(long messages, long bytes, int flags) {
    struct mq_attr attributes = {.mq_maxmsg = messages, .mq_msgsize = bytes};
    snprintf(name, sizeof name, "/check-%d", getpid());
    mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR | flags, 0600, &attributes);
    NEED(queue >= 0);
    return queue;
}
/* A queue whose name is gone when the case ends. */
#define QUEUE(queue, ...) __attribute__((cleanup(unlink_queue))) mqd_t queue = open_new(__VA_ARGS__)

static bool take(mqd_t queue, const char *text, unsigned priority) {
    char buffer[8192];
    unsigned got = 12345;
    ssize_t n = mq_receive(queue, buffer, sizeof buffer, &got);
    return n == (ssize_t)strlen(text) && got == priority && !memcmp(buffer, text, n);
}
static int put_text(mqd_t queue, const char *text, unsigned priority) { return mq_send(queue, text, strlen(text), priority); }
static struct mq_attr of(mqd_t queue) {
    struct mq_attr attributes = {0};
    CHECK(mq_getattr(queue, &attributes) == 0);
    return attributes;
}
static struct timespec in_ms(long ms) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

CASE(priorities) {
    QUEUE(queue, 5, 16, 0);
    CHECK(put_text(queue, "low", 1) == 0 && put_text(queue, "high", 7) == 0 && put_text(queue, "high too", 7) == 0 && put_text(queue, "", 0) == 0);
    struct mq_attr attributes = of(queue);
    CHECK(attributes.mq_maxmsg == 5 && attributes.mq_msgsize == 16 && attributes.mq_curmsgs == 4 && attributes.mq_flags == 0);
    CHECK(take(queue, "high", 7) && take(queue, "high too", 7) && take(queue, "low", 1) && take(queue, "", 0));
    CHECK(mq_send(queue, "x", 1, 32767) == 0 && take(queue, "x", 32767));
    FAILS(mq_send(queue, "x", 1, 32768), EINVAL);
    FAILS(mq_send(queue, "01234567890123456", 17, 0), EMSGSIZE);
    char small[15];
    FAILS(mq_receive(queue, small, 15, NULL), EMSGSIZE);
    FAILS(mq_send(queue, (void *)8, 5, 0), EFAULT);
    FAILS(mq_send(0, "x", 1, 0), EBADF);
    FAILS(mq_receive(-1, small, 15, NULL), EBADF);
    CHECK(mq_close(queue) == 0);
    FAILS(mq_close(queue), EBADF);
}

CASE(names) {
    QUEUE(queue, 1, 8, 0);
    CHECK(fcntl(queue, F_GETFD) == FD_CLOEXEC);
    FAILS(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, NULL), EEXIST);
    mqd_t reader = mq_open(name, O_RDONLY), writer = mq_open(name, O_CREAT | O_WRONLY, 0, NULL);
    CHECK(reader >= 0 && writer >= 0);
    FAILS(put_text(reader, "x", 0), EBADF);
    FAILS(take(writer, "x", 0) - 1, EBADF);
    CHECK(put_text(writer, "x", 3) == 0 && take(reader, "x", 3));
    FAILS(mq_open("/check-no-such", O_RDWR), ENOENT);
    FAILS(mq_open("no-slash", O_RDWR), EINVAL);
    FAILS(mq_open("/a/b", O_CREAT | O_RDWR, 0600, NULL), EACCES);
    FAILS(syscall(SYS_mq_open, "", O_CREAT | O_RDWR, 0600, NULL), ENOENT);
    char longest[300] = "/";
    memset(longest + 1, 'x', 256);
    FAILS(mq_open(longest, O_CREAT | O_RDWR, 0600, NULL), ENAMETOOLONG);
    FAILS(mq_unlink("/check-no-such"), ENOENT);
    FAILS(syscall(SYS_mq_open, (void *)8, O_RDWR), EFAULT);
    /* It lives on without its name. */
    CHECK(mq_unlink(name) == 0 && put_text(queue, "y", 0) == 0 && take(reader, "y", 0));
    FAILS(mq_open(name, O_RDWR), ENOENT);
}

CASE(attributes) {
    snprintf(name, sizeof name, "/check-%d", getpid());
    struct mq_attr wanted = {.mq_maxmsg = 0, .mq_msgsize = 10};
    FAILS(mq_open(name, O_CREAT | O_RDWR, 0600, &wanted), EINVAL);
    wanted = (struct mq_attr){.mq_maxmsg = 1, .mq_msgsize = -1};
    FAILS(mq_open(name, O_CREAT | O_RDWR, 0600, &wanted), EINVAL);
    wanted = (struct mq_attr){.mq_maxmsg = 65537, .mq_msgsize = 1};
    FAILS(mq_open(name, O_CREAT | O_RDWR, 0600, &wanted), EINVAL);
    mqd_t queue = mq_open(name, O_CREAT | O_RDWR | O_NONBLOCK, 0600, NULL);
    NEED(queue >= 0);
    CHECK(of(queue).mq_maxmsg == 10 && of(queue).mq_msgsize == 8192 && of(queue).mq_flags == O_NONBLOCK);
    struct mq_attr old;
    FAILS(take(queue, "", 0) - 1, EAGAIN);
    CHECK(mq_setattr(queue, &(struct mq_attr){.mq_flags = 0, .mq_maxmsg = 99}, &old) == 0 && old.mq_flags == O_NONBLOCK);
    CHECK(of(queue).mq_flags == 0 && of(queue).mq_maxmsg == 10 && !(fcntl(queue, F_GETFL) & O_NONBLOCK));
    FAILS(mq_setattr(queue, &(struct mq_attr){.mq_flags = O_APPEND}, NULL), EINVAL);
    FAILS(mq_getattr(0, &old), EBADF);
    CHECK(mq_unlink(name) == 0);
    CHECK(!strcmp(content("/proc/sys/fs/mqueue/msg_max"), "10\n") && !strcmp(content("/proc/sys/fs/mqueue/queues_max"), "256\n"));
    struct rlimit limit = {20000, 20000};
    CHECK(setrlimit(RLIMIT_MSGQUEUE, &limit) == 0);
    FAILS(mq_open(name, O_CREAT | O_RDWR, 0600, NULL), EMFILE);
}

CASE(receivers_wait) {
    QUEUE(queue, 2, 16, 0);
    pid_t first = CHILD(CHECK(take(queue, "one", 0)));
    CHECK(wait_for_state(first, 'S'));
    pid_t second = CHILD(CHECK(take(queue, "two", 9)));
    CHECK(wait_for_state(second, 'S'));
    CHECK(put_text(queue, "one", 0) == 0);
    CHECK(exit_of(first) == 0);
    CHECK(put_text(queue, "two", 9) == 0);
    CHECK(exit_of(second) == 0);
}

CASE(senders_wait) {
    QUEUE(queue, 1, 16, 0);
    CHECK(put_text(queue, "first", 0) == 0);
    pid_t child = CHILD(CHECK(put_text(queue, "second", 5) == 0));
    CHECK(wait_for_state(child, 'S'));
    CHECK(take(queue, "first", 0) && exit_of(child) == 0 && take(queue, "second", 5));
}

static void nothing(int signo) { (void)signo; }

CASE(timeouts_and_signals) {
    QUEUE(queue, 1, 16, 0);
    char buffer[16];
    struct timespec soon = in_ms(30), bad = {0, 1000000000}, past = {1, 0};
    FAILS(mq_timedreceive(queue, buffer, 16, NULL, &soon), ETIMEDOUT);
    FAILS(mq_timedreceive(queue, buffer, 16, NULL, &past), ETIMEDOUT);
    FAILS(mq_timedreceive(queue, buffer, 16, NULL, &bad), EINVAL);
    CHECK(put_text(queue, "x", 0) == 0);
    soon = in_ms(30);
    FAILS(mq_timedsend(queue, "y", 1, 0, &soon), ETIMEDOUT);
    CHECK(mq_timedreceive(queue, buffer, 16, NULL, &past) == 1); /* nothing to wait for */
    pid_t child = CHILD({
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing}, NULL);
        FAILS(take(queue, "", 0) - 1, EINTR);
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, NULL);
        CHECK(take(queue, "after a restart", 0));
    });
    CHECK(wait_for_state(child, 'S'));
    kill(child, SIGUSR1);
    sleep_ms(100);
    CHECK(wait_for_state(child, 'S'));
    kill(child, SIGUSR1);
    sleep_ms(100);
    CHECK(put_text(queue, "after a restart", 0) == 0 && exit_of(child) == 0);
}

static volatile siginfo_t told;
static volatile int times;
static void notified(int signo, siginfo_t *info, void *context) { (void)signo, (void)context, told = *info, times++; }

CASE(notification) {
    QUEUE(queue, 4, 16, 0);
    sigaction(SIGUSR1, &(struct sigaction){.sa_sigaction = notified, .sa_flags = SA_SIGINFO | SA_RESTART}, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77};
    CHECK(mq_notify(queue, &event) == 0);
    FAILS(mq_notify(queue, &event), EBUSY);
    IN_CHILD(FAILS(mq_notify(queue, &event), EBUSY));
    pid_t child = CHILD(CHECK(put_text(queue, "x", 0) == 0));
    CHECK(exit_of(child) == 0);
    for (int i = 0; i < 100 && !times; i++) sleep_ms(10);
    CHECK(times == 1 && told.si_code == SI_MESGQ && told.si_value.sival_int == 77 && told.si_pid == child && told.si_uid == getuid());
    /* Once; and only for a message that comes into an empty queue. */
    CHECK(put_text(queue, "y", 0) == 0 && mq_notify(queue, &event) == 0 && put_text(queue, "z", 0) == 0 && times == 1);
    char line[128];
    snprintf(line, sizeof line, "QSIZE:3          NOTIFY:0     SIGNO:10    NOTIFY_PID:%-6d\n", getpid());
    char text[128] = {0};
    CHECK(pread(queue, text, sizeof text - 1, 0) > 0 && !strcmp(text, line));
    CHECK(mq_notify(queue, NULL) == 0 && mq_notify(queue, NULL) == 0);
    /* Who waits is served first. */
    CHECK(take(queue, "x", 0) && take(queue, "y", 0) && take(queue, "z", 0) && mq_notify(queue, &event) == 0);
    child = CHILD(CHECK(take(queue, "for the child", 0)));
    CHECK(wait_for_state(child, 'S'));
    CHECK(put_text(queue, "for the child", 0) == 0 && exit_of(child) == 0 && times == 1);
    CHECK(put_text(queue, "x", 0) == 0 && times == 2 && take(queue, "x", 0));
    /* Whoever closes a descriptor of it, or ends, is no longer registered. */
    CHECK(mq_notify(queue, &event) == 0 && close(dup(queue)) == 0);
    IN_CHILD(CHECK(mq_notify(queue, &event) == 0));
    CHECK(mq_notify(queue, &(struct sigevent){.sigev_notify = SIGEV_NONE}) == 0 && put_text(queue, "x", 0) == 0 && times == 2);
    FAILS(mq_notify(queue, &(struct sigevent){.sigev_notify = 99}), EINVAL);
    FAILS(mq_notify(queue, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 65}), EINVAL);
    FAILS(mq_notify(0, NULL), EBADF);
}

CASE(polling) {
    QUEUE(queue, 1, 16, 0);
    struct pollfd wanted = {.fd = queue, .events = POLLIN | POLLOUT};
    CHECK(poll(&wanted, 1, 0) == 1 && wanted.revents == POLLOUT);
    CHECK(put_text(queue, "x", 0) == 0 && poll(&wanted, 1, 0) == 1 && wanted.revents == POLLIN);
    CHECK(take(queue, "x", 0));
    wanted.events = POLLIN;
    pid_t child = CHILD({
        CHECK(wait_for_state(getppid(), 'S'));
        CHECK(put_text(queue, "y", 0) == 0);
    });
    CHECK(poll(&wanted, 1, 5000) == 1 && wanted.revents == POLLIN && exit_of(child) == 0);
    struct stat status;
    CHECK(fstat(queue, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & 0777) == 0600 && status.st_size == 80);
    FAILS(write(queue, "x", 1), EINVAL);
}

CASE(permissions) {
    if (geteuid() != 0) SKIP("not root");
    QUEUE(queue, 1, 16, 0);
    CHECK(fchmod(queue, 0604) == 0);
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        CHECK(mq_open(name, O_RDONLY) >= 0);
        FAILS(mq_open(name, O_RDWR), EACCES);
        FAILS(mq_unlink(name), EACCES); /* the C library makes it that */
        struct mq_attr wanted = {.mq_maxmsg = 11, .mq_msgsize = 16};
        FAILS(mq_open("/check-more", O_CREAT | O_RDWR, 0600, &wanted), EINVAL);
    });
}

CASE(mounted) {
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0) SKIP("no mounts");
    QUEUE(queue, 4, 16, 0);
    mkdir("mq", 0700);
    NEED(mount("none", "mq", "mqueue", 0, NULL) == 0);
    struct statfs status;
    CHECK(statfs("mq", &status) == 0 && status.f_type == 0x19800202);
    struct stat root;
    CHECK(stat("mq", &root) == 0 && root.st_mode == (S_IFDIR | 01777));
    char path[128];
    snprintf(path, sizeof path, "mq%s", name);
    CHECK(put_text(queue, "12345", 0) == 0 && !strncmp(content(path), "QSIZE:5 ", 8));
    CHECK(access("mq/made", F_OK) < 0 && close(open("mq/made", O_CREAT | O_RDWR, 0600)) == 0);
    mqd_t other = mq_open("/made", O_RDWR);
    CHECK(other >= 0 && of(other).mq_maxmsg == 10 && unlink("mq/made") == 0);
    FAILS(mkdir("mq/directory", 0700), EPERM);
    FAILS(symlink("x", "mq/link"), EPERM);
    FAILS(rename(path, "mq/renamed"), EPERM);
    CHECK(umount("mq") == 0);
}
