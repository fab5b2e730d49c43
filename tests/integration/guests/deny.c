/*
 * deny NUMBER=ERRNO... -- PROGRAM ARG...: run PROGRAM on a host that refuses some system calls, as an older kernel, a container's seccomp
 * profile or a security module would. NUMBER/FIRST=ERRNO refuses only calls whose first argument is FIRST.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int count, char **strings)
{
    struct sock_filter filter[256];
    unsigned short length = 0;
    int index = 1;
    for (; index < count && strcmp(strings[index], "--"); index++) {
        char *end;
        unsigned number = (unsigned)strtoul(strings[index], &end, 10), first = 0;
        int has_first = *end == '/';
        if (has_first)
            first = (unsigned)strtoul(end + 1, &end, 10);
        unsigned error = (unsigned)atoi(end + 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, has_first ? 3 : 1);
        if (has_first) {
            filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args));
            filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 0, 1);
        }
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {length, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("deny");
        return 99;
    }
    execvp(strings[index + 1], strings + index + 1);
    perror(strings[index + 1]);
    return 99;
}
