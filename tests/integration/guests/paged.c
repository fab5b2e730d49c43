/* Maps and reads FILE in every way, and prints what it sees: the same on Linux, whatever the file lies on. FILE has at least 20 chunks of 128 KiB, and its
 * size is no multiple of a page. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK (128l << 10)
#define PAGE 4096l

static int fd;
static long size;
static sigjmp_buf caught;
static siginfo_t seen;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    seen = *info;
    siglongjmp(caught, 1);
}

static unsigned long sum(const void *data, long count)
{
    unsigned long hash = 14695981039346656037ul;
    for (long i = 0; i < count; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211ul;
    return hash;
}

static unsigned char *map(long length, int protection, int flags)
{
    unsigned char *at = mmap(NULL, length, protection, flags, fd, 0);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return at;
}

static void touch(const char *what, unsigned char *map, long offset, int write)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    if (sigsetjmp(caught, 1)) {
        printf("%s: signal %d code %d at %ld\n", what, seen.si_signo, seen.si_code, (long)((unsigned char *)seen.si_addr - map));
        return;
    }
    if (write)
        map[offset] = 'w';
    printf("%s: %d\n", what, *(volatile unsigned char *)(map + offset));
}

static void *touch_every(void *start)
{
    static unsigned long sums[2];
    long first = *(long *)start;
    unsigned char *at = map(size, PROT_READ, MAP_SHARED);
    for (long offset = first * CHUNK; offset < size; offset += 2 * CHUNK)
        sums[first] += at[offset + 77];
    munmap(at, size);
    return &sums[first];
}

static void report(const char *what, int pipe_end, long count)
{
    char *copy = malloc(count);
    long done = 0, got;
    while (done < count && (got = read(pipe_end, copy + done, count - done)) > 0)
        done += got;
    printf("%s: %ld %lx\n", what, done, sum(copy, done));
    free(copy);
}

int main(int argc, char **argv)
{
    struct stat status;
    unsigned char buffer[3 * 4096], *at, *other;
    long parts[] = {0, 1}, end;
    pthread_t threads[2];
    void *result;
    int ends[2], same = 0;
    pid_t parent;

    fd = open(argv[argc - 1], O_RDONLY);
    if (fd < 0 || fstat(fd, &status) < 0) {
        perror(argv[argc - 1]);
        return 1;
    }
    size = status.st_size;
    end = (size + PAGE - 1) & ~(PAGE - 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 2) { /* one touch in the middle, and one read of the same place */
        at = map(size, PROT_READ, MAP_PRIVATE);
        touch("touch", at, size / 2, 0);
        printf("read: %ld", (long)pread(fd, buffer, 10, size / 2));
        printf(" %s\n", strerror(errno));
        errno = 0;
        if (pipe(ends) == 0)
            printf("write: %ld", (long)write(ends[1], at + size / 2, 10));
        printf(" %s\n", strerror(errno));
        return 0;
    }

    parent = getppid();
    for (int i = 0; i < 2000; i++) /* enough for the program's own text to be taken for hot */
        same += getppid() == parent;
    printf("calls: %d\n", same);
    at = map(size, PROT_READ, MAP_SHARED);
    printf("one byte: %d\n", at[5 * CHUNK + 12345]);
    if (fork() == 0) {
        printf("child: %lx\n", sum(at + 4 * CHUNK - 100, CHUNK + 200));
        exit(0);
    }
    wait(NULL);
    printf("parent: %lx\n", sum(at + 4 * CHUNK - 50, 100));
    if (pipe(ends) < 0)
        return 1;
    printf("write of untouched pages: %ld\n", (long)write(ends[1], at + 7 * CHUNK - 3000, 6000));
    report("through a pipe", ends[0], 6000);
    printf("sendfile: %ld\n", (long)sendfile(ends[1], fd, (off_t[]){9 * CHUNK - 10000}, 20000));
    report("sent", ends[0], 20000);
    printf("pread: %ld", (long)pread(fd, buffer, sizeof buffer, 11 * CHUNK - 5000));
    printf(" %lx\n", sum(buffer, sizeof buffer));
    printf("at the end: %ld", (long)pread(fd, buffer, sizeof buffer, size - 100));
    printf(" %ld %ld\n", (long)pread(fd, buffer, 10, size), (long)pread(fd, buffer, 10, size + 12345678));
    touch("write to a read-only map", at, 13 * CHUNK, 1);
    printf("protect for writing: %d %s\n", mprotect(at, PAGE, PROT_READ | PROT_WRITE), strerror(errno));
    munmap(at, size);

    at = map(end + 3 * PAGE, PROT_READ, MAP_PRIVATE);
    touch("last byte", at, size - 1, 0);
    touch("after the last byte", at, size, 0);
    touch("beyond the last page", at, end, 0);
    touch("far beyond", at, end + 2 * PAGE + 5, 0);
    mprotect(at + 14 * CHUNK, 2 * CHUNK, PROT_READ | PROT_WRITE);
    at[15 * CHUNK] ^= 0xff;
    printf("changed: %lx\n", sum(at + 13 * CHUNK, 4 * CHUNK));
    madvise(at + 14 * CHUNK, 2 * CHUNK, MADV_DONTNEED);
    printf("as before: %lx\n", sum(at + 13 * CHUNK, 4 * CHUNK));
    mprotect(at + 16 * CHUNK, CHUNK, PROT_NONE);
    touch("no access", at, 16 * CHUNK + 1, 0);
    mprotect(at + 16 * CHUNK, CHUNK, PROT_READ);
    touch("access", at, 16 * CHUNK + 1, 0);
    munmap(at + 17 * CHUNK, CHUNK);
    touch("unmapped", at, 17 * CHUNK + 1, 0);
    other = mremap(at + 18 * CHUNK, 2 * CHUNK, 2 * CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, at + end + (64 << 20));
    printf("moved: %d %lx\n", other != MAP_FAILED, sum(other, 2 * CHUNK));
    munmap(at, end + 3 * PAGE);

    at = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    at[3] = 'x';
    printf("private: %c %lx\n", at[3], sum(at + 4, size - 4));
    printf("file: %d\n", pread(fd, buffer, 4, 0) == 4 && buffer[3] != 'x');
    munmap(at, size);
    printf("shared and writable: %d %s\n", mmap(NULL, size, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED, strerror(errno));

    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, touch_every, &parts[i]);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], &result);
        printf("thread %d: %lu\n", i, *(unsigned long *)result);
    }
    at = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    printf("all: %lx\n", sum(at, size));
    return 0;
}
