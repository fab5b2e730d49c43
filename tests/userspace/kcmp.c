// kcmp: what two processes or threads share.
#include "check.h"
#include <linux/kcmp.h>
#include <pthread.h>
#include <sys/epoll.h>

static long compare(pid_t first, pid_t second, int kind, unsigned long index1, unsigned long index2) {
    return syscall(SYS_kcmp, first, second, kind, index1, index2);
}
static void *of_a_thread(void *unused) {
    for (int kind = KCMP_VM; kind <= KCMP_SYSVSEM; kind++) CHECK(compare(getpid(), gettid(), kind, 0, 0) == 0);
    return unused;
}

CASE(processes_and_threads) {
    pthread_t thread;
    pthread_create(&thread, NULL, of_a_thread, NULL);
    pthread_join(thread, NULL);
    pid_t parent = getpid();
    IN_CHILD({
        for (int kind = KCMP_VM; kind <= KCMP_SIGHAND; kind++) {
            long order = compare(parent, getpid(), kind, 0, 0);
            CHECK(order == 1 || order == 2);
            CHECK(compare(getpid(), parent, kind, 0, 0) == 3 - order);
        }
    });
}

CASE(files) {
    int fd = open("/dev/null", O_RDWR), same = dup(fd), other = open("/dev/null", O_RDWR);
    pid_t self = getpid();
    CHECK(compare(self, self, KCMP_FILE, fd, same) == 0);
    CHECK(compare(self, self, KCMP_FILE, fd, other) == 3 - compare(self, self, KCMP_FILE, other, fd));
    IN_CHILD(CHECK(compare(self, getpid(), KCMP_FILE, fd, same) == 0));
    FAILS(compare(self, self, KCMP_FILE, fd, 999), EBADF);
    FAILS(compare(self, self, KCMP_FILE, -1, fd), EBADF);
}

CASE(files_of_an_epoll) {
    int epoll = epoll_create1(0), ends[2];
    pipe(ends);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
    struct kcmp_epoll_slot slot = {.efd = epoll, .tfd = ends[0]};
    CHECK(compare(getpid(), getpid(), KCMP_EPOLL_TFD, ends[0], (uintptr_t)&slot) == 0);
    CHECK(compare(getpid(), getpid(), KCMP_EPOLL_TFD, ends[1], (uintptr_t)&slot) > 0);
    slot.toff = 1;
    FAILS(compare(getpid(), getpid(), KCMP_EPOLL_TFD, ends[0], (uintptr_t)&slot), ENOENT);
    slot.efd = ends[0];
    FAILS(compare(getpid(), getpid(), KCMP_EPOLL_TFD, ends[0], (uintptr_t)&slot), EINVAL);
    FAILS(compare(getpid(), getpid(), KCMP_EPOLL_TFD, ends[0], 8), EFAULT);
}

CASE(who_may) {
    FAILS(compare(getpid(), getpid(), 99, 0, 0), EINVAL);
    pid_t gone = CHILD(_exit(0));
    reap(gone);
    FAILS(compare(getpid(), gone, KCMP_VM, 0, 0), ESRCH);
    if (geteuid() != 0) SKIP("not root");
    pid_t root = getpid();
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        FAILS(compare(getpid(), root, KCMP_VM, 0, 0), EPERM);
    });
}
