// AF_UNIX beyond the usual: what came with a message, what is left of it, who is told what, compared number by number with Linux.
#include "check.h"
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static int pair[2];
static char buffer[1 << 16];
static struct sockaddr_un name_of(const char *path) {
    struct sockaddr_un name = {AF_UNIX, ""};
    strcpy(name.sun_path, path);
    return name;
}
static int serve(int type, const char *path) {
    struct sockaddr_un name = name_of(path);
    int fd = socket(AF_UNIX, type, 0);
    if (bind(fd, (void *)&name, sizeof name) < 0 || (type != SOCK_DGRAM && listen(fd, 5) < 0)) return -1;
    return fd;
}
static int reach(int fd, const char *path) {
    struct sockaddr_un name = name_of(path);
    return connect(fd, (void *)&name, sizeof name);
}
static int bits(int fd) {
    struct pollfd each = {fd, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
    return poll(&each, 1, 0) < 0 ? -1 : each.revents;
}
static int option(int fd, int which) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, which, &value, &length) < 0 ? -errno : value;
}
static int set(int fd, int which, int value) { return setsockopt(fd, SOL_SOCKET, which, &value, sizeof value) < 0 ? -errno : 0; }
static ssize_t send_fd(int to, int fd, const char *text) {
    char control[CMSG_SPACE(sizeof(int))] = "";
    struct iovec v = {(void *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    return sendmsg(to, &m, 0);
}
/* Receive and tell everything. */
static void receive(int from, size_t room, size_t control_room, int flags) {
    char control[256] = "";
    struct sockaddr_un who = {0};
    struct iovec v = {buffer, room};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_name = &who, .msg_namelen = sizeof who, .msg_control = control_room ? control : NULL, .msg_controllen = control_room};
    ssize_t n = recvmsg(from, &m, flags);
    if (n < 0) {
        note("%s", strerrorname_np(errno));
        return;
    }
    note("%zd flags %#x control %zu name %d %s", n, m.msg_flags, m.msg_controllen, m.msg_namelen, m.msg_namelen > 2 ? who.sun_path : "");
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        note("  type %d length %zu", h->cmsg_type, h->cmsg_len);
        if (h->cmsg_type == SCM_CREDENTIALS) {
            struct ucred *c = (void *)CMSG_DATA(h);
            note("  pid %s uid %d gid %d", c->pid == getpid() ? "mine" : c->pid ? "other" : "none", c->uid, c->gid);
        } else
            for (unsigned i = 0; i < (h->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) close(((int *)CMSG_DATA(h))[i]);
    }
}

CASE(streams_stop_at_descriptors) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    send(pair[0], "abc", 3, 0);
    send_fd(pair[0], 0, "def");
    send(pair[0], "ghi", 3, 0);
    receive(pair[1], 2, 100, MSG_PEEK);
    receive(pair[1], 100, 100, MSG_PEEK);
    receive(pair[1], 4, 100, 0);
    receive(pair[1], 100, 100, 0);
    receive(pair[1], 100, 100, MSG_DONTWAIT);
    receive(pair[1], 100, 100, MSG_DONTWAIT);
}

CASE(packets_with_everything) {
    int types[] = {SOCK_DGRAM, SOCK_SEQPACKET};
    for (int t = 0; t < 2; t++) {
        socketpair(AF_UNIX, types[t], 0, pair);
        send_fd(pair[0], 0, "abcdef");
        receive(pair[1], 2, 100, MSG_PEEK);
        receive(pair[1], 2, 17, MSG_TRUNC);
        send_fd(pair[0], 0, "x");
        receive(pair[1], 0, 0, 0);
        send(pair[0], "", 0, 0);
        receive(pair[1], 10, 100, 0);
        receive(pair[1], 10, 100, MSG_DONTWAIT);
    }
}

CASE(credentials_by_default) {
    if (getuid()) SKIP("needs root");
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    send(pair[0], "before", 6, 0);
    note("%d %d", option(pair[1], SO_PASSCRED), set(pair[1], SO_PASSCRED, 7));
    note("%d", option(pair[1], SO_PASSCRED));
    send(pair[0], "after", 5, 0);
    receive(pair[1], 100, 100, 0);
    receive(pair[1], 100, 100, 0);
    send(pair[0], "x", 1, 0);
    receive(pair[1], 100, 20, 0);
    send(pair[0], "x", 1, 0);
    receive(pair[1], 100, 0, 0);
    close(pair[0]);
    receive(pair[1], 100, 100, 0);
}

