/*
 * Shared by the files of polynix.addrspace._usercopy: how the kernel process reaches guest memory.
 *
 *   user_address.c    UserAddress: a guest address, which nothing can dereference or index by
 *   memory_object.c   MemoryObject: the pages behind a descriptor (region, memfd, host file)
 *   window.c          where those pages are mapped in the kernel process: slices, least recently used ones dropped
 *   recovery.c        copies and word operations that survive SIGBUS and SIGSEGV
 *   user_map.c        UserMap: the VMAs of one address space; guest address -> bytes in a window
 *   copy.c            UserMap's copies: bytes, strings, iovecs
 *   word.c            UserMap's loads, stores and atomics
 *   host_io.c         UserMap's host reads and writes straight into and out of guest pages
 *   user_buffer.c     UserOutput and UserInput: a range of guest memory that a read fills or a write empties
 *
 * The GIL guards all state, apart from the windows' table, which the fault handler reads.
 */
#ifndef POLYNIX_USERCOPY_H
#define POLYNIX_USERCOPY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096ull
#define SLICE_SHIFT 32
#define SLICE_SIZE (1ull << SLICE_SHIFT)
#define NO_WINDOW UINT32_MAX
#define USER_ADDRESSES_END ((1ull << 47) - PAGE_SIZE) /* Linux's TASK_SIZE_MAX */
#define LARGEST_TRANSFER 0x7ffff000ull                /* Linux's MAX_RW_COUNT */

enum { USER_PROT_READ = 1, USER_PROT_WRITE = 2 };

#define HIDDEN __attribute__((visibility("hidden")))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* user_address.c */
typedef struct {
    PyObject_HEAD
    uint64_t ptr;
} UserAddress;

extern HIDDEN PyTypeObject UserAddressType;
HIDDEN PyObject *user_address_new(uint64_t ptr);
HIDDEN bool user_address_get(PyObject *object, uint64_t *ptr); /* false: TypeError is set */

/* memory_object.c */
typedef struct {
    PyObject_HEAD
    int fd; /* -1 when closed */
    bool writable;
    bool owns_fd;
    uint32_t busy;         /* operations under way without the GIL */
    uint32_t first_window; /* chain of windows through Window.next */
    uint64_t id;
    PyObject *weakrefs;
} MemoryObject;

extern HIDDEN PyTypeObject MemoryObjectType;

/* window.c */
struct window {
    char *base; /* NULL: the entry is free */
    uint64_t length;
    uint64_t object_id;
    uint64_t slice; /* the window begins at file offset slice << SLICE_SHIFT */
    MemoryObject *object;
    uint32_t next;
    uint32_t pins;
    bool used;               /* since the clock's hand last passed */
    bool doomed;             /* unmap at the last unpin: its object is closed */
    volatile bool poisoned;  /* the fault handler put zero pages into it */
};

extern HIDDEN struct window window_table[];
HIDDEN uint32_t window_get(MemoryObject *object, uint64_t slice); /* NO_WINDOW: can't be mapped */
HIDDEN bool window_extend(uint32_t index);
HIDDEN void window_pin(uint32_t index);
HIDDEN void window_unpin(uint32_t index);
HIDDEN void window_drop_all(MemoryObject *object);
HIDDEN bool window_absorb_fault(uintptr_t address); /* for the signal handler */
HIDDEN uint32_t window_count(void);
HIDDEN bool window_set_limit(uint32_t limit);

/* recovery.c: all return what is left undone, 0 when all went well */
HIDDEN size_t recover_copy(void *to, const void *from, size_t n);
HIDDEN size_t recover_zero(void *to, size_t n);
HIDDEN int recover_load32(const void *from, uint32_t *value);
HIDDEN int recover_load64(const void *from, uint64_t *value);
HIDDEN int recover_store32(void *to, uint32_t value);
HIDDEN int recover_store64(void *to, uint64_t value);
HIDDEN int recover_compare_exchange32(void *at, uint32_t *expected, uint32_t value);
HIDDEN int recover_exchange32(void *at, uint32_t *value);
HIDDEN int recover_add32(void *at, uint32_t *value);
HIDDEN int recovery_install(void); /* idempotent; -1 with errno */
HIDDEN uint64_t recovery_window_faults(void);

