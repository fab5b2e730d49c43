/*
 * Windows: where a memory object's pages are mapped in the kernel process.
 *
 * A window covers one slice of 2^32 bytes of an object. They are made at first use; when there are too many, those not
 * used since the clock's hand last passed are dropped. A pinned window stays where it is.
 */
#define _GNU_SOURCE
#include "usercopy.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define WINDOWS_MAX 16384
#define WINDOWS_DEFAULT 8192 /* x 2^32: a quarter of the kernel process's address space */

struct window window_table[WINDOWS_MAX];
static uint32_t limit = WINDOWS_DEFAULT, live, high_water, hand;
static uint32_t first_free = NO_WINDOW;

static void unlink_window(uint32_t index)
{
    uint32_t *link = &window_table[index].object->first_window;
    while (*link != index)
        link = &window_table[*link].next;
    *link = window_table[index].next;
}

static void unmap(uint32_t index)
{
    struct window *w = &window_table[index];
    char *base = w->base;
    w->base = NULL; /* before munmap: from here on a fault there is not ours */
    munmap(base, w->length);
    w->object_id = 0;
    w->next = first_free;
    first_free = index;
    live--;
}

static bool evict_one(void)
{
    for (uint32_t i = 0; i < 2 * high_water; i++) {
        uint32_t index = hand = hand + 1 < high_water ? hand + 1 : 0;
        struct window *w = &window_table[index];
        if (!w->base || w->pins || w->doomed)
            continue;
        if (w->used) {
            w->used = false;
            continue;
        }
        unlink_window(index);
        unmap(index);
        return true;
    }
    return false;
}

static void *map_slice(MemoryObject *object, uint64_t slice, void *at, uint64_t *length)
{
    int prot = PROT_READ | (object->writable ? PROT_WRITE : 0);
    int flags = MAP_SHARED | MAP_NORESERVE | (at ? MAP_FIXED : 0);
    uint64_t offset = slice << SLICE_SHIFT;
    if (offset >> SLICE_SHIFT != slice || (int64_t)offset < 0)
        return MAP_FAILED;
    if (!*length)
        *length = SLICE_SIZE;
    void *base = mmap(at, *length, prot, flags, object->fd, (off_t)offset);
    if (base == MAP_FAILED && errno == EOVERFLOW && !at) { /* the file system's largest file is smaller than a slice */
        struct stat status;
        if (fstat(object->fd, &status) == 0 && (uint64_t)status.st_size > offset) {
            uint64_t size = ((uint64_t)status.st_size - offset + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
            *length = size < SLICE_SIZE ? size : SLICE_SIZE;
            base = mmap(NULL, *length, prot, flags, object->fd, (off_t)offset);
        }
    }
    return base;
}

static void heal(struct window *w)
{
    w->poisoned = false;
    (void)map_slice(w->object, w->slice, w->base, &w->length);
}

uint32_t window_get(MemoryObject *object, uint64_t slice)
{
    uint32_t *link = &object->first_window;
    for (uint32_t index = *link; index != NO_WINDOW; index = *link) {
        struct window *w = &window_table[index];
        if (w->slice == slice) {
            *link = w->next; /* to the front of the chain */
            w->next = object->first_window;
            object->first_window = index;
            if (UNLIKELY(w->poisoned))
                heal(w);
            w->used = true;
            return index;
        }
        link = &w->next;
    }
    if (object->fd < 0 || (live >= limit && !evict_one()))
        return NO_WINDOW;
    uint64_t length = 0;
    void *base;
    while ((base = map_slice(object, slice, NULL, &length)) == MAP_FAILED)
        if (errno != ENOMEM || !evict_one())
            return NO_WINDOW;
    uint32_t index = first_free;
    if (index != NO_WINDOW)
        first_free = window_table[index].next;
    else
        index = high_water++;
    window_table[index] = (struct window){
        .base = base, .length = length, .object_id = object->id, .slice = slice, .object = object, .next = object->first_window, .used = true,
    };
    object->first_window = index;
    live++;
    return index;
}

/* Of a file system whose largest file is smaller than a slice: the file may have grown since. */
bool window_extend(uint32_t index)
{
    struct window *w = &window_table[index];
    struct stat status;
    uint64_t offset = w->slice << SLICE_SHIFT;
    if (w->length == SLICE_SIZE || w->pins || fstat(w->object->fd, &status) < 0 || (uint64_t)status.st_size <= offset)
        return false;
    uint64_t size = ((uint64_t)status.st_size - offset + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    size = size < SLICE_SIZE ? size : SLICE_SIZE;
    void *base = size > w->length ? mremap(w->base, w->length, size, MREMAP_MAYMOVE) : MAP_FAILED;
    if (base == MAP_FAILED)
        return false;
    w->base = base;
    w->length = size;
    return true;
}

void window_pin(uint32_t index)
{
    window_table[index].pins++;
}

void window_unpin(uint32_t index)
{
    struct window *w = &window_table[index];
    if (--w->pins == 0 && w->doomed)
        unmap(index);
}

void window_drop_all(MemoryObject *object)
{
    for (uint32_t index = object->first_window, next; index != NO_WINDOW; index = next) {
        struct window *w = &window_table[index];
        next = w->next;
        w->object_id = 0; /* no hint leads here any more */
        if (w->pins)
            w->doomed = true;
        else
            unmap(index);
    }
    object->first_window = NO_WINDOW;
}

bool window_absorb_fault(uintptr_t address)
{
    for (uint32_t i = 0; i < high_water; i++) {
        struct window *w = &window_table[i];
        uintptr_t base = (uintptr_t)w->base;
        if (!base || address < base || address - base >= w->length)
            continue;
        void *page = (void *)(address & ~(PAGE_SIZE - 1));
        if (mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            return false;
        w->poisoned = true;
        return true;
    }
    return false;
}

uint32_t window_count(void)
{
    return live;
}

bool window_set_limit(uint32_t count)
{
    if (count < 1 || count > WINDOWS_MAX)
        return false;
    limit = count;
    while (live > limit && evict_one())
        continue;
    return true;
}
