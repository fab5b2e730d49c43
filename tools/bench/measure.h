/* The frame of a microbenchmark: a program of named rows, each printing one number, the same on every system that it runs on. */
#ifndef MEASURE_H
#define MEASURE_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Print the microseconds that one run of the statement takes: the mean over at least a fifth of a second, after a warm-up. */
#define MEASURE(...)                                                                                                   \
    do {                                                                                                               \
        for (int measure_i = 0; measure_i < 100; measure_i++) { __VA_ARGS__; }                                          \
        long measure_count = 0, measure_batch = 16;                                                                    \
        double measure_start = seconds(), measure_end;                                                                 \
        do {                                                                                                           \
            for (long measure_i = 0; measure_i < measure_batch; measure_i++) { __VA_ARGS__; }                           \
            measure_count += measure_batch;                                                                            \
            measure_end = seconds();                                                                                   \
            if (measure_batch < 4096) measure_batch *= 2;                                                              \
        } while (measure_end - measure_start < 0.2);                                                                   \
        printf("%.4f\n", (measure_end - measure_start) * 1e6 / measure_count);                                         \
    } while (0)

/* Print the microseconds of one run over a given number of runs. */
#define MEASURE_TIMES(times, ...)                                                                                      \
    do {                                                                                                               \
        double measure_start = seconds();                                                                              \
        for (int measure_i = 0; measure_i < (times); measure_i++) { __VA_ARGS__; }                                      \
        printf("%.4f\n", (seconds() - measure_start) * 1e6 / (times));                                                 \
    } while (0)

static inline void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

struct row {
    const char *name;
    void (*run)(void);
};
#define ROWS(...)                                                                                                      \
    int main(int argc, char **argv) {                                                                                  \
        static const struct row rows[] = {__VA_ARGS__};                                                                \
        for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)                                                      \
            if (argc > 1 && !strcmp(argv[1], rows[i].name)) {                                                          \
                rows[i].run();                                                                                         \
                return 0;                                                                                              \
            }                                                                                                          \
        fprintf(stderr, "no such row\n");                                                                              \
        return 2;                                                                                                      \
    }
#endif
