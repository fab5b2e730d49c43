/* Processes to suspend: suspend FILE COUNT - of COUNT processes a tenth count, without a pause, in the words of FILE, and the others sleep. */
#include "measure.h"

int main(int argc, char **argv) {
    if (argc < 3) fail("suspend FILE COUNT");
    int fd = open(argv[1], O_RDWR), count = atoi(argv[2]), counting = count / 10;
    volatile unsigned long *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (words == MAP_FAILED || counting > 512) fail(argv[1]);
    for (int i = 1; i < count; i++)
        if (fork() == 0) {
            while (i < counting) words[i]++;
            for (;;) pause();
        }
    for (;;) words[0]++;
}
