// inotify: every event, in Linux's order, as the notes show it; queue, limits, errors.
#include "check.h"
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/time.h>

static const char *names[] = {"ACCESS", "MODIFY", "ATTRIB", "CLOSE_WRITE", "CLOSE_NOWRITE", "OPEN", "MOVED_FROM", "MOVED_TO", "CREATE", "DELETE",
                              "DELETE_SELF", "MOVE_SELF"};

/* Note all that is queued: the watch, the events, the name, and which cookie it shares. */
static void show(int fd) {
    char data[8192] __attribute__((aligned(8)));
    ssize_t size = read(fd, data, sizeof data);
    if (size < 0) note("nothing: %s", strerrorname_np(errno));
    unsigned last = 0;
    for (char *at = data; at < data + size;) {
        struct inotify_event *event = (struct inotify_event *)at;
        char line[256] = "";
        for (unsigned bit = 0; bit < sizeof names / sizeof *names; bit++)
            if (event->mask & 1u << bit) strcat(strcat(line, " "), names[bit]);
        if (event->mask & IN_IGNORED) strcat(line, " IGNORED");
        if (event->mask & IN_Q_OVERFLOW) strcat(line, " Q_OVERFLOW");
        if (event->mask & IN_ISDIR) strcat(line, " ISDIR");
        note("%d:%s %s len %u %s", event->wd, line, event->len ? event->name : "-", event->len,
             !event->cookie ? "" : event->cookie == last ? "the same cookie" : "a cookie");
        last = event->cookie;
        at += sizeof *event + event->len;
    }
    note("--");
}

static int watch(const char *path, unsigned mask) {
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    NEED(fd >= 0);
    CHECK(inotify_add_watch(fd, path, mask) == 1);
    return fd;
}

CASE(what_happens_to_a_file) {
    char c;
    NEED(put("f", "12345678") == 0);
    int fd = watch("f", IN_ALL_EVENTS);
    int file = open("f", O_RDWR);
    CHECK(read(file, &c, 1) == 1);
    CHECK(pread(file, &c, 1, 3) == 1);
    show(fd);
    CHECK(write(file, "x", 1) == 1 && write(file, "x", 1) == 1);
    CHECK(ftruncate(file, 3) == 0);
    CHECK(fchmod(file, 0600) == 0);
    show(fd);
    close(file);
    show(fd);
    CHECK(chmod("f", 0644) == 0 && truncate("f", 0) == 0);
    CHECK(utimes("f", NULL) == 0);
    close(open("f", O_RDONLY));
    close(open("f", O_WRONLY | O_TRUNC));
    show(fd);
    CHECK(link("f", "g") == 0 && rename("f", "h") == 0);
    show(fd);
    CHECK(unlink("g") == 0 && unlink("h") == 0);
    show(fd);
    show(fd);
}

