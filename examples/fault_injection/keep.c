/* keep FILE: replace FILE by what comes on standard input, "safely": write a new file, then rename it over the old one.
 *
 * It has been in use for years and its tests pass. It loses data all the same: test_keep.py shows when.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char buffer[4096], temporary[4096];
    ssize_t count;

    if (argc != 2) {
        fprintf(stderr, "usage: keep FILE\n");
        return 2;
    }
    snprintf(temporary, sizeof temporary, "%s.new", argv[1]);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) {
        perror(temporary);
        return 1;
    }
    while ((count = read(0, buffer, sizeof buffer)) > 0)
        write(fd, buffer, count);
    fsync(fd);
    close(fd);
    if (rename(temporary, argv[1]) < 0) {
        perror(argv[1]);
        return 1;
    }
    return 0;
}
