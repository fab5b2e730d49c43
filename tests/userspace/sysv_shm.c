// System V shared memory: segments, attachments, removal, permissions.
#include "check.h"
#include <sys/ipc.h>
#include <sys/shm.h>

static struct shmid_ds of(int id) {
    struct shmid_ds status = {0};
    CHECK(shmctl(id, IPC_STAT, &status) == 0);
    return status;
}

/* A segment that is gone when the case ends, however it ends: marked at once, it lives while it is attached. */
static int segment(size_t size, char **at) {
    int id = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    NEED(id >= 0);
    *at = shmat(id, NULL, 0);
    NEED(*at != (void *)-1);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    return id;
}

CASE(shared_with_a_child) {
    char *at;
    int id = segment(10000, &at);
    CHECK(at[0] == 0 && at[9999] == 0 && at[12287] == 0);
    CHECK(of(id).shm_dtime == 0 && of(id).shm_lpid == getpid());
    IN_CHILD({
        CHECK(of(id).shm_nattch == 2);
        strcpy(at, "from the child");
        char *again = shmat(id, NULL, 0);
        CHECK(again != (void *)-1 && again != at && !strcmp(again, at));
        CHECK(of(id).shm_nattch == 3);
        CHECK(shmdt(again) == 0);
    });
    CHECK(!strcmp(at, "from the child"));
    struct shmid_ds status = of(id);
    CHECK(status.shm_nattch == 1 && status.shm_segsz == 10000 && status.shm_cpid == getpid());
    CHECK((status.shm_perm.mode & 0777) == 0600 && (status.shm_perm.mode & SHM_DEST));
    CHECK(status.shm_perm.uid == geteuid() && status.shm_perm.cuid == geteuid() && status.shm_perm.gid == getegid());
    CHECK(status.shm_atime > 0 && status.shm_ctime > 0 && status.shm_dtime > 0);
    CHECK(shmdt(at) == 0);
    FAILS(shmctl(id, IPC_STAT, &status), EINVAL);
    FAILS((long)shmat(id, NULL, 0), EINVAL);
}

CASE(keys) {
    key_t key = 0x70000000 + getpid();
    FAILS(shmget(key, 100, 0600), ENOENT);
    int id = shmget(key, 100, IPC_CREAT | IPC_EXCL | 0600);
    NEED(id >= 0);
    CHECK(shmget(key, 100, 0) == id && shmget(key, 0, 0) == id && shmget(key, 1, IPC_CREAT | 0600) == id);
    FAILS(shmget(key, 100, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    FAILS(shmget(key, 101, 0600), EINVAL);
    FAILS(shmget(IPC_PRIVATE, 0, 0600), EINVAL);
    FAILS(shmget(IPC_PRIVATE, 1ul << 62, 0600), ENOMEM);
    FAILS(shmget(IPC_PRIVATE, 1ul << 63, 0600), EINVAL);
    FAILS(shmget(IPC_PRIVATE, -(1ul << 26), 0600), EINVAL);
    struct shmid_ds status = of(id);
    CHECK(status.shm_perm.__key == key && status.shm_nattch == 0 && status.shm_atime == 0);
    char line[64];
    snprintf(line, sizeof line, "%10d %10d   600 %21d", key, id, 100);
    CHECK(strstr(content("/proc/sysvipc/shm"), line) != NULL);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    FAILS(shmget(key, 100, 0600), ENOENT);
    FAILS(shmctl(id, IPC_RMID, NULL), EINVAL);
    FAILS(shmctl(-1, IPC_STAT, &status), EINVAL);
}

CASE(where_it_is_attached) {
    char *at;
    int id = segment(3 * 4096, &at);
    char *area = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS((long)shmat(id, area, 0), EINVAL);
    FAILS((long)shmat(id, area + 1, 0), EINVAL);
    FAILS((long)shmat(id, NULL, SHM_REMAP), EINVAL);
    CHECK(shmat(id, area + 4096, SHM_REMAP) == area + 4096);
    munmap(area + 65536, 65536);
    CHECK(shmat(id, area + 65536 + 5, SHM_RND) == area + 65536);
    at[1] = 'x';
    CHECK(area[4097] == 'x' && area[65537] == 'x');
    const char *readable = shmat(id, NULL, SHM_RDONLY);
    CHECK(readable[1] == 'x');
    FAILS(mprotect((void *)readable, 4096, PROT_READ | PROT_WRITE), EACCES);
    CHECK(of(id).shm_nattch == 4);
    /* A hole in the middle: shmdt takes the rest away. */
    CHECK(munmap(area + 4096 + 4096, 4096) == 0);
    CHECK(of(id).shm_nattch == 5);
    FAILS(shmdt(area + 3 * 4096), EINVAL);
    CHECK(shmdt(area + 4096) == 0);
    CHECK(of(id).shm_nattch == 3);
    FAILS(shmdt(area + 4096), EINVAL);
    FAILS(shmdt(area), EINVAL);
    FAILS(shmdt(&at), EINVAL);
    CHECK(strstr(content("/proc/self/maps"), "/SYSV00000000 (deleted)") != NULL);
}

CASE(an_end_detaches) {
    char *at;
    int id = segment(4096, &at);
    pid_t child = fork();
    if (child == 0) _exit(0);
    CHECK(exit_of(child) == 0);
    CHECK(of(id).shm_nattch == 1 && of(id).shm_dtime > 0);
    child = fork();
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    CHECK(exit_of(child) == 0);
    CHECK(of(id).shm_nattch == 1);
}

CASE(permissions) {
    char *at;
    int id = segment(4096, &at);
    struct shmid_ds status = of(id);
    status.shm_perm.mode = 0640;
    CHECK(shmctl(id, IPC_SET, &status) == 0 && (of(id).shm_perm.mode & 0777) == 0640);
    if (geteuid() != 0) SKIP("not root");
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        FAILS((long)shmat(id, NULL, 0), EACCES);
        FAILS(shmctl(id, IPC_STAT, &status), EACCES);
        FAILS(shmctl(id, IPC_RMID, NULL), EPERM);
        FAILS(shmctl(id, IPC_SET, &status), EPERM);
    });
    status.shm_perm.mode = 0644;
    CHECK(shmctl(id, IPC_SET, &status) == 0);
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        FAILS((long)shmat(id, NULL, 0), EACCES);
        CHECK(shmat(id, NULL, SHM_RDONLY) != (void *)-1);
        CHECK(shmctl(id, IPC_STAT, &status) == 0);
    });
}

CASE(totals) {
    char *at;
    struct shminfo limits;
    struct shm_info totals;
    int id = segment(8192, &at);
    at[0] = 1;
    CHECK(shmctl(0, IPC_INFO, (struct shmid_ds *)&limits) >= 0 && limits.shmmni >= 4096 && limits.shmmin == 1 && limits.shmmax > 1 << 30);
    CHECK(shmctl(0, SHM_INFO, (struct shmid_ds *)&totals) >= 0 && totals.used_ids >= 1 && totals.shm_tot >= 2 && totals.shm_rss >= 1);
    struct shmid_ds status;
    int highest = shmctl(0, SHM_INFO, (struct shmid_ds *)&totals), found = 0;
    for (int index = 0; index <= highest; index++) found += shmctl(index, SHM_STAT, &status) == id;
    CHECK(found == 1);
    FAILS(shmctl(id, 9999, &status), EINVAL);
    FAILS(shmctl(id, IPC_STAT, (void *)8), EFAULT);
}