CASE(names_of_senders) {
    int server = serve(SOCK_DGRAM, "server"), client = serve(SOCK_DGRAM, "client"), nameless = socket(AF_UNIX, SOCK_DGRAM, 0);
    NEED(reach(client, "server") == 0 && reach(nameless, "server") == 0);
    send(client, "1", 1, 0);
    send(nameless, "2", 1, 0);
    receive(server, 10, 0, 0);
    receive(server, 10, 0, 0);
    set(nameless, SO_PASSCRED, 1);
    send(nameless, "3", 1, 0);
    struct sockaddr_un who;
    socklen_t length = sizeof who;
    CHECK(recvfrom(server, buffer, 10, 0, (void *)&who, &length) == 1);
    note("autobound: length %d", length);
    int listener = serve(SOCK_STREAM, "stream"), bound = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un mine = name_of("mine");
    bind(bound, (void *)&mine, sizeof mine);
    NEED(reach(bound, "stream") == 0);
    int accepted = accept(listener, NULL, NULL);
    send(bound, "to", 2, 0);
    receive(accepted, 10, 0, 0);
    send(accepted, "fro", 3, 0);
    receive(bound, 10, 0, 0);
}

CASE(option_values) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    for (int which = 1; which < 60; which++)
        if (which != SO_COOKIE && which != SO_MEMINFO && which != SO_PEERGROUPS && which != 26 && which != 49) note("%d: %d", which, option(fd, which));
    int sizes[] = {-1, 0, 1, 2303, 2304, 4608, 100000};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        set(fd, SO_SNDBUF, sizes[i]), set(fd, SO_RCVBUF, sizes[i]);
        if (sizes[i] >= 0) note("%d %d", option(fd, SO_SNDBUF), option(fd, SO_RCVBUF));
    }
    note("%d %d", set(fd, SO_RCVLOWAT, 0), option(fd, SO_RCVLOWAT));
    note("%d %d", set(fd, SO_RCVLOWAT, 77), option(fd, SO_RCVLOWAT));
    note("%d", set(fd, SO_TYPE, 1));
    note("%d", set(fd, 9999, 1));
    note("%d", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, buffer, 3) < 0 ? -errno : 0);
    note("%d", setsockopt(fd, 6, 1, buffer, 4) < 0 ? -errno : 0);
    struct timeval t = {1, 500000}, got = {0};
    socklen_t length = sizeof got;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) == 0);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &length) == 0 && length == sizeof got);
    note("%ld.%06ld", (long)got.tv_sec, (long)got.tv_usec);
    t.tv_usec = 1000000;
    FAILS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), EDOM);
    struct linger linger = {1, 5}, back = {0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    length = sizeof back;
    getsockopt(fd, SOL_SOCKET, SO_LINGER, &back, &length);
    note("linger %d %d", back.l_onoff, back.l_linger);
}

CASE(a_full_table_leaves_the_connection) {
    int listener = serve(SOCK_STREAM, "s"), client = socket(AF_UNIX, SOCK_STREAM, 0);
    NEED(reach(client, "s") == 0);
    struct rlimit limit = {client + 1, client + 1};
    setrlimit(RLIMIT_NOFILE, &limit);
    FAILS(accept(listener, NULL, NULL), EMFILE);
    close(0);
    CHECK(accept(listener, NULL, NULL) == 0);
}

CASE(a_closing_listener) {
    int listener = serve(SOCK_STREAM, "s"), client = socket(AF_UNIX, SOCK_STREAM, 0);
    NEED(reach(client, "s") == 0);
    send(client, "lost", 4, 0);
    close(listener);
    note("%#x", bits(client));
    FAILS(recv(client, buffer, 1, 0), ECONNRESET);
    CHECK(recv(client, buffer, 1, 0) == 0);
    FAILS(send(client, "x", 1, MSG_NOSIGNAL), EPIPE);
}

CASE(unread_bytes_reset_the_peer) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    send(pair[0], "unread", 6, 0);
    send(pair[1], "read", 4, 0);
    close(pair[1]);
    note("%#x error %d", bits(pair[0]), 0);
    CHECK(recv(pair[0], buffer, 10, 0) == 4);
    note("%d %d", option(pair[0], SO_ERROR), option(pair[0], SO_ERROR));
    CHECK(recv(pair[0], buffer, 10, 0) == 0);
}

CASE(datagram_filters_and_full_queues) {
    int server = serve(SOCK_DGRAM, "server"), friend = serve(SOCK_DGRAM, "friend"), other = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    NEED(reach(other, "server") == 0);
    int sent = 0;
    while (sent < 1000 && send(other, "x", 1, 0) == 1) sent++;
    CHECK(sent > 5 && (sent == 1000 || errno == EAGAIN));
    if (sent < 1000) note("%#x", bits(other) & POLLOUT);
    struct epoll_event event = {EPOLLOUT | EPOLLET};
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event);
    if (sent < 1000) CHECK(epoll_wait(epoll, &event, 1, 0) == 0);
    for (int i = 0; i < sent; i++) recv(server, buffer, 1, 0);
    CHECK(epoll_wait(epoll, &event, 1, 1000) == 1);
    NEED(reach(server, "friend") == 0);
    FAILS(send(other, "x", 1, 0), EPERM);
    NEED(reach(friend, "server") == 0);
    CHECK(send(friend, "x", 1, 0) == 1);
    close(server);
    FAILS(send(friend, "x", 1, 0), ECONNREFUSED);
    FAILS(send(friend, "x", 1, 0), ENOTCONN);
}

