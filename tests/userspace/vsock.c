// AF_VSOCK: names, errors and options everywhere; connections where the host has vsock_loopback.
#include "check.h"
#include <sys/socket.h>
#include <sys/time.h>
#include <linux/vm_sockets.h>

static struct sockaddr_vm address(unsigned cid, unsigned port) {
    struct sockaddr_vm it = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    return it;
}

static int make(void) {
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0) SKIP("no AF_VSOCK");
    return fd;
}

static int bind_to(int fd, unsigned cid, unsigned port) {
    struct sockaddr_vm it = address(cid, port);
    return bind(fd, (struct sockaddr *)&it, sizeof it);
}

static struct sockaddr_vm name_of(int fd) {
    struct sockaddr_vm it = {0};
    socklen_t length = sizeof it;
    NEED(getsockname(fd, (struct sockaddr *)&it, &length) == 0 && length == sizeof it && it.svm_family == AF_VSOCK);
    return it;
}

CASE(names) {
    int fd = make();
    CHECK(name_of(fd).svm_cid == VMADDR_CID_ANY && name_of(fd).svm_port == VMADDR_PORT_ANY);
    CHECK(bind_to(fd, VMADDR_CID_ANY, 54321) == 0);
    CHECK(name_of(fd).svm_cid == VMADDR_CID_ANY && name_of(fd).svm_port == 54321);
    FAILS(bind_to(fd, VMADDR_CID_ANY, 54322), EINVAL);
    int other = make();
    FAILS(bind_to(other, VMADDR_CID_ANY, 54321), EADDRINUSE);
    CHECK(bind_to(other, VMADDR_CID_ANY, VMADDR_PORT_ANY) == 0);
    CHECK(name_of(other).svm_port > 1023 && name_of(other).svm_port != 54321);
    close(fd);
    CHECK(bind_to(make(), VMADDR_CID_ANY, 54321) == 0);
    FAILS(bind_to(make(), 12345, 54321), EADDRNOTAVAIL);
}

CASE(bad_addresses) {
    int fd = make();
    struct sockaddr_vm it = address(VMADDR_CID_ANY, 5000);
    FAILS(bind(fd, (struct sockaddr *)&it, sizeof it - 1), EINVAL);
    it.svm_family = AF_UNIX;
    FAILS(bind(fd, (struct sockaddr *)&it, sizeof it), EINVAL);
    FAILS(connect(fd, (struct sockaddr *)&it, sizeof it), EINVAL);
    FAILS(bind(fd, (struct sockaddr *)16, sizeof it), EFAULT);
    int pair[2];
    FAILS(socketpair(AF_VSOCK, SOCK_STREAM, 0, pair), EOPNOTSUPP);
    FAILS(socket(AF_VSOCK, SOCK_STREAM, 7), EPROTONOSUPPORT);
}

CASE(unconnected) {
    int fd = make();
    char byte;
    FAILS(listen(fd, 1), EINVAL);
    FAILS(read(fd, &byte, 1), ENOTCONN);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), ENOTCONN);
    FAILS(shutdown(fd, SHUT_RDWR), ENOTCONN);
    struct sockaddr_vm it;
    socklen_t length = sizeof it;
    FAILS(getpeername(fd, (struct sockaddr *)&it, &length), ENOTCONN);
    FAILS(accept(fd, NULL, NULL), EINVAL);
    struct pollfd poller = {.fd = fd, .events = POLLIN | POLLOUT};
    CHECK(poll(&poller, 1, 0) == 1 && poller.revents == POLLOUT);
    int value = -1;
    length = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_VSOCK);
}

CASE(options) {
    int fd = make();
    unsigned long long size = 0;
    socklen_t length = sizeof size;
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, &length) == 0 && length == 8);
    note("size %llu", size);
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MIN_SIZE, &size, &length) == 0);
    note("least %llu", size);
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &size, &length) == 0);
    note("most %llu", size);
    size = 1 << 20;
    CHECK(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size) == 0);
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, &length) == 0);
    note("bounded %llu", size);
    FAILS(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, 4), EINVAL);
    length = 4;
    FAILS(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, &length), EINVAL);
    struct timeval time;
    length = sizeof time;
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, &length) == 0);
    note("timeout %ld %ld", (long)time.tv_sec, (long)time.tv_usec);
    time.tv_usec = 1000000;
    FAILS(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time), ERANGE);
    FAILS(setsockopt(fd, AF_VSOCK, 99, &size, sizeof size), ENOPROTOOPT);
    length = sizeof size;
    FAILS(getsockopt(fd, AF_VSOCK, 99, &size, &length), ENOPROTOOPT);
    FAILS(getsockopt(fd, AF_VSOCK + 1, 0, &size, &length), ENOPROTOOPT);
}

CASE(connections) {
    int listener = make(), client = make();
    struct timeval time = {.tv_usec = 500000};
    setsockopt(client, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time);
    NEED(bind_to(listener, VMADDR_CID_ANY, 54400) == 0 && listen(listener, 1) == 0);
    struct sockaddr_vm it = address(VMADDR_CID_LOCAL, 54400);
    if (connect(client, (struct sockaddr *)&it, sizeof it) < 0) SKIP("no vsock_loopback");
    socklen_t length = sizeof it;
    int server = accept(listener, (struct sockaddr *)&it, &length);
    NEED(server >= 0);
    CHECK(it.svm_cid == VMADDR_CID_LOCAL && it.svm_port == name_of(client).svm_port);
    CHECK(name_of(server).svm_cid == VMADDR_CID_LOCAL && name_of(server).svm_port == 54400);
    FAILS(connect(client, (struct sockaddr *)&it, sizeof it), EISCONN);
    char buffer[16];
    CHECK(write(client, "hello", 5) == 5 && read(server, buffer, 16) == 5 && !memcmp(buffer, "hello", 5));
    CHECK(shutdown(client, SHUT_WR) == 0 && read(server, buffer, 16) == 0);
    CHECK(write(server, "bye", 3) == 3);
    close(server);
    CHECK(read(client, buffer, 16) == 3 && read(client, buffer, 16) == 0);
    close(listener);
    it = address(VMADDR_CID_LOCAL, 54400);
    FAILS(connect(make(), (struct sockaddr *)&it, sizeof it), ECONNRESET);
}
