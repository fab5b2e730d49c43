/* The stress guest: a supervisor that forks workers, each of which does one kind of thing over and over and verifies every result.

   stressor BOARD MIX PROCESSES THREADS RAMP_MS RATE SEED KILLS_PER_SECOND [COMMAND...]

   MIX is kind:weight,...; RATE is operations a second of each worker (0: as fast as they go). Every worker counts into its slot of the board, and writes
   the first thing that was wrong there: a *finding*. Everything random comes from SEED and the worker's number, so that a finding can be had again. With
   KILLS_PER_SECOND the supervisor kills workers by SIGKILL and starts them anew, which must not disturb the others.

   Every worker holds canaries, private pages with a pattern of its own, and looks at them again and again: a store from elsewhere shows.  */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "board.h"

#define CANARY_WORDS (16 * 512) /* 64 KiB */
#define LOST_NS 20000000000LL   /* a wake-up, signal or child that has not come by then is lost */

static struct board_header *board;
static struct slot *slots;
static volatile struct slot *me;
static uint64_t rng, canary_seed, *canary;
static uint64_t interval_ns, next_ns;
static char **command;
static int threads_wanted;

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static uint64_t mix(uint64_t value) /* splitmix64 */
{
    value += 0x9e3779b97f4a7c15ULL;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

static uint64_t random_word(void) { return rng = mix(rng); }
static uint64_t below(uint64_t bound) { return random_word() % bound; }
static bool stopping(void) { return __atomic_load_n(&board->stop, __ATOMIC_RELAXED); }

static void finding(const char *format, ...)
{
    if (__atomic_fetch_add(&me->findings, 1, __ATOMIC_RELAXED) == 0) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf((char *)me->finding, FINDING, format, arguments);
        va_end(arguments);
    }
}

/* What the machine may refuse when it is full is an error, which is counted; anything else is a finding. */
static bool failed(const char *what)
{
    if (errno == EAGAIN || errno == ENOMEM || errno == ENOSPC || errno == EMFILE || errno == ENFILE) {
        me->errors++;
        usleep(1000);
    } else {
        finding("%s: %s", what, strerror(errno));
    }
    return false;
}

static void count(int64_t started, uint64_t bytes)
{
    uint64_t elapsed = (uint64_t)(now_ns() - started);
    unsigned bucket = (unsigned)elapsed;
    if (elapsed >= 8) {
        unsigned octave = 60 - (unsigned)__builtin_clzll(elapsed);
        bucket = ((octave + 1) << 3) + ((elapsed >> octave) & 7);
        if (bucket >= BUCKETS)
            bucket = BUCKETS - 1;
    }
    me->histogram[bucket]++;
    me->total_ns += elapsed;
    if (elapsed > me->longest_ns)
        me->longest_ns = elapsed;
    me->bytes += bytes;
    me->operations++;
}

/* -- canaries ----------------------------------------------------------------------------------------------------------------------- */

static void plant(uint64_t seed)
{
    canary_seed = seed;
    for (uint64_t index = 0; index < CANARY_WORDS; index++)
        canary[index] = mix(seed + index);
}

static void look_at_canary(void)
{
    for (uint64_t index = 0; index < CANARY_WORDS; index++)
        if (canary[index] != mix(canary_seed + index)) {
            finding("canary of pid %d: word %lu is %#lx, should be %#lx", getpid(), (unsigned long)index, (unsigned long)canary[index],
                    (unsigned long)mix(canary_seed + index));
            plant(canary_seed);
            return;
        }
}

static void fill(void *buffer, size_t size, uint64_t seed)
{
    uint64_t *words = buffer;
    for (size_t index = 0; index < size / 8; index++)
        words[index] = mix(seed + index);
}

static bool holds(const void *buffer, size_t size, uint64_t seed)
{
    const uint64_t *words = buffer;
    for (size_t index = 0; index < size / 8; index++)
        if (words[index] != mix(seed + index))
            return false;
    return true;
}

/* -- moving data -------------------------------------------------------------------------------------------------------------------- */

static bool write_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        data += done;
        size -= (size_t)done;
    }
    return true;
}

