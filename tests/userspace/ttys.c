// Pseudo terminals: the line discipline, window size, controlling terminals, job control, hang-up.
#include "check.h"
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;
static char text[4096];
static bool make(void) {
    master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) return false;
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    return slave >= 0;
}
static ssize_t get(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    memset(text, 0, sizeof text);
    if (poll(&one, 1, 1000) != 1) return -2;
    return read(fd, text, sizeof text - 1);
}
static struct termios settings(void (*change)(struct termios *)) {
    struct termios t;
    tcgetattr(slave, &t);
    if (change) {
        change(&t);
        tcsetattr(slave, TCSANOW, &t);
    }
    return t;
}
static void raw(struct termios *t) { cfmakeraw(t); }
static void no_echo(struct termios *t) { t->c_lflag &= ~ECHO; }
static void show(const char *what) {
    char out[1000];
    int n = 0;
    for (char *c = text; *c && n < 900; c++)
        if (*c == '\n') n += sprintf(out + n, "\\n");
        else if (*c == '\r') n += sprintf(out + n, "\\r");
        else if (*c == '\b') n += sprintf(out + n, "\\b");
        else if ((unsigned char)*c < ' ') n += sprintf(out + n, "\\x%02x", *c);
        else out[n++] = *c;
    out[n] = 0;
    note("%s: %s", what, out);
}

CASE(a_pair) {
    NEED(make());
    CHECK(isatty(master) && isatty(slave));
    struct stat st;
    CHECK(fstat(slave, &st) == 0 && S_ISCHR(st.st_mode));
    CHECK(!strncmp(ptsname(master), "/dev/pts/", 9));
    CHECK(!strcmp(ttyname(slave), ptsname(master)));
    int number;
    CHECK(ioctl(master, TIOCGPTN, &number) == 0 && number == atoi(ptsname(master) + 9));
    int second = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(second >= 0);
    CHECK(open(ptsname(second), O_RDWR | O_NOCTTY) == -1 && errno == EIO); /* locked */
    char name[64];
    strcpy(name, ptsname(second));
    close(second);
    CHECK(open(name, O_RDWR | O_NOCTTY) == -1 || strcmp(name, ptsname(master))); /* gone, unless a neighbour took the number */
}