CASE(what_happens_in_a_directory) {
    NEED(mkdir("d", 0755) == 0);
    int fd = watch("d", IN_ALL_EVENTS);
    int file = open("d/new", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(write(file, "x", 1) == 1);
    close(file);
    show(fd);
    CHECK(mkdir("d/sub", 0755) == 0 && symlink("x", "d/a link with a long name") == 0 && mkfifo("d/fifo", 0600) == 0);
    CHECK(link("d/new", "d/other") == 0);
    CHECK(chmod("d/new", 0600) == 0 && chmod("d/sub", 0700) == 0 && chmod("d", 0711) == 0);
    show(fd);
    CHECK(rename("d/new", "d/newer") == 0 && rename("d/other", "other") == 0 && rename("other", "d/newest") == 0 && rename("d/sub", "d/sub2") == 0);
    show(fd);
    CHECK(unlink("d/newer") == 0 && unlink("d/newest") == 0 && unlink("d/fifo") == 0 && unlink("d/a link with a long name") == 0);
    CHECK(rmdir("d/sub2") == 0);
    show(fd);
    CHECK(rmdir("d") == 0);
    show(fd);
}

CASE(a_rename_over_a_file) {
    put("a", "a");
    put("b", "b");
    int fd = watch(".", IN_ALL_EVENTS & ~(IN_OPEN | IN_CLOSE));
    CHECK(inotify_add_watch(fd, "a", IN_ALL_EVENTS) == 2 && inotify_add_watch(fd, "b", IN_ALL_EVENTS) == 3);
    CHECK(rename("a", "b") == 0);
    show(fd);
}

CASE(a_file_that_is_open_when_it_goes) {
    put("f", "x");
    int fd = watch("f", IN_ALL_EVENTS), file = open("f", O_RDWR);
    CHECK(unlink("f") == 0);
    show(fd);
    CHECK(write(file, "y", 1) == 1);
    close(file);
    show(fd);
}

CASE(watches) {
    char path[64];
    put("f", "x");
    symlink("f", "link");
    int fd = watch("f", IN_MODIFY);
    CHECK(inotify_add_watch(fd, "link", IN_ATTRIB) == 1);
    put("f", "y");
    chmod("f", 0600);
    show(fd);
    CHECK(inotify_add_watch(fd, "f", IN_OPEN | IN_MASK_ADD) == 1);
    CHECK(inotify_add_watch(fd, "link", IN_ATTRIB | IN_DONT_FOLLOW) == 2);
    put("f", "z");
    chmod("f", 0644);
    show(fd);
    FAILS(inotify_add_watch(fd, "f", IN_OPEN | IN_MASK_CREATE), EEXIST);
    FAILS(inotify_add_watch(fd, "f", IN_OPEN | IN_MASK_CREATE | IN_MASK_ADD), EINVAL);
    FAILS(inotify_add_watch(fd, "f", IN_OPEN | IN_ONLYDIR), ENOTDIR);
    FAILS(inotify_add_watch(fd, "missing", IN_OPEN), ENOENT);
    FAILS(inotify_add_watch(fd, "f", 0), EINVAL);
    FAILS(inotify_add_watch(fd, (char *)8, IN_OPEN), EFAULT);
    FAILS(inotify_add_watch(0, "f", IN_OPEN), EINVAL);
    FAILS(inotify_add_watch(99, "f", IN_OPEN), EBADF);
    FAILS(inotify_init1(1), EINVAL);
    CHECK(inotify_rm_watch(fd, 2) == 0);
    show(fd);
    FAILS(inotify_rm_watch(fd, 2), EINVAL);
    FAILS(inotify_rm_watch(0, 1), EINVAL);
    CHECK(inotify_add_watch(fd, ".", IN_CREATE | IN_ONESHOT) == 3);
    put("one", "1");
    put("two", "2");
    show(fd);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    char target[64] = "";
    CHECK(readlink(path, target, sizeof target - 1) > 0);
    note("%s flags %#o", target, fcntl(fd, F_GETFL));
}

CASE(reading) {
    char data[64];
    int bytes = -1;
    int fd = watch(".", IN_CREATE | IN_DELETE);
    FAILS(read(fd, data, sizeof data), EAGAIN);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    close(open("a name of more than fifteen bytes", O_CREAT | O_WRONLY, 0600));
    close(open("b", O_CREAT | O_WRONLY, 0600));
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
    CHECK(epoll_wait(epoll, &event, 1, 0) == 1);
    CHECK(ioctl(fd, FIONREAD, &bytes) == 0 && bytes == 16 + 48 + 32);
    FAILS(read(fd, data, 16), EINVAL);
    CHECK(read(fd, data, 64) == 64);
    CHECK(read(fd, data, 64) == 32);
    FAILS(write(fd, data, 1), EBADF);
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    pid_t child = CHILD({
        sleep_ms(20);
        unlink("b");
    });
    CHECK(read(fd, data, sizeof data) == 32);
    CHECK(exit_of(child) == 0);
}

CASE(the_same_again_is_one_event) {
    put("f", "x");
    int fd = watch("f", IN_MODIFY | IN_ATTRIB);
    int file = open("f", O_WRONLY);
    for (int i = 0; i < 100; i++) CHECK(write(file, "x", 1) == 1);
    chmod("f", 0600);
    CHECK(write(file, "x", 1) == 1);
    show(fd);
}

CASE(overflow) {
    put("f", "x");
    int fd = watch("f", IN_MODIFY | IN_ATTRIB), most = atoi(content("/proc/sys/fs/inotify/max_queued_events")), bytes = 0;
    int file = open("f", O_WRONLY);
    for (int i = 0; i < most / 2 + 10; i++) {
        CHECK(write(file, "x", 1) == 1);
        fchmod(file, 0600 | (i & 7));
    }
    CHECK(ioctl(fd, FIONREAD, &bytes) == 0 && bytes == (most + 1) * 16);
    char data[4096] __attribute__((aligned(8)));
    struct inotify_event *last = NULL;
    for (ssize_t n; (n = read(fd, data, sizeof data)) > 0;) last = (struct inotify_event *)(data + n - 16);
    CHECK(last && last->wd == -1 && last->mask == IN_Q_OVERFLOW);
}

CASE(permission_is_needed) {
    put("f", "x");
    chmod("f", 0200);
    if (setuid(1000) != 0 || geteuid() == 0) SKIP("not root");
    int fd = inotify_init();
    NEED(fd >= 0);
    FAILS(inotify_add_watch(fd, "f", IN_OPEN), EACCES);
}
