// memfd_create and its seals.
#include "check.h"
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
enum { P = 4096 };
#define RW (PROT_READ | PROT_WRITE)

CASE(plain_file) {
    int fd = memfd_create("name", MFD_CLOEXEC);
    NEED(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(write(fd, "hello", 5) == 5);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == 5 && S_ISREG(st.st_mode) && st.st_nlink == 0);
    char *p = mmap(NULL, P, RW, MAP_SHARED, fd, 0);
    CHECK(!memcmp(p, "hello", 6));
    p[0] = 'j';
    char c;
    CHECK(pread(fd, &c, 1, 0) == 1 && c == 'j');
    char path[64], target[64] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, target, sizeof target) > 0);
    note("%s", target);
    int again = open(path, O_RDONLY);
    CHECK(again >= 0 && pread(again, &c, 1, 4) == 1 && c == 'o');
}

CASE(errors) {
    char name[300];
    memset(name, 'x', 250);
    name[250] = 0;
    FAILS(memfd_create(name, 0), EINVAL);
    FAILS(memfd_create("x", 0x8000), EINVAL);
    FAILS(memfd_create((char *)16, 0), EFAULT);
    name[249] = 0;
    CHECK(memfd_create(name, 0) >= 0);
}

CASE(no_sealing_by_default) {
    int fd = memfd_create("x", 0);
    CHECK(fcntl(fd, F_GET_SEALS) == F_SEAL_SEAL);
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    int plain = open("f", O_RDWR | O_CREAT, 0600);
    int seals = fcntl(plain, F_GET_SEALS);
    CHECK(seals == -1 || seals == F_SEAL_SEAL);
}

CASE(shrink_and_grow) {
    int fd = memfd_create("x", MFD_ALLOW_SEALING);
    ftruncate(fd, 2 * P);
    CHECK(fcntl(fd, F_GET_SEALS) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    FAILS(ftruncate(fd, P), EPERM);
    CHECK(ftruncate(fd, 3 * P) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == 0);
    FAILS(ftruncate(fd, 4 * P), EPERM);
    FAILS(pwrite(fd, "x", 1, 3 * P), EPERM);
    CHECK(pwrite(fd, "x", 1, 0) == 1);
    FAILS(fallocate(fd, 0, 0, 5 * P), EPERM);
    CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW));
}

CASE(write) {
    int fd = memfd_create("x", MFD_ALLOW_SEALING);
    ftruncate(fd, P);
    char *p = mmap(NULL, P, RW, MAP_SHARED, fd, 0);
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    munmap(p, P);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
    FAILS(write(fd, "x", 1), EPERM);
    FAILS(mmap(NULL, P, RW, MAP_SHARED, fd, 0), EPERM);
    CHECK(mmap(NULL, P, RW, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    CHECK(mmap(NULL, P, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
    FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, P), EPERM);
}

CASE(future_write) {
    int fd = memfd_create("x", MFD_ALLOW_SEALING);
    ftruncate(fd, P);
    char *p = mmap(NULL, P, RW, MAP_SHARED, fd, 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    p[0] = 1;
    FAILS(write(fd, "x", 1), EPERM);
    FAILS(mmap(NULL, P, RW, MAP_SHARED, fd, 0), EPERM);
}

CASE(seal_seal) {
    int fd = memfd_create("x", MFD_ALLOW_SEALING);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) == 0);
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    fd = memfd_create("x", MFD_ALLOW_SEALING);
    FAILS(fcntl(fd, F_ADD_SEALS, 0x4000), EINVAL);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int readonly = open(path, O_RDONLY);
    FAILS(fcntl(readonly, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
}

CASE(shared_with_a_child) {
    int fd = memfd_create("x", 0);
    ftruncate(fd, P);
    int *p = mmap(NULL, P, RW, MAP_SHARED, fd, 0);
    IN_CHILD({
        p[0] = 1;
        pwrite(fd, &(int){2}, 4, 4);
    });
    CHECK(p[0] == 1 && p[1] == 2);
}

CASE(execute_a_memfd) {
    static char buffer[1 << 20];
    int in = open("/bin/echo", O_RDONLY), fd = memfd_create("program", MFD_CLOEXEC);
    ssize_t n = read(in, buffer, sizeof buffer);
    CHECK(write(fd, buffer, n) == n);
    pid_t pid = fork();
    if (!pid) {
        char *argv[] = {"echo", "from", "memory", NULL}, *envp[] = {NULL};
        fexecve(fd, argv, envp);
        _exit(1);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(holes) {
    int fd = memfd_create("x", 0);
    ftruncate(fd, 100 * P);
    pwrite(fd, "x", 1, 50 * P);
    CHECK(lseek(fd, 0, SEEK_DATA) == 50 * P);
    CHECK(lseek(fd, 50 * P, SEEK_HOLE) == 51 * P);
    struct stat st;
    fstat(fd, &st);
    CHECK(st.st_blocks == 8);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 50 * P, P) == 0);
    FAILS(lseek(fd, 0, SEEK_DATA), ENXIO);
}

CASE(shm_open_in_dev_shm) {
    char name[64];
    snprintf(name, sizeof name, "/polynix-check-%d", getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    NEED(fd >= 0);
    CHECK(ftruncate(fd, P) == 0);
    char *p = mmap(NULL, P, RW, MAP_SHARED, fd, 0);
    p[0] = 5;
    IN_CHILD({
        int other = shm_open(name, O_RDWR, 0);
        char c;
        CHECK(read(other, &c, 1) == 1 && c == 5);
    });
    CHECK(shm_unlink(name) == 0);
    FAILS(shm_open(name, O_RDWR, 0), ENOENT);
}