static bool read_all(int fd, char *data, size_t size)
{
    while (size) {
        ssize_t done = read(fd, data, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        data += done;
        size -= (size_t)done;
    }
    return true;
}

/* A partner process sends back what it gets, through a pipe or a unix socket: checksummed blocks that cross two processes. */
static pid_t partner;
static int to_partner = -1, from_partner = -1;

static void echo(int input, int output)
{
    static char block[16384];
    uint64_t size;
    while (read_all(input, (char *)&size, 8) && size <= sizeof block && read_all(input, block, size) && write_all(output, (char *)&size, 8) &&
           write_all(output, block, size))
        ;
    _exit(0);
}

static bool start_partner(bool sockets)
{
    int there[2], back[2];
    if (sockets ? socketpair(AF_UNIX, SOCK_STREAM, 0, there) : pipe(there))
        return failed("pipe");
    if (sockets) {
        back[0] = there[0];
        back[1] = there[1];
    } else if (pipe(back)) {
        close(there[0]), close(there[1]);
        return failed("pipe");
    }
    partner = fork();
    if (partner < 0) {
        close(there[0]), close(there[1]);
        if (!sockets)
            close(back[0]), close(back[1]);
        return failed("fork");
    }
    if (partner == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (sockets) {
            close(there[0]);
            echo(there[1], there[1]);
        }
        close(there[1]), close(back[0]);
        echo(there[0], back[1]);
    }
    if (sockets) {
        close(there[1]);
        to_partner = from_partner = there[0];
    } else {
        close(there[0]), close(back[1]);
        to_partner = there[1];
        from_partner = back[0];
    }
    return true;
}

static void end_partner(void)
{
    if (partner <= 0)
        return;
    close(to_partner);
    if (from_partner != to_partner)
        close(from_partner);
    int status;
    if (waitpid(partner, &status, 0) != partner || status)
        finding("partner ended with status %#x", status);
    partner = 0;
}

static void exchange(bool sockets)
{
    static char sent[16384], got[16384];
    if (!partner && !start_partner(sockets))
        return;
    uint64_t size = (1 + below(sizeof sent / 8)) * 8, seed = random_word(), said = 0;
    fill(sent, size, seed);
    int64_t started = now_ns();
    errno = 0;
    if (!write_all(to_partner, (char *)&size, 8) || !write_all(to_partner, sent, size) || !read_all(from_partner, (char *)&said, 8) || said != size ||
        !read_all(from_partner, got, size)) {
        failed(sockets ? "socket: an exchange broke off" : "pipe: an exchange broke off");
        end_partner(); /* it may hold part of a block */
        return;
    }
    count(started, 2 * size);
    if (!holds(got, size, seed))
        finding("%s: %lu bytes came back changed", sockets ? "socket" : "pipe", (unsigned long)size);
}

static void do_pipe(void) { exchange(false); }
static void do_socket(void) { exchange(true); }

/* -- fork: a child sees a copy, changes it, and the parent's stays -------------------------------------------------------------------- */

static void do_fork(void)
{
    uint64_t seed = canary_seed;
    int code = (int)below(200);
    int64_t started = now_ns();
    pid_t child = fork();
    if (child < 0) {
        failed("fork");
        return;
    }
    if (child == 0) {
        for (uint64_t index = 0; index < CANARY_WORDS; index += 509)
            if (canary[index] != mix(seed + index))
                _exit(250);
        memset(canary, code, CANARY_WORDS * 8);
        _exit(code);
    }
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR)
        ;
    count(started, 0);
    if (ended != child || !WIFEXITED(status) || WEXITSTATUS(status) != code)
        finding("child %d: waitpid gave %d, status %#x instead of exit %d", child, ended, status, code);
    look_at_canary();
}

/* -- memory --------------------------------------------------------------------------------------------------------------------------- */

static struct area {
    char *start;
    size_t size;
    uint64_t seed;
} areas[16];

static void do_mem(void)
{
    struct area *area = &areas[below(16)];
    int64_t started = now_ns();
    if (area->start == NULL) {
        area->size = (1 + below(32)) * 4096;
        area->start = mmap(NULL, area->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area->start == MAP_FAILED) {
            area->start = NULL;
            failed("mmap");
            return;
        }
        for (size_t place = 0; place < area->size; place += 4096)
            if (area->start[place]) {
                finding("fresh memory is not zero");
                break;
            }
        area->seed = random_word();
        fill(area->start, area->size, area->seed);
    } else if (!holds(area->start, area->size, area->seed)) {
        finding("private memory of pid %d at %p changed", getpid(), (void *)area->start);
        fill(area->start, area->size, area->seed);
    } else if (below(2)) {
        size_t grown = area->size + 8 * 4096;
        char *moved = mremap(area->start, area->size, grown, MREMAP_MAYMOVE);
        if (moved == MAP_FAILED) {
            failed("mremap");
            return;
        }
        area->start = moved;
        if (!holds(moved, area->size, area->seed))
            finding("mremap lost contents");
        if (munmap(moved + area->size, grown - area->size))
            failed("munmap");
    } else {
        if (munmap(area->start, area->size))
            failed("munmap");
        area->start = NULL;
    }
    count(started, area->size);
}