CASE(many_at_once) {
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    struct iovec v[4];
    struct mmsghdr m[4] = {0};
    for (int i = 0; i < 4; i++) v[i] = (struct iovec){buffer + 100 * i, 100}, m[i].msg_hdr.msg_iov = &v[i], m[i].msg_hdr.msg_iovlen = 1;
    send(pair[0], "one", 3, 0);
    send(pair[0], "three", 5, 0);
    note("%d: %u %u", recvmmsg(pair[1], m, 4, MSG_WAITFORONE, NULL), m[0].msg_len, m[1].msg_len);
    struct timespec t = {0, 50000000};
    double start = now();
    pid_t pid = CHILD({
        sleep_ms(80);
        send(pair[0], "late", 4, 0);
    });
    CHECK(recvmmsg(pair[1], m, 4, 0, &t) == 1);
    CHECK(now() - start > 0.07);
    exit_of(pid);
    note("left %ld.%09ld", (long)t.tv_sec, t.tv_nsec);
    m[1].msg_hdr.msg_iov = (void *)16;
    CHECK(sendmmsg(pair[0], m, 4, 0) == 1);
    FAILS(recvmmsg(pair[1], m + 1, 1, MSG_DONTWAIT, NULL), EFAULT);
    struct iovec nowhere = {(void *)16, 4};
    m[1].msg_hdr.msg_iov = &nowhere, m[1].msg_hdr.msg_iovlen = 1;
    while (recv(pair[1], buffer, sizeof buffer, MSG_DONTWAIT) > 0) ;
    send(pair[0], "one", 3, 0);
    send(pair[0], "two", 3, 0);
    CHECK(recvmmsg(pair[1], m, 2, MSG_DONTWAIT, NULL) == 1);
    int error;
    socklen_t size = sizeof error;
    NEED(getsockopt(pair[1], SOL_SOCKET, SO_ERROR, &error, &size) == 0);
    note("kept for the next call: %d", error);
}

CASE(wake_ups_across_processes) {
    int listener = serve(SOCK_STREAM, "s");
    pid_t workers[4];
    for (int i = 0; i < 4; i++)
        workers[i] = CHILD({
            for (int k = 0; k < 25; k++) {
                int fd = accept(listener, NULL, NULL);
                NEED(fd >= 0);
                ssize_t n;
                while ((n = read(fd, buffer, sizeof buffer)) > 0) CHECK(write(fd, buffer, n) == n);
                close(fd);
            }
        });
    for (int k = 0; k < 100; k++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        NEED(reach(fd, "s") == 0);
        CHECK(write(fd, "echo", 4) == 4 && recv(fd, buffer, 4, MSG_WAITALL) == 4);
        close(fd);
    }
    for (int i = 0; i < 4; i++) CHECK(exit_of(workers[i]) == 0);
}


static bool peeks(int fd, const char *text, size_t room) {
    char buffer[64] = {0};
    return recv(fd, buffer, room, MSG_PEEK | MSG_DONTWAIT) == (ssize_t)strlen(text) && !strcmp(buffer, text);
}
static int peek_offset(int fd) {
    int offset = -99;
    socklen_t length = sizeof offset;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &length) == 0);
    return offset;
}

CASE(peeking_at_an_offset) {
    int pair[2], offset = 0;
    char buffer[64] = {0};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && peek_offset(pair[0]) == -1);
    send(pair[1], "abcdef", 6, 0), send(pair[1], "ghi", 3, 0);
    CHECK(peeks(pair[0], "abc", 3) && peeks(pair[0], "abc", 3) && peek_offset(pair[0]) == -1);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0);
    CHECK(peeks(pair[0], "abcd", 4) && peeks(pair[0], "efgh", 4) && peek_offset(pair[0]) == 8);
    CHECK(recv(pair[0], buffer, 7, 0) == 7 && peek_offset(pair[0]) == 1 && peeks(pair[0], "i", 9));
    FAILS(recv(pair[0], buffer, 9, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
    send(pair[1], "jk", 2, 0);
    CHECK(peeks(pair[0], "jk", 9) && recv(pair[0], buffer, 9, 0) == 4 && peek_offset(pair[0]) == 0);
    pid_t child = CHILD({
        sleep_ms(50);
        send(pair[1], "later", 5, 0);
    });
    CHECK(recv(pair[0], buffer, 9, MSG_PEEK) == 5 && peek_offset(pair[0]) == 5 && exit_of(child) == 0);
    close(pair[1]);
    CHECK(recv(pair[0], buffer, 9, MSG_PEEK) == 0);

    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    send(pair[1], "first", 5, 0), send(pair[1], "second", 6, 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0);
    CHECK(peeks(pair[0], "fir", 3) && peeks(pair[0], "st", 9) && peeks(pair[0], "second", 9) && peek_offset(pair[0]) == 11);
    FAILS(recv(pair[0], buffer, 9, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
    CHECK(recv(pair[0], buffer, 2, 0) == 2 && peek_offset(pair[0]) == 6);
    offset = 2;
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0 && peeks(pair[0], "cond", 9));
}