CASE(default_settings) {
    NEED(make());
    struct termios t = settings(NULL);
    note("%#o %#o %#o %#o", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
    for (int i = 0; i < 17; i++) note("cc[%d] = %d", i, t.c_cc[i]);
    note("%d %d", cfgetispeed(&t), cfgetospeed(&t));
}

CASE(canonical_lines) {
    NEED(make());
    write(master, "hel", 3);
    struct pollfd one = {slave, POLLIN, 0};
    CHECK(poll(&one, 1, 20) == 0); /* no line yet */
    write(master, "lo\rsecond\n", 10);
    CHECK(get(slave) == 6);
    show("line");
    CHECK(get(slave) == 7);
    get(master);
    show("echo");
    write(master, "partial", 7);
    write(master, "\004", 1);
    CHECK(get(slave) == 7);
    write(master, "\004", 1);
    CHECK(get(slave) == 0); /* end of file */
    write(master, "long line\n", 10);
    CHECK(read(slave, text, 4) == 4 && read(slave, text, 100) == 6);
}

CASE(editing) {
    NEED(make());
    write(master, "abcX\177d\n", 7);
    get(slave);
    show("erase");
    get(master);
    show("echo of erase");
    write(master, "gone\025kept\n", 10);
    get(slave);
    show("kill");
    write(master, "one two\027three\n", 14);
    get(slave);
    show("word erase");
    write(master, "a\026\003b\n", 5);
    get(slave);
    show("literal next");
    get(master);
    show("echoes");
}

CASE(output_processing) {
    NEED(make());
    write(slave, "a\nb\tc\r\n", 7);
    get(master);
    show("onlcr");
    struct termios t = settings(NULL);
    t.c_oflag &= ~OPOST;
    tcsetattr(slave, TCSADRAIN, &t);
    write(slave, "a\nb", 3);
    get(master);
    show("no opost");
}

CASE(raw_mode) {
    NEED(make());
    settings(raw);
    write(master, "x\003\r\n", 4);
    CHECK(get(slave) == 4);
    show("raw");
    struct pollfd one = {master, POLLIN, 0};
    CHECK(poll(&one, 1, 20) == 0); /* no echo */
    struct termios t = settings(NULL);
    t.c_cc[VMIN] = 3, t.c_cc[VTIME] = 0;
    tcsetattr(slave, TCSANOW, &t);
    write(master, "ab", 2);
    pid_t pid = CHILD({
        sleep_ms(50);
        write(master, "c", 1);
    });
    CHECK(read(slave, text, 10) == 3);
    exit_of(pid);
    t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 1;
    tcsetattr(slave, TCSANOW, &t);
    double start = now();
    CHECK(read(slave, text, 10) == 0);
    CHECK(now() - start > 0.08);
    t.c_cc[VTIME] = 0;
    tcsetattr(slave, TCSANOW, &t);
    CHECK(read(slave, text, 10) == 0);
}

CASE(control_echo) {
    NEED(make());
    write(master, "\001\n", 2);
    get(master);
    show("echoctl");
    settings(no_echo);
    write(master, "hidden\n", 7);
    get(slave);
    struct pollfd one = {master, POLLIN, 0};
    CHECK(poll(&one, 1, 20) == 0);
}

CASE(window_size) {
    NEED(make());
    struct winsize w;
    CHECK(ioctl(slave, TIOCGWINSZ, &w) == 0 && w.ws_row == 0);
    w = (struct winsize){40, 100, 0, 0};
    CHECK(ioctl(master, TIOCSWINSZ, &w) == 0);
    memset(&w, 0, sizeof w);
    CHECK(ioctl(slave, TIOCGWINSZ, &w) == 0 && w.ws_row == 40 && w.ws_col == 100);
    FAILS(ioctl(slave, TIOCGWINSZ, 16), EFAULT);
}

CASE(queues) {
    NEED(make());
    int n = -1;
    write(master, "abc\n", 4);
    sleep_ms(20);
    CHECK(ioctl(slave, FIONREAD, &n) == 0 && n == 4);
    CHECK(tcflush(slave, TCIFLUSH) == 0 && ioctl(slave, FIONREAD, &n) == 0 && n == 0);
    fcntl(slave, F_SETFL, O_NONBLOCK | O_RDWR);
    FAILS(read(slave, text, 1), EAGAIN);
    CHECK(tcdrain(slave) == 0);
    FAILS(tcflush(slave, 99), EINVAL);
    CHECK(tcflow(slave, TCOOFF) == 0 && tcflow(slave, TCOON) == 0);
}

CASE(hang_up) {
    NEED(make());
    write(slave, "last words", 10);
    close(slave);
    CHECK(get(master) == 10);
    FAILS(read(master, text, 1), EIO);
    struct pollfd one = {master, POLLIN | POLLOUT, 0};
    poll(&one, 1, 0);
    CHECK(one.revents & POLLHUP);
    NEED(make());
    close(master);
    CHECK(read(slave, text, 1) == 0);
    FAILS(write(slave, "x", 1), EIO);
}

/* A session leader on the slave: returns in the child with the terminal as 0, 1 and 2. */
static pid_t session(void) {
    NEED(make());
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        NEED(ioctl(slave, TIOCSCTTY, 0) == 0);
        dup2(slave, 0), dup2(slave, 1), dup2(slave, 2);
        close(master), close(slave);
    }
    return pid;
}

CASE(controlling_terminal) {
    pid_t pid = session();
    if (!pid) {
        int tty = open("/dev/tty", O_RDWR);
        pid_t group;
        bool good = tty >= 0 && tcgetsid(0) == getpid() && tcgetpgrp(0) == getpid() && ioctl(tty, TIOCGPGRP, &group) == 0 && group == getpid();
        write(tty, good ? "good\n" : "bad\n", good ? 5 : 4);
        sleep_ms(50);
        _exit(!good);
    }
    close(slave);
    get(master);
    show("child says");
    CHECK(exit_of(pid) == 0);
}