static void end_mem(void)
{
    for (int index = 0; index < 16; index++)
        if (areas[index].start != NULL) {
            if (!holds(areas[index].start, areas[index].size, areas[index].seed))
                finding("private memory of pid %d at %p changed", getpid(), (void *)areas[index].start);
            munmap(areas[index].start, areas[index].size);
            areas[index].start = NULL;
        }
}

/* -- threads and futexes: a token goes round; every wake-up must arrive, once ---------------------------------------------------------- */

static _Atomic uint32_t token, crew_ends;
static _Atomic uint64_t rounds;
static pthread_t crew[64];
static int crew_size;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t guarded, guarded_again;

static bool wait_token(uint32_t own, bool *lost)
{
    int64_t deadline = now_ns() + LOST_NS;
    for (;;) {
        uint32_t seen = atomic_load(&token);
        if (crew_ends)
            return false;
        if (seen == own)
            return true;
        struct timespec patience = {1, 0};
        if (syscall(SYS_futex, &token, FUTEX_WAIT_PRIVATE, seen, &patience, NULL, 0) < 0 && errno == ETIMEDOUT && now_ns() > deadline) {
            *lost = true;
            return false;
        }
    }
}

static void *crew_member(void *number)
{
    uint32_t own = (uint32_t)(uintptr_t)number;
    bool lost = false;
    while (wait_token(own, &lost)) {
        pthread_mutex_lock(&mutex);
        guarded++;
        sched_yield();
        guarded_again++;
        pthread_mutex_unlock(&mutex);
        rounds++;
        atomic_store(&token, (own + 1) % (uint32_t)(crew_size + 1));
        syscall(SYS_futex, &token, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
    }
    if (lost)
        finding("a wake-up of thread %u was lost", own);
    return NULL;
}

static void do_futex(void)
{
    if (!crew_size) {
        int wanted = threads_wanted > 64 ? 64 : threads_wanted;
        token = crew_ends = 0;
        crew_size = wanted; /* members compare with it */
        for (int index = 0; index < wanted; index++)
            if (pthread_create(&crew[index], NULL, crew_member, (void *)(uintptr_t)(index + 1))) {
                crew_ends = 1;
                while (index--)
                    pthread_join(crew[index], NULL);
                crew_size = 0;
                errno = EAGAIN;
                failed("pthread_create");
                return;
            }
    }
    uint64_t before = rounds;
    int64_t started = now_ns();
    atomic_store(&token, 1);
    syscall(SYS_futex, &token, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
    bool lost = false;
    if (!wait_token(0, &lost))
        finding("the token did not come back");
    count(started, 0);
    if (rounds - before != (uint64_t)crew_size)
        finding("%lu of %d threads had the token", (unsigned long)(rounds - before), crew_size);
    if (guarded != guarded_again)
        finding("a mutex let two in: %lu, %lu", (unsigned long)guarded, (unsigned long)guarded_again);
}

static void end_futex(void)
{
    if (!crew_size)
        return;
    crew_ends = 1;
    atomic_store(&token, ~0u);
    syscall(SYS_futex, &token, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
    for (int index = 0; index < crew_size; index++)
        pthread_join(crew[index], NULL);
    crew_size = 0;
}

/* -- files ------------------------------------------------------------------------------------------------------------------------------ */

struct names {
    char path[256], renamed[256];
};

static struct names names_of(pid_t worker)
{
    struct names names;
    const char *directory = getenv("TMPDIR");
    if (!directory || strlen(directory) > 200 || access(directory, W_OK | X_OK))
        directory = "/tmp";
    snprintf(names.path, sizeof names.path, "%s/stress-%d", directory, worker);
    snprintf(names.renamed, sizeof names.renamed, "%s/stress-%d.r", directory, worker);
    return names;
}

static void remove_files(pid_t worker) /* what a killed one had no time to remove */
{
    struct names names = names_of(worker);
    unlink(names.path);
    unlink(names.renamed);
}

static void do_fs(void)
{
    static char data[32768], got[32768];
    uint64_t seed = random_word(), size = (1 + below(sizeof data / 8)) * 8;
    struct names names = names_of(getpid());
    const char *path = names.path, *renamed = names.renamed;
    fill(data, size, seed);
    int64_t started = now_ns();
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0) {
        failed("open");
        return;
    }
    errno = 0;
    if (!write_all(fd, data, size)) {
        failed("write");
        close(fd);
        unlink(path);
        return;
    }
    struct stat status;
    if (fstat(fd, &status) || (uint64_t)status.st_size != size)
        finding("size of %s is %ld instead of %lu", path, (long)status.st_size, (unsigned long)size);
    if (rename(path, renamed))
        finding("rename: %s", strerror(errno));
    memset(got, 0, size);
    if (lseek(fd, 0, SEEK_SET) || !read_all(fd, got, size) || !holds(got, size, seed))
        finding("%s does not hold what was written", renamed);
    if (below(4) == 0) { /* the same through a map */
        char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            failed("mmap of a file");
        } else {
            if (!holds(map, size, seed))
                finding("the map of %s shows something else", renamed);
            map[0] ^= 1;
            char first;
            if (pread(fd, &first, 1, 0) != 1 || first != map[0])
                finding("a store to the map of %s is not in the file", renamed);
            munmap(map, size);
        }
    }
    close(fd);
    if (!access(path, F_OK))
        finding("%s is still there after rename", path);
    if (unlink(renamed))
        finding("unlink: %s", strerror(errno));
    count(started, 2 * size);
}

/* -- signals: real-time ones queue, in order, each once ----------------------------------------------------------------------------------- */

static volatile sig_atomic_t signals_seen, signals_wrong;
static int next_value;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    if (info->si_value.sival_int != next_value++)
        signals_wrong++;
    signals_seen++;
}