/* user_map.c */
struct entry { /* one VMA */
    uint64_t start, end;
    uint64_t offset; /* of start, in the object */
    MemoryObject *object;
    uint32_t prot;
    uint32_t window; /* the one that served last: a hint, checked at each use */
};

typedef struct {
    PyObject_HEAD
    struct entry *entries;
    size_t count, capacity, last; /* last: where the previous look-up ended */
    uint64_t version;             /* changes with the VMAs */
    PyObject *on_fault;           /* or NULL */
    PyObject *weakrefs;
} UserMap;

struct span { /* guest bytes as the kernel process sees them; valid while the GIL is held, or the window is pinned */
    char *ptr;
    uint64_t length;
    uint32_t window;
};

extern HIDDEN PyTypeObject UserMapType;
extern HIDDEN PyObject *FaultError;

/* Bytes of guest memory from `address` on, at least 1 and at most n. 0: found; 1: a fault; -1: a Python exception is set. */
HIDDEN int user_map_span(UserMap *map, uint64_t address, uint64_t n, bool write, struct span *span);
/* The entry and offset behind one address. 0, 1, -1 as above. */
HIDDEN int user_map_entry(UserMap *map, uint64_t address, bool write, struct entry **entry);
/* How many of n bytes the VMAs allow, without looking at the pages; -1: a Python exception is set. */
HIDDEN int64_t user_map_extent(UserMap *map, uint64_t address, uint64_t n, bool write);
/* Copies between guest memory and the kernel's. The count copied, short at a fault; -1: a Python exception is set. */
HIDDEN int64_t user_map_copy_in(UserMap *map, uint64_t address, char *to, uint64_t n);
HIDDEN int64_t user_map_copy_out(UserMap *map, uint64_t address, const char *from, uint64_t n);
HIDDEN int64_t user_map_zero(UserMap *map, uint64_t address, uint64_t n);
/* Up to n bytes as a bytes object, shorter at a fault. NULL: a Python exception is set. */
HIDDEN PyObject *user_map_bytes(UserMap *map, uint64_t address, uint64_t n);
HIDDEN PyObject *fault_raise(uint64_t address, uint64_t done);

/* host_io.c */
struct host_position { /* where in a host file, and RWF_* */
    int fd;
    long long offset; /* < 0: at the descriptor's own */
    int flags;
};

HIDDEN bool host_position_get(PyObject *fd, PyObject *offset, PyObject *flags, struct host_position *position); /* false: an exception is set */
/* The host's call straight into (`write`) or out of guest pages; its result or -errno. false: a Python exception is set. */
HIDDEN bool user_map_host_io(UserMap *map, uint64_t address, uint64_t n, const struct host_position *position, bool write, int64_t *done);

/* user_buffer.c */
extern HIDDEN PyTypeObject UserOutputType, UserInputType;

/* Methods of UserMap that live in other files. */
extern HIDDEN PyMethodDef user_map_copy_methods[], user_map_word_methods[], user_map_host_io_methods[];

/* Arguments of METH_FASTCALL methods. */
HIDDEN bool arguments_check(const char *name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most);
HIDDEN bool argument_u64(PyObject *object, uint64_t *value);   /* 0 <= value < 2^64, else OverflowError */
HIDDEN bool argument_size(PyObject *object, uint64_t *value);  /* 0 <= value <= SSIZE_MAX, else OverflowError */
HIDDEN bool argument_iov(PyObject *item, uint64_t *address, uint64_t *n); /* a tuple (UserAddress, int) */

#endif
