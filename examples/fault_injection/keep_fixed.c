/* keep FILE: replace FILE by what comes on standard input, safely: whatever fails, FILE is the old one or the new one, whole, and the exit status says which. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char temporary[4096];

static void fail(const char *what)
{
    perror(what);
    unlink(temporary);
    exit(1);
}

int main(int argc, char **argv)
{
    char buffer[4096];
    ssize_t count;

    if (argc != 2) {
        fprintf(stderr, "usage: keep FILE\n");
        return 2;
    }
    snprintf(temporary, sizeof temporary, "%s.new", argv[1]);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        fail(temporary);
    while ((count = read(0, buffer, sizeof buffer)) != 0) {
        if (count < 0) {
            if (errno == EINTR)
                continue;
            fail("read");
        }
        for (ssize_t done = 0; done < count;) {
            ssize_t wrote = write(fd, buffer + done, count - done);
            if (wrote < 0 && errno != EINTR)
                fail("write");
            if (wrote > 0)
                done += wrote;
        }
    }
    if (fsync(fd) < 0)
        fail("fsync");
    if (close(fd) < 0)
        fail("close");
    if (rename(temporary, argv[1]) < 0)
        fail(argv[1]);
    return 0;
}