static void do_signal(void)
{
    int burst = 1 + (int)below(16);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGRTMIN + 3, &action, NULL);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    signals_seen = signals_wrong = 0;
    next_value = 0;
    int64_t started = now_ns();
    sigprocmask(SIG_BLOCK, &set, &old);
    for (int index = 0; index < burst; index++) {
        union sigval value = {.sival_int = index};
        if (sigqueue(getpid(), SIGRTMIN + 3, value))
            finding("sigqueue: %s", strerror(errno));
    }
    if (signals_seen)
        finding("a blocked signal was delivered");
    sigprocmask(SIG_SETMASK, &old, NULL);
    int64_t deadline = now_ns() + LOST_NS;
    while (signals_seen < burst && now_ns() < deadline)
        sched_yield();
    count(started, 0);
    if (signals_seen != burst || signals_wrong)
        finding("%d of %d signals came, %d out of order", (int)signals_seen, burst, (int)signals_wrong);
}

/* -- the caller's own command: its exit status is the verdict ------------------------------------------------------------------------------ */

static void do_command(void)
{
    int64_t started = now_ns();
    pid_t child = fork();
    if (child < 0) {
        failed("fork");
        return;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(command[0], command);
        _exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    count(started, 0);
    if (status)
        finding("%s ended with %s %d", command[0], WIFEXITED(status) ? "exit status" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static void nothing(void) {}

static const struct kind {
    const char *name;
    void (*once)(void);
    void (*end)(void);
} kinds[] = {{"pipe", do_pipe, end_partner}, {"socket", do_socket, end_partner}, {"fork", do_fork, nothing},       {"mem", do_mem, end_mem},
             {"futex", do_futex, end_futex}, {"fs", do_fs, nothing},             {"signal", do_signal, nothing},   {"command", do_command, nothing}};
#define KINDS (int)(sizeof kinds / sizeof kinds[0])

/* -- workers --------------------------------------------------------------------------------------------------------------------------- */

static int open_descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL)
        return -1;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

static void work(int number, uint64_t seed, int64_t ramp_ns)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    me = &slots[number];
    me->pid = (uint64_t)getpid();
    rng = mix(seed ^ mix((uint64_t)number + (me->restarts << 32)));
    me->seed = rng;
    canary = mmap(NULL, CANARY_WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (canary == MAP_FAILED) {
        failed("mmap");
        _exit(1);
    }
    plant(random_word());
    const struct kind *kind = &kinds[me->kind];
    if (me->restarts)
        ramp_ns = 0;
    while (!stopping() && now_ns() - ramp_ns < (int64_t)__atomic_load_n(&board->started, __ATOMIC_RELAXED))
        usleep(10000);
    int before = open_descriptors();
    me->state = 1;
    next_ns = (uint64_t)now_ns();
    for (uint64_t done = 0; !stopping(); done++) {
        kind->once();
        if (done % 64 == 0)
            look_at_canary();
        if (interval_ns) {
            next_ns += interval_ns;
            int64_t wait = (int64_t)next_ns - now_ns();
            while (wait > 0 && !stopping()) {
                usleep((useconds_t)((wait > 50000000 ? 50000000 : wait) / 1000));
                wait = (int64_t)next_ns - now_ns();
            }
        }
    }
    kind->end();
    look_at_canary();
    int after = open_descriptors();
    if (before >= 0 && after >= 0 && after != before)
        finding("%d descriptors were open before, %d are now", before, after);
    int status;
    if (waitpid(-1, &status, WNOHANG) != -1 || errno != ECHILD)
        finding("a child is left");
    me->state = 2;
    _exit(0);
}

static int kind_named(const char *name, size_t length)
{
    for (int index = 0; index < KINDS; index++)
        if (strlen(kinds[index].name) == length && memcmp(kinds[index].name, name, length) == 0)
            return index;
    fprintf(stderr, "stressor: no kind %.*s\n", (int)length, name);
    exit(2);
}

static int *spread(const char *text, int processes) /* kinds of the workers, evenly by weight */
{
    static int weights[KINDS];
    int total = 0, *chosen = calloc((size_t)processes, sizeof *chosen);
    for (const char *part = text; *part;) {
        size_t length = strcspn(part, ":,");
        int weight = part[length] == ':' ? atoi(part + length + 1) : 1;
        weights[kind_named(part, length)] += weight;
        total += weight;
        part += strcspn(part, ",");
        part += *part == ',';
    }
    static long credit[KINDS];
    for (int worker = 0; worker < processes; worker++) {
        int best = 0;
        for (int kind = 0; kind < KINDS; kind++) {
            credit[kind] += weights[kind];
            if (credit[kind] > credit[best])
                best = kind;
        }
        credit[best] -= total;
        chosen[worker] = best;
    }
    return chosen;
}

static pid_t start_worker(int number, uint64_t seed, int64_t ramp_ns)
{
    for (;;) {
        pid_t pid = fork();
        if (pid == 0)
            work(number, seed, ramp_ns);
        if (pid > 0 || (errno != EAGAIN && errno != ENOMEM) || stopping())
            return pid;
        slots[number].errors++;
        usleep(10000);
    }
}

int main(int argc, char **argv)
{
    if (argc < 9)
        return 2;
    int fd = open(argv[1], O_RDWR);
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        return perror(argv[1]), 2;
    board = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED || board->magic != BOARD_MAGIC)
        return fprintf(stderr, "stressor: %s is no board\n", argv[1]), 2;
    close(fd);
    slots = (struct slot *)(board + 1);
    int processes = atoi(argv[3]);
    threads_wanted = atoi(argv[4]);
    int64_t ramp_ns = atoll(argv[5]) * 1000000;
    double rate = atof(argv[6]), kills = atof(argv[8]);
    uint64_t seed = strtoull(argv[7], NULL, 0);
    interval_ns = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    command = argc > 9 ? argv + 9 : NULL;
    int *kind = spread(argv[2], processes);
    pid_t *pids = calloc((size_t)processes, sizeof *pids);
    uint64_t supervisor_rng = mix(seed ^ 0x5bd1e995);
    int left = 0;
    for (int number = 0; number < processes; number++) {
        slots[number].kind = (uint64_t)kind[number];
        pids[number] = start_worker(number, seed, processes > 1 ? ramp_ns * number / (processes - 1) : 0);
        left += pids[number] > 0;
    }
    printf("%d workers\n", left);
    fflush(stdout);
    int64_t next_kill = now_ns() + ramp_ns + (kills > 0 ? (int64_t)(1e9 / kills) : 0);
    while (left) {
        int code;
        pid_t pid = waitpid(-1, &code, WNOHANG);
        if (pid > 0) {
            int number = 0;
            while (number < processes && pids[number] != pid)
                number++;
            if (number == processes)
                continue;
            me = &slots[number];
            remove_files(pid);
            bool killed = WIFSIGNALED(code) && WTERMSIG(code) == SIGKILL && me->kills > me->restarts;
            if (!killed && code)
                finding("worker %d ended with status %#x", number, code);
            if (killed && !stopping()) {
                me->restarts++;
                me->state = 3;
                pids[number] = start_worker(number, seed, 0);
                if (pids[number] > 0)
                    continue;
            }
            if (killed)
                me->state = 2; /* at the very end: nobody in its place is needed */
            left--;
            pids[number] = 0;
            continue;
        }
        if (pid < 0 && errno == ECHILD)
            break;
        if (kills > 0 && !stopping() && now_ns() >= next_kill) {
            supervisor_rng = mix(supervisor_rng);
            int victim = (int)(supervisor_rng % (uint64_t)processes);
            if (pids[victim] > 0 && slots[victim].state == 1) {
                slots[victim].kills++;
                kill(pids[victim], SIGKILL);
            }
            next_kill += (int64_t)(1e9 / kills);
            continue;
        }
        usleep(20000);
    }
    return 0;
}
