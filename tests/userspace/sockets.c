// AF_UNIX: pairs, names, listening, datagrams, sequenced packets, descriptors and credentials in messages.
#include "check.h"
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int pair[2];
static char c;
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
static int reach(int type, const char *path) {
    struct sockaddr_un name = name_of(path);
    int fd = socket(AF_UNIX, type, 0);
    return connect(fd, (void *)&name, sizeof name) < 0 ? -1 : fd;
}

CASE(stream_pair) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK(fcntl(pair[0], F_GETFD) == FD_CLOEXEC && fcntl(pair[0], F_GETFL) == O_RDWR);
    CHECK(write(pair[0], "abc", 3) == 3 && write(pair[0], "def", 3) == 3);
    char text[10] = "";
    CHECK(read(pair[1], text, 10) == 6 && !strcmp(text, "abcdef"));
    CHECK(send(pair[1], "back", 4, 0) == 4 && recv(pair[0], text, 4, MSG_PEEK) == 4 && recv(pair[0], text, 4, 0) == 4);
    FAILS(recv(pair[0], text, 4, MSG_DONTWAIT), EAGAIN);
    close(pair[0]);
    CHECK(read(pair[1], text, 10) == 0);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(pair[1], "x", 1), EPIPE);
    FAILS(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(lseek(pair[1], 0, SEEK_SET), ESPIPE);
}

CASE(datagram_pair) {
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
    send(pair[0], "one", 3, 0);
    send(pair[0], "", 0, 0);
    send(pair[0], "three", 5, 0);
    char text[10];
    CHECK(recv(pair[1], text, 10, 0) == 3 && recv(pair[1], text, 10, 0) == 0);
    CHECK(recv(pair[1], text, 2, MSG_TRUNC) == 5);
    FAILS(recv(pair[1], text, 10, 0), EAGAIN);
    close(pair[0]);
    FAILS(send(pair[1], "x", 1, MSG_NOSIGNAL), ECONNREFUSED);
}

CASE(sequenced_packets) {
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    send(pair[0], "one", 3, 0);
    send(pair[0], "two", 3, 0);
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    CHECK(recvmsg(pair[1], &m, 0) == 1 && (m.msg_flags & MSG_TRUNC));
    char text[10];
    CHECK(recv(pair[1], text, 10, 0) == 3 && !memcmp(text, "two", 3));
    close(pair[0]);
    CHECK(recv(pair[1], text, 10, 0) == 0);
}

CASE(listen_and_connect) {
    int server = serve(SOCK_STREAM, "socket");
    NEED(server >= 0);
    struct stat st;
    CHECK(stat("socket", &st) == 0 && S_ISSOCK(st.st_mode));
    pid_t pid = CHILD({
        int fd = reach(SOCK_STREAM, "socket");
        NEED(fd >= 0);
        CHECK(write(fd, "hello", 5) == 5);
        char text[10] = "";
        CHECK(read(fd, text, 10) == 5 && !strcmp(text, "HELLO"));
    });
    struct sockaddr_un peer;
    socklen_t length = sizeof peer;
    int fd = accept4(server, (void *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    NEED(fd >= 0);
    note("peer length %d", length);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && (fcntl(fd, F_GETFL) & O_NONBLOCK));
    fcntl(fd, F_SETFL, 0);
    char text[10] = "";
    CHECK(read(fd, text, 10) == 5);
    CHECK(write(fd, "HELLO", 5) == 5);
    CHECK(exit_of(pid) == 0);
    length = sizeof peer;
    CHECK(getsockname(server, (void *)&peer, &length) == 0 && !strcmp(peer.sun_path, "socket") && length == 2 + 7);
    length = sizeof peer;
    CHECK(getsockname(fd, (void *)&peer, &length) == 0 && !strcmp(peer.sun_path, "socket"));
    length = sizeof peer;
    FAILS(getpeername(server, (void *)&peer, &length), ENOTCONN);
}

CASE(errors) {
    struct sockaddr_un name = name_of("absent");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    FAILS(connect(fd, (void *)&name, sizeof name), ENOENT);
    put("plain", "");
    name = name_of("plain");
    FAILS(connect(fd, (void *)&name, sizeof name), ECONNREFUSED);
    FAILS(bind(fd, (void *)&name, sizeof name), EADDRINUSE);
    FAILS(connect(fd, (void *)&name, 1), EINVAL);
    name.sun_family = 99;
    FAILS(connect(fd, (void *)&name, sizeof name), EINVAL);
    FAILS(listen(fd, 5), EINVAL);
    FAILS(accept(fd, NULL, NULL), EINVAL);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), ENOTCONN);
    FAILS(recv(fd, &c, 1, 0), EINVAL);
    CHECK(shutdown(fd, SHUT_WR) == 0);
    FAILS(socket(AF_UNIX, 99, 0), EINVAL);
    FAILS(socket(AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT);
    FAILS(socket(AF_UNIX, SOCK_STREAM, 5), EPROTONOSUPPORT);
    FAILS(socket(999, SOCK_STREAM, 0), EAFNOSUPPORT);
    FAILS(accept(0, NULL, NULL), ENOTSOCK);
    FAILS(accept(99, NULL, NULL), EBADF);
    int server = serve(SOCK_STREAM, "s");
    close(server);
    FAILS(reach(SOCK_STREAM, "s"), ECONNREFUSED);
    server = serve(SOCK_DGRAM, "d");
    FAILS(reach(SOCK_STREAM, "d"), EPROTOTYPE);
    name = name_of("second");
    name.sun_family = AF_UNIX;
    FAILS(bind(server, (void *)&name, sizeof name), EINVAL);
}

