// Counts in a file that it shares with the host: progress FILE THREADS CALLS - each of THREADS threads adds to a word of its own, without a pause,
// with a system call every CALLS rounds (0: none).
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile uint64_t *words;
static unsigned calls;

static void *count(void *argument) {
    volatile uint64_t *word = words + (uintptr_t)argument;
    for (uint64_t round = 1;; round++) {
        __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
        if (calls && round % calls == 0) getppid();
    }
    return 0;
}

int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDWR);
    words = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (words == MAP_FAILED) return 1;
    int threads = atoi(argv[2]);
    calls = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, count, (void *)(uintptr_t)i);
    }
    count(0);
}
