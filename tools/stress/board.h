/* The score board: one slot a worker thread, in a file that guests map shared and the tool maps as a numpy array (board.py has the same layout).
   Only the slot's own thread writes to it, except `stop` in the header, which the tool sets. */
#ifndef BOARD_H
#define BOARD_H
#include <stdint.h>

#define BOARD_MAGIC 0x6472616f62786e70ULL /* "pnxboard" */
#define BUCKETS 352                       /* log-linear: 8 to an octave of nanoseconds, up to 2^44 */
#define FINDING 232                       /* bytes of the first finding's text */

struct board_header {
    uint64_t magic, slots, stop, started; /* started: CLOCK_MONOTONIC ns at which all workers may begin */
    uint64_t reserved[28];
};

struct slot {
    uint64_t kind, pid, state, operations, errors, findings, bytes, seed, /* state: 0 unused, 1 running, 2 ended well, 3 restarted after a kill */
        longest_ns, total_ns, kills, restarts;
    uint64_t reserved[4];
    uint32_t histogram[BUCKETS];
    char finding[FINDING];
    uint64_t end; /* keeps slots apart; always 0 */
};

#endif