CASE(abstract_names) {
    struct sockaddr_un name = {AF_UNIX, ""};
    snprintf(name.sun_path + 1, 50, "polynix-%d", getpid());
    socklen_t length = 3 + strlen(name.sun_path + 1);
    int server = socket(AF_UNIX, SOCK_STREAM, 0), second = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(server, (void *)&name, length) == 0 && listen(server, 1) == 0);
    FAILS(bind(second, (void *)&name, length), EADDRINUSE);
    CHECK(connect(client, (void *)&name, length) == 0);
    struct sockaddr_un seen;
    socklen_t seen_length = sizeof seen;
    CHECK(getpeername(client, (void *)&seen, &seen_length) == 0 && seen_length == length && !memcmp(&seen, &name, length));
    close(server);
    FAILS(connect(second, (void *)&name, length), ECONNREFUSED);
    sa_family_t family = AF_UNIX;
    CHECK(bind(second, (void *)&family, sizeof family) == 0); /* autobind */
    seen_length = sizeof seen;
    CHECK(getsockname(second, (void *)&seen, &seen_length) == 0 && seen_length == 2 + 6 && seen.sun_path[0] == 0);
}

CASE(datagrams_by_name) {
    int server = serve(SOCK_DGRAM, "server"), client = serve(SOCK_DGRAM, "client");
    struct sockaddr_un name = name_of("server"), from;
    CHECK(sendto(client, "ping", 4, 0, (void *)&name, sizeof name) == 4);
    socklen_t length = sizeof from;
    char text[10];
    CHECK(recvfrom(server, text, 10, 0, (void *)&from, &length) == 4 && !strcmp(from.sun_path, "client"));
    CHECK(sendto(server, "pong", 4, 0, (void *)&from, length) == 4);
    CHECK(recv(client, text, 10, 0) == 4);
    FAILS(send(client, "x", 1, 0), ENOTCONN);
    CHECK(connect(client, (void *)&name, sizeof name) == 0);
    CHECK(send(client, "x", 1, 0) == 1);
    name.sun_family = AF_UNSPEC;
    CHECK(connect(client, (void *)&name, sizeof name) == 0);
    FAILS(send(client, "x", 1, 0), ENOTCONN);
}

static ssize_t send_fds(int socket, const int *fds, int n) {
    char control[CMSG_SPACE(sizeof(int) * 20)] = "";
    struct iovec v = {"F", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(h), fds, sizeof(int) * n);
    return sendmsg(socket, &m, 0);
}
static int receive_fds(int socket, int *fds, int room, int flags, int *message_flags) {
    char control[CMSG_SPACE(sizeof(int) * 20)] = "";
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room ? control : NULL, .msg_controllen = room ? CMSG_LEN(sizeof(int) * room) : 0};
    if (recvmsg(socket, &m, flags) < 0) return -1;
    *message_flags = m.msg_flags;
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (!h || h->cmsg_type != SCM_RIGHTS) return 0;
    int n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(h), n * sizeof(int));
    return n;
}

