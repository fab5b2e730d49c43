// System V semaphores: sets, atomic operations, waiting, undo, permissions.
#include "check.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>

union semun { int val; struct semid_ds *buf; unsigned short *array; struct seminfo *info; };

static void remove_set(const int *id) { semctl(*id, 0, IPC_RMID); }
static int set_of(int count) {
    int id = semget(IPC_PRIVATE, count, IPC_CREAT | 0600);
    NEED(id >= 0);
    return id;
}
/* A set that is gone when the case ends. */
#define SET(id, count) __attribute__((cleanup(remove_set))) int id = set_of(count)

static int get(int id, int number) { return semctl(id, number, GETVAL); }
static int set(int id, int number, int value) { return semctl(id, number, SETVAL, (union semun){.val = value}); }
static int op(int id, int number, int change, int flags) {
    struct sembuf one = {number, change, flags};
    return semop(id, &one, 1);
}
static bool wait_for_count(int id, int number, int command, int count) {
    for (int i = 0; i < 500; i++) {
        if (semctl(id, number, command) == count) return true;
        sleep_ms(10);
    }
    return false;
}

CASE(keys_and_ids) {
    key_t key = 0x71000000 + getpid();
    FAILS(semget(key, 1, 0600), ENOENT);
    int id = semget(key, 3, IPC_CREAT | IPC_EXCL | 0640);
    NEED(id >= 0);
    CHECK(semget(key, 0, 0) == id && semget(key, 3, 0) == id && semget(key, 1, IPC_CREAT | 0600) == id);
    FAILS(semget(key, 3, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    FAILS(semget(key, 4, 0600), EINVAL);
    FAILS(semget(IPC_PRIVATE, 0, 0600), EINVAL);
    FAILS(semget(IPC_PRIVATE, -1, 0600), EINVAL);
    FAILS(semget(IPC_PRIVATE, 32001, 0600), EINVAL);
    struct semid_ds status = {0};
    CHECK(semctl(id, 0, IPC_STAT, (union semun){.buf = &status}) == 0);
    CHECK(status.sem_perm.__key == key && status.sem_nsems == 3 && status.sem_otime == 0 && status.sem_ctime > 0);
    CHECK(status.sem_perm.mode == 0640 && status.sem_perm.uid == geteuid() && status.sem_perm.cgid == getegid());
    char line[64];
    snprintf(line, sizeof line, "%10d %10d   640 %10d", key, id, 3);
    CHECK(strstr(content("/proc/sysvipc/sem"), line) != NULL);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
    FAILS(semget(key, 3, 0600), ENOENT);
    FAILS(semctl(id, 0, IPC_RMID), EINVAL);
    /* The place is taken again, by another id. */
    int other = semget(key, 1, IPC_CREAT | 0600);
    CHECK(other >= 0 && other != id);
    FAILS(get(id, 0), EINVAL);
    CHECK(semctl(other, 0, IPC_RMID) == 0);
    FAILS(get(-1, 0), EINVAL);
}

CASE(values) {
    SET(id, 3);
    unsigned short all[3] = {1, 2, 3}, seen[3];
    CHECK(get(id, 0) == 0 && get(id, 2) == 0 && semctl(id, 0, GETPID) == 0);
    CHECK(semctl(id, 0, SETALL, (union semun){.array = all}) == 0 && get(id, 2) == 3);
    CHECK(set(id, 1, 32767) == 0 && semctl(id, 0, GETALL, (union semun){.array = seen}) == 0 && seen[1] == 32767 && seen[0] == 1);
    CHECK(semctl(id, 1, GETPID) == getpid());
    FAILS(set(id, 0, 32768), ERANGE);
    FAILS(set(id, 0, -1), ERANGE);
    FAILS(set(id, 3, 0), EINVAL);
    FAILS(get(id, -1), EINVAL);
    FAILS(semctl(id, 3, GETNCNT), EINVAL);
    all[1] = 40000;
    FAILS(semctl(id, 0, SETALL, (union semun){.array = all}), ERANGE);
    FAILS(semctl(id, 0, SETALL, (union semun){.array = (void *)8}), EFAULT);
    FAILS(semctl(id, 0, GETALL, (union semun){.array = (void *)8}), EFAULT);
    FAILS(semctl(id, 0, 9999), EINVAL);
    CHECK(get(id, 1) == 32767);
}

CASE(all_or_none) {
    SET(id, 3);
    set(id, 0, 5);
    struct sembuf ops[] = {{0, -2, 0}, {1, 3, 0}, {2, -1, IPC_NOWAIT}};
    FAILS(semop(id, ops, 3), EAGAIN);
    CHECK(get(id, 0) == 5 && get(id, 1) == 0);
    ops[2].sem_op = 0;
    CHECK(semop(id, ops, 3) == 0 && get(id, 0) == 3 && get(id, 1) == 3);
    struct semid_ds status;
    CHECK(semctl(id, 0, IPC_STAT, (union semun){.buf = &status}) == 0 && status.sem_otime > 0);
    /* In order, on what the ones before have left. */
    struct sembuf chain[] = {{0, 2, 0}, {0, -5, 0}, {0, 0, 0}, {0, 1, 0}};
    CHECK(semop(id, chain, 4) == 0 && get(id, 0) == 1);
    FAILS(op(id, 0, 32767, 0), ERANGE);
    FAILS(op(id, 0, 0, IPC_NOWAIT), EAGAIN);
    FAILS(op(id, 3, 1, 0), EFBIG);
    FAILS(semop(id, ops, 0), EINVAL);
    FAILS(semop(-1, ops, 1), EINVAL);
    FAILS(semop(id, (void *)8, 1), EFAULT);
    struct sembuf many[501] = {0};
    FAILS(semop(id, many, 501), E2BIG);
}

CASE(waiting_for_a_value) {
    SET(id, 2);
    pid_t child = CHILD({
        struct sembuf both[] = {{0, -2, 0}, {1, -1, 0}};
        CHECK(semop(id, both, 2) == 0);
    });
    CHECK(wait_for_count(id, 0, GETNCNT, 1) && semctl(id, 1, GETNCNT) == 0 && semctl(id, 0, GETZCNT) == 0);
    CHECK(op(id, 0, 3, 0) == 0);
    CHECK(wait_for_count(id, 1, GETNCNT, 1) && semctl(id, 0, GETNCNT) == 0 && get(id, 0) == 3); /* nothing was taken yet */
    CHECK(set(id, 1, 1) == 0);
    CHECK(exit_of(child) == 0);
    CHECK(get(id, 0) == 1 && get(id, 1) == 0 && semctl(id, 0, GETPID) == child);
}

CASE(waiting_for_zero) {
    SET(id, 1);
    set(id, 0, 2);
    pid_t first = CHILD(CHECK(op(id, 0, 0, 0) == 0)), second = CHILD(CHECK(op(id, 0, 0, 0) == 0));
    CHECK(wait_for_count(id, 0, GETZCNT, 2));
    CHECK(op(id, 0, -1, 0) == 0 && semctl(id, 0, GETZCNT) == 2);
    CHECK(op(id, 0, -1, 0) == 0);
    CHECK(exit_of(first) == 0 && exit_of(second) == 0 && semctl(id, 0, GETZCNT) == 0);
}

CASE(first_come_first_served) {
    SET(id, 1);
    pid_t child[3];
    for (int i = 0; i < 3; i++) {
        child[i] = CHILD(CHECK(op(id, 0, -1, 0) == 0));
        CHECK(wait_for_count(id, 0, GETNCNT, i + 1));
    }
    for (int i = 0; i < 3; i++) {
        CHECK(op(id, 0, 1, 0) == 0);
        CHECK(exit_of(child[i]) == 0);
    }
}

CASE(a_small_one_overtakes) {
    SET(id, 1);
    pid_t big = CHILD(CHECK(op(id, 0, -3, 0) == 0));
    CHECK(wait_for_count(id, 0, GETNCNT, 1));
    CHECK(op(id, 0, 2, 0) == 0 && op(id, 0, -1, IPC_NOWAIT) == 0);
    CHECK(op(id, 0, 2, 0) == 0 && exit_of(big) == 0 && get(id, 0) == 0);
}

CASE(removal_ends_waits) {
    SET(id, 1);
    pid_t child = CHILD(FAILS(op(id, 0, -1, 0), EIDRM)), zero;
    CHECK(wait_for_count(id, 0, GETNCNT, 1));
    SET(other, 1);
    set(other, 0, 1);
    zero = CHILD(FAILS(op(other, 0, 0, 0), EIDRM));
    CHECK(wait_for_count(other, 0, GETZCNT, 1));
    CHECK(semctl(id, 0, IPC_RMID) == 0 && semctl(other, 0, IPC_RMID) == 0);
    CHECK(exit_of(child) == 0 && exit_of(zero) == 0);
    FAILS(op(id, 0, 1, 0), EINVAL);
}

CASE(timeouts) {
    SET(id, 1);
    struct sembuf take = {0, -1, 0};
    struct timespec short_time = {0, 30000000}, none = {0, 0}, bad = {0, 1000000000};
    double before = now();
    FAILS(semtimedop(id, &take, 1, &short_time), EAGAIN);
    CHECK(now() - before >= 0.03);
    FAILS(semtimedop(id, &take, 1, &none), EAGAIN);
    FAILS(semtimedop(id, &take, 1, &bad), EINVAL);
    FAILS(syscall(SYS_semtimedop, id, &take, 1, 8), EFAULT);
    CHECK(semctl(id, 0, GETNCNT) == 0);
    set(id, 0, 1);
    CHECK(semtimedop(id, &take, 1, &short_time) == 0);
}

static void nothing(int signo) { (void)signo; }

CASE(signals_interrupt_and_never_restart) {
    SET(id, 1);
    pid_t child = CHILD({
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, NULL);
        FAILS(op(id, 0, -1, 0), EINTR);
    });
    CHECK(wait_for_count(id, 0, GETNCNT, 1));
    kill(child, SIGUSR1);
    CHECK(exit_of(child) == 0 && semctl(id, 0, GETNCNT) == 0);
    child = CHILD(op(id, 0, -1, 0));
    CHECK(wait_for_count(id, 0, GETNCNT, 1));
    kill(child, SIGKILL);
    CHECK(exit_of(child) == 128 + SIGKILL && semctl(id, 0, GETNCNT) == 0);
}

CASE(undo_at_exit) {
    SET(id, 2);
    set(id, 0, 5);
    IN_CHILD({
        struct sembuf ops[] = {{0, -2, SEM_UNDO}, {1, 3, SEM_UNDO}, {1, 1, 0}};
        CHECK(semop(id, ops, 3) == 0 && get(id, 0) == 3 && get(id, 1) == 4);
    });
    CHECK(get(id, 0) == 5 && get(id, 1) == 1);
    /* Whoever waits gets it, however the holder ends. */
    set(id, 0, 1);
    pid_t holder = CHILD({
        CHECK(op(id, 0, -1, SEM_UNDO) == 0);
        pause();
    });
    CHECK(wait_for_state(holder, 'S'));
    pid_t waiter = CHILD(CHECK(op(id, 0, -1, SEM_UNDO) == 0));
    CHECK(wait_for_count(id, 0, GETNCNT, 1));
    kill(holder, SIGKILL);
    CHECK(exit_of(holder) == 128 + SIGKILL && exit_of(waiter) == 0);
    CHECK(get(id, 0) == 1);
    /* Never below zero; and SETVAL forgets what was owed. */
    IN_CHILD({
        CHECK(op(id, 0, 5, SEM_UNDO) == 0 && op(id, 0, -6, 0) == 0);
        CHECK(op(id, 1, 2, SEM_UNDO) == 0 && set(id, 1, 7) == 0);
    });
    CHECK(get(id, 0) == 0 && get(id, 1) == 7);
    IN_CHILD({
        CHECK(op(id, 0, 32767, SEM_UNDO) == 0);
        CHECK(op(id, 0, -32767, 0) == 0);
        CHECK(op(id, 0, 1, SEM_UNDO) == 0);
        FAILS(op(id, 0, 1, SEM_UNDO), ERANGE); /* the undo would be below -32768 */
    });
}

static void *take_with_undo(void *id) {
    CHECK(op(*(int *)id, 0, -1, SEM_UNDO) == 0);
    return NULL;
}

CASE(undo_belongs_to_the_process) {
    SET(id, 1);
    set(id, 0, 1);
    IN_CHILD({
        pthread_t thread;
        pthread_create(&thread, NULL, take_with_undo, &id);
        pthread_join(thread, NULL);
        CHECK(get(id, 0) == 0); /* the thread ended, the process has not */
        IN_CHILD(_exit(0));     /* nor has a child anything to undo */
        CHECK(get(id, 0) == 0);
        CHECK(unshare(CLONE_SYSVSEM) == 0 && get(id, 0) == 1);
        CHECK(op(id, 0, -1, SEM_UNDO) == 0);
        execl("/bin/sleep", "sleep", "0", NULL);
    });
    CHECK(get(id, 0) == 1);
}

CASE(permissions) {
    if (geteuid() != 0) SKIP("not root");
    SET(id, 1);
    struct semid_ds status;
    CHECK(semctl(id, 0, IPC_STAT, (union semun){.buf = &status}) == 0);
    status.sem_perm.mode = 0604;
    CHECK(semctl(id, 0, IPC_SET, (union semun){.buf = &status}) == 0);
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        CHECK(get(id, 0) == 0 && op(id, 0, 0, 0) == 0);
        FAILS(op(id, 0, 1, 0), EACCES);
        FAILS(set(id, 0, 1), EACCES);
        FAILS(semctl(id, 0, IPC_SET, (union semun){.buf = &status}), EPERM);
        FAILS(semctl(id, 0, IPC_RMID), EPERM);
    });
    status.sem_perm.uid = 1000;
    CHECK(semctl(id, 0, IPC_SET, (union semun){.buf = &status}) == 0);
    status.sem_perm.gid = -1;
    FAILS(semctl(id, 0, IPC_SET, (union semun){.buf = &status}), EINVAL);
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        CHECK(op(id, 0, 1, 0) == 0 && semctl(id, 0, IPC_RMID) == 0);
    });
    FAILS(get(id, 0), EINVAL);
}

CASE(totals) {
    SET(id, 7);
    struct seminfo info;
    int highest = semctl(0, 0, SEM_INFO, (union semun){.info = &info}), found = 0;
    CHECK(highest >= 0 && info.semusz >= 1 && info.semaem >= 7 && info.semvmx == 32767);
    CHECK(semctl(0, 0, IPC_INFO, (union semun){.info = &info}) == highest && info.semaem == 32767 && info.semopm == 500 && info.semmsl == 32000);
    struct semid_ds status;
    for (int index = 0; index <= highest; index++) found += semctl(index, 0, SEM_STAT, (union semun){.buf = &status}) == id;
    CHECK(found == 1);
    FAILS(semctl(highest + 1, 0, SEM_STAT, (union semun){.buf = &status}), EINVAL);
    CHECK(!strncmp(content("/proc/sys/kernel/sem"), "32000\t1024000000\t500\t32000\n", 26));
}
