// System V message queues: types, order, waiting on both sides, limits, permissions.
#include "check.h"
#include <limits.h>
#include <sys/ipc.h>
#include <sys/msg.h>

struct packet {
    long type;
    char text[8192];
};

static void remove_queue(const int *id) { msgctl(*id, IPC_RMID, NULL); }
/* A queue that is gone when the case ends. */
#define QUEUE(id)                                                                                                                                    \
    __attribute__((cleanup(remove_queue))) int id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);                                                           \
    NEED(id >= 0)

static int put_text(int id, long type, const char *text, int flags) {
    struct packet packet = {.type = type};
    strcpy(packet.text, text);
    return msgsnd(id, &packet, strlen(text), flags);
}
static bool take(int id, long type, int flags, long got, const char *text) {
    struct packet packet = {0};
    ssize_t n = msgrcv(id, &packet, sizeof packet.text, type, flags);
    return n == (ssize_t)strlen(text) && packet.type == got && !memcmp(packet.text, text, n);
}
static struct msqid_ds of(int id) {
    struct msqid_ds status = {0};
    CHECK(msgctl(id, IPC_STAT, &status) == 0);
    return status;
}

CASE(keys_and_ids) {
    key_t key = 0x72000000 + getpid();
    FAILS(msgget(key, 0600), ENOENT);
    int id = msgget(key, IPC_CREAT | IPC_EXCL | 0640);
    NEED(id >= 0);
    CHECK(msgget(key, 0) == id && msgget(key, IPC_CREAT | 0600) == id);
    FAILS(msgget(key, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    struct msqid_ds status = of(id);
    CHECK(status.msg_perm.__key == key && status.msg_perm.mode == 0640 && status.msg_perm.cuid == geteuid());
    CHECK(status.msg_qnum == 0 && status.msg_qbytes == 16384 && status.msg_stime == 0 && status.msg_lspid == 0 && status.msg_ctime > 0);
    CHECK(put_text(id, 1, "hello", 0) == 0);
    char line[64];
    snprintf(line, sizeof line, "%10d %10d   640  %10d %10d %5d", key, id, 5, 1, getpid());
    CHECK(strstr(content("/proc/sysvipc/msg"), line) != NULL);
    CHECK(msgctl(id, IPC_RMID, NULL) == 0);
    FAILS(msgget(key, 0600), ENOENT);
    FAILS(msgctl(id, IPC_RMID, NULL), EINVAL);
    FAILS(msgctl(-1, IPC_STAT, &status), EINVAL);
}

CASE(types_and_order) {
    QUEUE(id);
    put_text(id, 3, "three", 0), put_text(id, 1, "one", 0), put_text(id, 2, "two", 0), put_text(id, 1, "another one", 0), put_text(id, 3, "", 0);
    struct msqid_ds status = of(id);
    CHECK(status.msg_qnum == 5 && status.__msg_cbytes == 22 && status.msg_lspid == getpid() && status.msg_lrpid == 0 && status.msg_stime > 0);
    CHECK(take(id, 2, 0, 2, "two"));
    CHECK(take(id, -2, 0, 1, "one"));
    CHECK(take(id, 3, MSG_EXCEPT, 1, "another one"));
    CHECK(take(id, 0, MSG_COPY | IPC_NOWAIT, 3, "three") || errno == ENOSYS);
    CHECK(take(id, 0, 0, 3, "three"));
    CHECK(take(id, LONG_MIN, 0, 3, ""));
    struct packet packet;
    FAILS(msgrcv(id, &packet, 10, 0, IPC_NOWAIT), ENOMSG);
    FAILS(msgrcv(id, &packet, 10, 5, MSG_COPY), EINVAL);
    status = of(id);
    CHECK(status.msg_qnum == 0 && status.__msg_cbytes == 0 && status.msg_lrpid == getpid() && status.msg_rtime > 0);
}

CASE(lengths) {
    QUEUE(id);
    struct packet packet = {.type = 1};
    FAILS(msgsnd(id, &packet, 8193, 0), EINVAL);
    FAILS(msgsnd(id, &packet, -1, 0), EINVAL);
    FAILS(msgrcv(id, &packet, -1, 0, 0), EINVAL);
    packet.type = 0;
    FAILS(msgsnd(id, &packet, 1, 0), EINVAL);
    FAILS(msgsnd(id, (void *)8, 1, 0), EFAULT);
    FAILS(msgsnd(-1, &(struct packet){.type = 1}, 1, 0), EINVAL);
    CHECK(put_text(id, 1, "longer than asked", 0) == 0);
    FAILS(msgrcv(id, &packet, 6, 0, 0), E2BIG);
    CHECK(of(id).msg_qnum == 1);
    CHECK(msgrcv(id, &packet, 6, 0, MSG_NOERROR) == 6 && !memcmp(packet.text, "longer", 6) && of(id).msg_qnum == 0);
    put_text(id, 1, "lost", 0);
    FAILS(msgrcv(id, (void *)8, 6, 0, 0), EFAULT);
    CHECK(of(id).msg_qnum == 0);
}

CASE(receivers_wait) {
    QUEUE(id);
    pid_t two = CHILD(CHECK(take(id, 2, 0, 2, "for two"))), any = CHILD({
        CHECK(wait_for_state(two, 'S'));
        CHECK(take(id, 0, 0, 1, "for any"));
    });
    CHECK(wait_for_state(two, 'S'));
    sleep_ms(50);
    CHECK(wait_for_state(any, 'S'));
    CHECK(put_text(id, 1, "for any", 0) == 0);
    CHECK(exit_of(any) == 0 && of(id).msg_lrpid == any);
    CHECK(put_text(id, 2, "for two", 0) == 0);
    CHECK(exit_of(two) == 0);
    pid_t narrow = CHILD({
        struct packet packet;
        FAILS(msgrcv(id, &packet, 3, 0, 0), E2BIG);
    });
    CHECK(wait_for_state(narrow, 'S'));
    CHECK(put_text(id, 1, "wide", 0) == 0 && exit_of(narrow) == 0 && of(id).msg_qnum == 1); /* it is still there */
}

CASE(senders_wait_for_room) {
    QUEUE(id);
    struct packet packet = {.type = 1};
    CHECK(msgsnd(id, &packet, 8192, 0) == 0 && msgsnd(id, &packet, 8192, 0) == 0);
    FAILS(msgsnd(id, &packet, 1, IPC_NOWAIT), EAGAIN);
    CHECK(msgsnd(id, &packet, 0, IPC_NOWAIT) == 0);
    pid_t child = CHILD(CHECK(put_text(id, 7, "at last", 0) == 0));
    CHECK(wait_for_state(child, 'S'));
    CHECK(msgrcv(id, &packet, sizeof packet.text, 0, 0) == 8192);
    CHECK(exit_of(child) == 0 && take(id, 7, 0, 7, "at last"));
    /* The limit counts, and a larger one lets a sender go on. */
    struct msqid_ds status = of(id);
    status.msg_qbytes = 10;
    CHECK(msgctl(id, IPC_SET, &status) == 0);
    FAILS(put_text(id, 1, "0123456789", IPC_NOWAIT), EAGAIN);
    child = CHILD(CHECK(put_text(id, 8, "0123456789", 0) == 0));
    CHECK(wait_for_state(child, 'S'));
    status.msg_qbytes = 16384;
    CHECK(msgctl(id, IPC_SET, &status) == 0);
    CHECK(exit_of(child) == 0 && of(id).msg_qnum == 3);
}

static void nothing(int signo) { (void)signo; }

CASE(signals_and_removal) {
    QUEUE(id);
    pid_t handler = CHILD({
        struct packet packet;
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, NULL);
        FAILS(msgrcv(id, &packet, 1, 0, 0), EINTR);
    });
    CHECK(wait_for_state(handler, 'S'));
    kill(handler, SIGUSR1);
    CHECK(exit_of(handler) == 0);
    /* A stop restarts it. */
    pid_t stopped = CHILD(CHECK(take(id, 0, 0, 4, "after the stop")));
    CHECK(wait_for_state(stopped, 'S'));
    kill(stopped, SIGSTOP);
    CHECK(wait_for_state(stopped, 'T'));
    kill(stopped, SIGCONT);
    CHECK(wait_for_state(stopped, 'S'));
    CHECK(put_text(id, 4, "after the stop", 0) == 0 && exit_of(stopped) == 0);
    struct packet packet = {.type = 1};
    pid_t receiver = CHILD(FAILS(msgrcv(id, &packet, 1, 99, 0), EIDRM));
    CHECK(msgsnd(id, &packet, 8192, 0) == 0 && msgsnd(id, &packet, 8192, 0) == 0);
    pid_t sender = CHILD(FAILS(msgsnd(id, &packet, 1, 0), EIDRM));
    CHECK(wait_for_state(receiver, 'S') && wait_for_state(sender, 'S'));
    CHECK(msgctl(id, IPC_RMID, NULL) == 0);
    CHECK(exit_of(receiver) == 0 && exit_of(sender) == 0);
}

CASE(permissions) {
    if (geteuid() != 0) SKIP("not root");
    QUEUE(id);
    struct msqid_ds status = of(id);
    status.msg_perm.mode = 0604;
    CHECK(msgctl(id, IPC_SET, &status) == 0);
    put_text(id, 1, "x", 0);
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        CHECK(take(id, 0, 0, 1, "x"));
        FAILS(put_text(id, 1, "x", 0), EACCES);
        FAILS(msgctl(id, IPC_SET, &status), EPERM);
        FAILS(msgctl(id, IPC_RMID, NULL), EPERM);
    });
    status.msg_perm.uid = 1000;
    CHECK(msgctl(id, IPC_SET, &status) == 0);
    IN_CHILD({
        if (setgid(1000) || setuid(1000)) _exit(1);
        status.msg_qbytes = 16385;
        FAILS(msgctl(id, IPC_SET, &status), EPERM);
        status.msg_qbytes = 16384;
        status.msg_perm.mode = 0;
        CHECK(msgctl(id, IPC_SET, &status) == 0);
        FAILS(msgctl(id, IPC_STAT, &status), EACCES);
    });
}

CASE(totals) {
    QUEUE(id);
    put_text(id, 1, "12345", 0);
    struct msginfo info;
    int highest = msgctl(0, MSG_INFO, (struct msqid_ds *)&info), found = 0;
    CHECK(highest >= 0 && info.msgpool >= 1 && info.msgmap >= 1 && info.msgtql >= 5);
    CHECK(msgctl(0, IPC_INFO, (struct msqid_ds *)&info) == highest && info.msgmax == 8192 && info.msgmnb == 16384 && info.msgmni == 32000);
    struct msqid_ds status;
    for (int index = 0; index <= highest; index++) found += msgctl(index, MSG_STAT, &status) == id;
    CHECK(found == 1);
    FAILS(msgctl(id, 9999, &status), EINVAL);
}