CASE(descriptors_travel) {
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int t = 0; t < 3; t++) {
        socketpair(AF_UNIX, types[t], 0, pair);
        int p[2], got[3], flags;
        pipe(p);
        CHECK(send_fds(pair[0], p, 2) == 1);
        close(p[0]);
        CHECK(receive_fds(pair[1], got, 2, MSG_CMSG_CLOEXEC, &flags) == 2);
        CHECK(fcntl(got[0], F_GETFD) == FD_CLOEXEC && flags == (int)MSG_CMSG_CLOEXEC);
        CHECK(write(p[1], "x", 1) == 1 && read(got[0], &c, 1) == 1);
        FAILS(send_fds(pair[0], (int[]){99}, 1), EBADF);
    }
}

CASE(descriptors_truncated) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int fds[3] = {0, 1, 2}, got[3], flags;
    send_fds(pair[0], fds, 3);
    CHECK(receive_fds(pair[1], got, 1, 0, &flags) == 1 && (flags & MSG_CTRUNC));
    send_fds(pair[0], fds, 3);
    CHECK(receive_fds(pair[1], got, 0, 0, &flags) == 0 && (flags & MSG_CTRUNC));
    int next = dup(0);
    note("lowest free %d", next);
}

CASE(descriptors_in_flight_keep_files_open) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int p[2];
    pipe(p);
    send_fds(pair[0], &p[1], 1);
    close(p[1]);
    struct pollfd one = {p[0], POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 0);
    close(pair[0]);
    close(pair[1]);
    CHECK(poll(&one, 1, 1000) == 1 && one.revents == POLLHUP);
}

CASE(descriptor_boundary_in_a_stream) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    write(pair[0], "ab", 2);
    send_fds(pair[0], (int[]){1}, 1);
    write(pair[0], "cd", 2);
    char text[10];
    ssize_t n = read(pair[1], text, 10);
    note("first read %zd", n);
}

CASE(credentials_travel) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int on = 1;
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    pid_t pid = CHILD({ write(pair[0], "x", 1); });
    exit_of(pid);
    union { char bytes[CMSG_SPACE(sizeof(struct ucred))]; struct cmsghdr header; } control;
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    CHECK(recvmsg(pair[1], &m, 0) == 1);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    NEED(h && h->cmsg_type == SCM_CREDENTIALS);
    struct ucred *who = (void *)CMSG_DATA(h);
    CHECK(who->pid == pid && who->uid == getuid() && who->gid == getgid());
    struct ucred peer;
    socklen_t length = sizeof peer;
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid == getpid() && peer.uid == getuid());
}

CASE(forged_credentials_are_refused) {
    if (getuid()) SKIP("needs root");
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    union { char bytes[CMSG_SPACE(sizeof(struct ucred))]; struct cmsghdr header; } control;
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_CREDENTIALS, h->cmsg_len = CMSG_LEN(sizeof(struct ucred));
    *(struct ucred *)CMSG_DATA(h) = (struct ucred){getpid(), 5, 5};
    CHECK(sendmsg(pair[0], &m, 0) == 1);
    IN_CHILD({
        NEED(setresuid(65534, 65534, 65534) == 0);
        *(struct ucred *)CMSG_DATA(h) = (struct ucred){getpid(), 0, 0};
        FAILS(sendmsg(pair[0], &m, 0), EPERM);
    });
}