CASE(opening_a_terminal_takes_it) {
    NEED(make());
    pid_t pid = fork();
    if (!pid) {
        setsid();
        FAILS(open("/dev/tty", O_RDWR), ENXIO);
        int noctty = open(ptsname(master), O_RDWR | O_NOCTTY);
        FAILS(open("/dev/tty", O_RDWR), ENXIO);
        close(noctty);
        CHECK(open(ptsname(master), O_RDWR) >= 0);
        CHECK(open("/dev/tty", O_RDWR) >= 0);
        int tty = open("/dev/tty", O_RDWR);
        signal(SIGHUP, SIG_IGN);
        CHECK(ioctl(tty, TIOCNOTTY) == 0);
        FAILS(open("/dev/tty", O_RDWR), ENXIO);
        _exit(check_failures != 0);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(interrupt_character) {
    pid_t pid = session();
    if (!pid)
        for (;;) pause();
    sleep_ms(80);
    write(master, "\003", 1);
    CHECK(exit_of(pid) == 128 + SIGINT);
    get(master);
    show("echo");
    pid = session();
    if (!pid) {
        struct rlimit { unsigned long a, b; } none = {0, 0};
        syscall(SYS_setrlimit, 4, &none);
        for (;;) pause();
    }
    sleep_ms(80);
    write(master, "\034", 1);
    CHECK(exit_of(pid) == 128 + SIGQUIT);
}

CASE(suspend_character) {
    pid_t pid = session();
    if (!pid) {
        signal(SIGTSTP, SIG_IGN);
        signal(SIGTTOU, SIG_IGN);
        pid_t job = fork();
        if (!job) {
            setpgid(0, 0);
            tcsetpgrp(0, getpid());
            signal(SIGTSTP, SIG_DFL);
            signal(SIGTTOU, SIG_DFL);
            for (;;) pause();
        }
        int status;
        waitpid(job, &status, WUNTRACED);
        bool good = WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP;
        tcsetpgrp(0, getpid());
        kill(-job, SIGKILL);
        waitpid(job, &status, 0);
        _exit(!good);
    }
    sleep_ms(120);
    write(master, "\032", 1);
    CHECK(exit_of(pid) == 0);
}

CASE(background_reading_stops) {
    pid_t pid = session();
    if (!pid) {
        pid_t job = fork();
        if (!job) {
            setpgid(0, 0);
            char c;
            read(0, &c, 1);
            _exit(7);
        }
        int status;
        waitpid(job, &status, WUNTRACED);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTTIN) _exit(1);
        signal(SIGTTOU, SIG_IGN);
        tcsetpgrp(0, job);
        kill(-job, SIGCONT);
        waitpid(job, &status, 0);
        _exit(!(WIFEXITED(status) && WEXITSTATUS(status) == 7));
    }
    sleep_ms(150);
    write(master, "x\n", 2);
    CHECK(exit_of(pid) == 0);
}

CASE(background_writing_stops_with_tostop) {
    pid_t pid = session();
    if (!pid) {
        struct termios t;
        tcgetattr(0, &t);
        t.c_lflag |= TOSTOP;
        tcsetattr(0, TCSANOW, &t);
        pid_t job = fork();
        if (!job) {
            setpgid(0, 0);
            write(1, "x", 1);
            _exit(7);
        }
        int status;
        waitpid(job, &status, WUNTRACED);
        bool good = WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTOU;
        kill(-job, SIGKILL);
        waitpid(job, &status, 0);
        _exit(!good);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(orphaned_group_reads_fail) {
    pid_t pid = session();
    if (!pid) {
        int p[2];
        pipe(p);
        pid_t middle = fork();
        if (!middle) {
            if (fork() == 0) {
                setpgid(0, 0);
                sleep_ms(80);
                char c;
                errno = 0;
                ssize_t n = read(0, &c, 1);
                char good = n == -1 && errno == EIO;
                write(p[1], &good, 1);
                _exit(0);
            }
            _exit(0);
        }
        waitpid(middle, NULL, 0);
        char good = 0;
        read(p[0], &good, 1);
        _exit(!good);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(leader_exit_hangs_up_the_foreground) {
    int p[2];
    pipe(p);
    pid_t pid = session();
    if (!pid) {
        pid_t job = fork();
        if (!job) {
            for (;;) pause(); /* the same group: dies of SIGHUP */
        }
        write(p[1], &job, sizeof job);
        sleep_ms(50);
        _exit(0);
    }
    close(p[1]);
    pid_t job;
    read(p[0], &job, sizeof job);
    CHECK(exit_of(pid) == 0);
    char c;
    CHECK(read(p[0], &c, 1) == 0); /* the job held the pipe's last writer */
}

CASE(winch_signal) {
    pid_t pid = session();
    if (!pid) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGWINCH);
        sigprocmask(SIG_BLOCK, &set, NULL);
        write(1, "r", 1);
        int s;
        sigwait(&set, &s);
        struct winsize w;
        ioctl(0, TIOCGWINSZ, &w);
        _exit(w.ws_col == 77 ? 0 : 1);
    }
    close(slave);
    get(master);
    struct winsize w = {33, 77, 0, 0};
    ioctl(master, TIOCSWINSZ, &w);
    CHECK(exit_of(pid) == 0);
}

CASE(packet_and_excl) {
    NEED(make());
    int on = 1;
    CHECK(ioctl(master, TIOCPKT, &on) == 0);
    write(slave, "x", 1);
    CHECK(get(master) == 2 && text[0] == 0 && text[1] == 'x');
    int excl;
    CHECK(ioctl(slave, TIOCEXCL) == 0 && ioctl(slave, TIOCGEXCL, &excl) == 0 && excl == 1);
    CHECK(ioctl(slave, TIOCNXCL) == 0);
}

CASE(sti_and_errors) {
    NEED(make());
    FAILS(ioctl(slave, 0x5499, 0), ENOTTY);
    pid_t group;
    FAILS(ioctl(slave, TIOCGPGRP, &group), ENOTTY);
    FAILS(tcsetpgrp(slave, getpgrp()), ENOTTY);
    FAILS(lseek(slave, 0, SEEK_SET), ESPIPE);
    CHECK(ioctl(slave, TIOCGETD, &group) == 0 && group == 0);
}
