// /proc/locks, /proc/net/unix, /proc/tty/drivers.
#include "check.h"
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The lines of /proc/locks that are about a file, without their numbers, numbers of processes shown by a letter. */
static const char *locks_of(int fd, pid_t a, pid_t b) {
    static char found[4096];
    struct stat status;
    char inode[32], *save;
    fstat(fd, &status);
    snprintf(inode, sizeof inode, ":%ld ", (long)status.st_ino);
    found[0] = 0;
    for (char *line = strtok_r(content("/proc/locks"), "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char form[16], advisory[16], kind[16], place[64], start[32], end[32];
        int pid;
        char *text = strchr(line, ':') + 1, *at = strstr(line, inode);
        while (*text == ' ') text++;
        bool waits = !strncmp(text, "-> ", 3);
        if (!at || sscanf(waits ? text + 3 : text, "%15s %15s %15s %d %63s %31s %31s", form, advisory, kind, &pid, place, start, end) != 7) continue;
        sprintf(strchr(found, 0), "%s%s %s %s %s %s %s\n", waits ? "-> " : "", form, advisory, kind, pid == a ? "a" : pid == b ? "b" : pid < 0 ? "-" : "?", start, end);
    }
    return found;
}

CASE(record_locks) {
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    CHECK(!strcmp(locks_of(fd, 0, 0), ""));
    struct flock some = {.l_type = F_WRLCK, .l_start = 10, .l_len = 10}, rest = {.l_type = F_RDLCK, .l_start = 100}, ofd = {.l_type = F_RDLCK, .l_len = 5};
    CHECK(fcntl(fd, F_SETLK, &some) == 0 && fcntl(fd, F_SETLK, &rest) == 0);
    const char *both = locks_of(fd, getpid(), 0);
    CHECK(strstr(both, "POSIX ADVISORY WRITE a 10 19\n") && strstr(both, "POSIX ADVISORY READ a 100 EOF\n"));
    CHECK(fcntl(fd, F_OFD_SETLK, &ofd) == 0);
    CHECK(strstr(locks_of(fd, getpid(), 0), "OFDLCK ADVISORY READ - 0 4\n") != NULL);
    pid_t child = CHILD(CHECK(fcntl(fd, F_SETLKW, &some) == 0));
    CHECK(wait_for_state(child, 'S'));
    CHECK(strstr(locks_of(fd, getpid(), child), "POSIX ADVISORY WRITE a 10 19\n-> POSIX ADVISORY WRITE b 10 19\n") != NULL);
    some.l_type = F_UNLCK;
    CHECK(fcntl(fd, F_SETLK, &some) == 0 && exit_of(child) == 0);
    CHECK(strstr(locks_of(fd, getpid(), child), "WRITE") == NULL);
}

CASE(flocks) {
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    CHECK(flock(fd, LOCK_EX) == 0);
    CHECK(!strcmp(locks_of(fd, getpid(), 0), "FLOCK ADVISORY WRITE a 0 EOF\n"));
    pid_t child = CHILD({
        int other = open("file", O_RDWR);
        CHECK(flock(other, LOCK_SH) == 0);
        pause();
    });
    CHECK(wait_for_state(child, 'S'));
    CHECK(!strcmp(locks_of(fd, getpid(), child), "FLOCK ADVISORY WRITE a 0 EOF\n-> FLOCK ADVISORY READ b 0 EOF\n"));
    CHECK(flock(fd, LOCK_UN) == 0);
    CHECK(wait_for_state(child, 'S'));
    for (int i = 0; i < 100 && strcmp(locks_of(fd, getpid(), child), "FLOCK ADVISORY READ b 0 EOF\n"); i++) sleep_ms(10);
    CHECK(!strcmp(locks_of(fd, getpid(), child), "FLOCK ADVISORY READ b 0 EOF\n"));
    kill(child, SIGKILL);
    reap(child);
    CHECK(!strcmp(locks_of(fd, getpid(), child), ""));
}

/* What /proc/net/unix says of a socket: flags, type, state, path. */
static const char *line_of(int fd) {
    static char found[256];
    struct stat status;
    char *save;
    fstat(fd, &status);
    for (char *line = strtok_r(content("/proc/net/unix"), "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned flags, type, state;
        long inode;
        int end = 0;
        if (sscanf(line, "%*s %*x %*x %x %x %x %ld%n", &flags, &type, &state, &inode, &end) == 4 && inode == (long)status.st_ino) {
            snprintf(found, sizeof found, "%x %x %x%s", flags, type, state, line + end);
            return found;
        }
    }
    return "none";
}

CASE(unix_sockets) {
    CHECK(!strncmp(content("/proc/net/unix"), "Num       RefCount Protocol Flags    Type St Inode Path\n", 56));
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0), abstract = socket(AF_UNIX, SOCK_DGRAM, 0), pair[2];
    CHECK(!strcmp(line_of(client), "0 1 1"));
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "here"}, other = {.sun_family = AF_UNIX};
    CHECK(bind(listener, (void *)&name, sizeof name) == 0 && !strcmp(line_of(listener), "0 1 1 here"));
    CHECK(listen(listener, 5) == 0 && !strcmp(line_of(listener), "10000 1 1 here"));
    CHECK(connect(client, (void *)&name, sizeof name) == 0 && !strcmp(line_of(client), "0 1 3"));
    int accepted = accept(listener, NULL, NULL);
    CHECK(!strcmp(line_of(accepted), "0 1 3 here"));
    int length = snprintf(other.sun_path + 1, 100, "check-%d", getpid());
    CHECK(bind(abstract, (void *)&other, offsetof(struct sockaddr_un, sun_path) + 1 + length) == 0);
    other.sun_path[0] = '@';
    char wanted[128];
    snprintf(wanted, sizeof wanted, "0 2 1 %s", other.sun_path);
    CHECK(!strcmp(line_of(abstract), wanted));
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && !strcmp(line_of(pair[1]), "0 5 3"));
}

CASE(terminal_drivers) {
    const char *drivers = content("/proc/tty/drivers");
    CHECK(strstr(drivers, "/dev/tty             /dev/tty        5       0 system:/dev/tty\n") != NULL);
    CHECK(strstr(drivers, "pty_slave            /dev/pts      136 0-1048575 pty:slave\n") != NULL);
}