CASE(shutdown_halves) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    CHECK(read(pair[1], &c, 1) == 0);
    FAILS(send(pair[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK(write(pair[1], "x", 1) == 1 && read(pair[0], &c, 1) == 1);
    CHECK(shutdown(pair[0], SHUT_RD) == 0);
    CHECK(read(pair[0], &c, 1) == 0);
    FAILS(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(shutdown(pair[0], 7), EINVAL);
}

static int bits(int fd) {
    struct pollfd each = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    return poll(&each, 1, 0) < 0 ? -1 : each.revents;
}

CASE(poll_bits) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    note("%#x", bits(pair[0]));
    write(pair[1], "x", 1);
    note("%#x", bits(pair[0]));
    shutdown(pair[1], SHUT_WR);
    note("%#x", bits(pair[0]));
    close(pair[1]);
    note("%#x", bits(pair[0]));
    int server = serve(SOCK_STREAM, "s");
    note("%#x", bits(server));
    int client = reach(SOCK_STREAM, "s");
    note("%#x %#x", bits(server), bits(client));
    note("%#x", bits(socket(AF_UNIX, SOCK_STREAM, 0)));
}

CASE(backlog) {
    int server = serve(SOCK_STREAM, "s");
    listen(server, 1);
    struct sockaddr_un name = name_of("s");
    int refused = 0;
    for (int i = 0; i < 6; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(fd, (void *)&name, sizeof name) < 0) {
            CHECK(errno == EAGAIN);
            refused++;
        }
    }
    note("%d refused", refused);
    close(server);
}

CASE(socket_buffers_fill) {
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    static char big[1 << 16];
    long total = 0;
    ssize_t n;
    while ((n = write(pair[0], big, sizeof big)) > 0) total += n;
    CHECK(errno == EAGAIN && total > 50000 && total < 4 << 20);
    CHECK(!(bits(pair[0]) & POLLOUT));
    int waiting;
    CHECK(ioctl(pair[1], FIONREAD, &waiting) == 0 && waiting == total);
    while ((n = read(pair[1], big, sizeof big)) > 0) total -= n;
    CHECK(total == 0);
}

CASE(options) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int value = 0;
    socklen_t length = sizeof value;
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_STREAM);
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_UNIX);
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_ERROR, &value, &length) == 0 && value == 0);
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value == 0);
    value = 65536;
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &value, sizeof value) == 0);
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &value, &length) == 0 && value == 131072);
    struct timeval t = {0, 50000};
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) == 0);
    double start = now();
    FAILS(read(pair[0], &c, 1), EAGAIN);
    CHECK(now() - start > 0.04);
    FAILS(getsockopt(pair[0], SOL_SOCKET, 9999, &value, &length), ENOPROTOOPT);
    FAILS(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, (void *)16, 4), EFAULT);
    FAILS(getsockopt(0, SOL_SOCKET, SO_TYPE, &value, &length), ENOTSOCK);
}

CASE(waitall_and_peek) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pid_t pid = CHILD({
        write(pair[0], "abc", 3);
        sleep_ms(40);
        write(pair[0], "def", 3);
    });
    char text[10] = "";
    CHECK(recv(pair[1], text, 6, MSG_WAITALL) == 6 && !strcmp(text, "abcdef"));
    exit_of(pid);
}

CASE(multiple_messages) {
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    struct iovec v[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
    struct mmsghdr m[3] = {0};
    for (int i = 0; i < 3; i++) m[i].msg_hdr.msg_iov = &v[i], m[i].msg_hdr.msg_iovlen = 1;
    CHECK(sendmmsg(pair[0], m, 3, 0) == 3 && m[2].msg_len == 3);
    char buffers[5][10];
    struct mmsghdr r[5] = {0};
    struct iovec rv[5];
    for (int i = 0; i < 5; i++) {
        rv[i] = (struct iovec){buffers[i], 10};
        r[i].msg_hdr.msg_iov = &rv[i], r[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK(recvmmsg(pair[1], r, 5, MSG_DONTWAIT, NULL) == 3 && r[1].msg_len == 2);
}

CASE(permission_to_connect) {
    if (getuid()) SKIP("needs root");
    chmod(".", 0755);
    int server = serve(SOCK_STREAM, "s");
    chmod("s", 0600);
    IN_CHILD({
        NEED(setresuid(65534, 65534, 65534) == 0);
        FAILS(reach(SOCK_STREAM, "s"), EACCES);
    });
    chmod("s", 0666);
    IN_CHILD({
        NEED(setresuid(65534, 65534, 65534) == 0);
        CHECK(reach(SOCK_STREAM, "s") >= 0);
    });
    close(server);
}
