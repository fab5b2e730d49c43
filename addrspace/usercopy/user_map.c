/*
 * UserMap: the kernel's mirror of one address space's VMAs, and the way from a guest address to bytes in a window.
 *
 * Entries are sorted and disjoint; adjacent ones that continue each other are one. An entry without an object is mapped
 * but not backed: a copy that meets it, or a hole, or a protection, asks `on_fault`, which may change the map and say "again".
 */
#include "usercopy.h"

#define ATTEMPTS 4 /* how often on_fault may say "again" for one address */

PyObject *FaultError;

PyObject *fault_raise(uint64_t address, uint64_t done)
{
    char text[64];
    snprintf(text, sizeof text, "0x%llx, after %llu bytes", (unsigned long long)address, (unsigned long long)done);
    PyObject *fault = PyObject_CallFunction(FaultError, "s", text);
    PyObject *at = fault ? user_address_new(address) : NULL;
    PyObject *count = at ? PyLong_FromUnsignedLongLong(done) : NULL;
    if (count && PyObject_SetAttrString(fault, "address", at) == 0 && PyObject_SetAttrString(fault, "done", count) == 0)
        PyErr_SetObject(FaultError, fault);
    Py_XDECREF(count);
    Py_XDECREF(at);
    Py_XDECREF(fault);
    return NULL;
}

/* Index of the first entry that ends above `address`. */
static size_t lower_bound(const UserMap *map, uint64_t address)
{
    size_t low = 0, high = map->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (map->entries[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static inline struct entry *find(UserMap *map, uint64_t address)
{
    size_t i = map->last;
    if (LIKELY(i < map->count && address - map->entries[i].start < map->entries[i].end - map->entries[i].start))
        return &map->entries[i];
    i = lower_bound(map, address);
    if (i == map->count || address < map->entries[i].start)
        return NULL;
    map->last = i;
    return &map->entries[i];
}

static inline bool allows(const struct entry *entry, bool write)
{
    /* x86 has no pages that can be written and not read; Linux lets the kernel read them as well. */
    return entry->prot & (write ? USER_PROT_WRITE : USER_PROT_READ | USER_PROT_WRITE);
}

static bool window_of(struct entry *entry, uint64_t address, uint64_t n, struct span *span)
{
    uint64_t offset = entry->offset + (address - entry->start), slice = offset >> SLICE_SHIFT;
    uint32_t index = entry->window;
    struct window *w = &window_table[index == NO_WINDOW ? 0 : index];
    if (UNLIKELY(index == NO_WINDOW || w->object_id != entry->object->id || w->slice != slice || w->poisoned)) {
        index = window_get(entry->object, slice);
        if (index == NO_WINDOW)
            return false;
        entry->window = index;
        w = &window_table[index];
    }
    w->used = true;
    uint64_t within = offset & (SLICE_SIZE - 1);
    if (UNLIKELY(within >= w->length) && (!window_extend(index) || within >= w->length))
        return false;
    uint64_t length = entry->end - address;
    length = length < n ? length : n;
    span->ptr = w->base + within;
    span->length = length < w->length - within ? length : w->length - within;
    span->window = index;
    return true;
}

/* Asks Python what to do about a fault. 0: try again; 1: it is one; -1: an exception is set. */
static int ask(UserMap *map, uint64_t address, bool write)
{
    PyObject *handler = map->on_fault;
    if (!handler)
        return 1;
    Py_INCREF(handler);
    PyObject *at = PyLong_FromUnsignedLongLong(address);
    PyObject *answer = at ? PyObject_CallFunctionObjArgs(handler, at, write ? Py_True : Py_False, NULL) : NULL;
    Py_XDECREF(at);
    Py_DECREF(handler);
    if (!answer)
        return -1;
    int again = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return again < 0 ? -1 : !again;
}

int user_map_entry(UserMap *map, uint64_t address, bool write, struct entry **found)
{
    for (int attempt = 0;; attempt++) {
        struct entry *entry = find(map, address);
        if (LIKELY(entry && allows(entry, write) && entry->object && entry->object->fd >= 0)) {
            *found = entry;
            return 0;
        }
        int result = attempt < ATTEMPTS ? ask(map, address, write) : 1;
        if (result)
            return result;
    }
}

int user_map_span(UserMap *map, uint64_t address, uint64_t n, bool write, struct span *span)
{
    struct entry *entry;
    int result = user_map_entry(map, address, write, &entry);
    if (UNLIKELY(result))
        return result;
    return !window_of(entry, address, n, span);
}

int64_t user_map_extent(UserMap *map, uint64_t address, uint64_t n, bool write)
{
    uint64_t done = 0;
    while (done < n) {
        struct entry *entry;
        int result = user_map_entry(map, address + done, write, &entry);
        if (result < 0)
            return -1;
        if (result)
            break;
        uint64_t here = entry->end - (address + done);
        done += here < n - done ? here : n - done;
        if (address + done < address) /* the top of the 64-bit space */
            break;
    }
    return (int64_t)done;
}

/* -- changing the map ------------------------------------------------------------------------------------------------------ */

static bool reserve(UserMap *map, size_t more)
{
    if (map->count + more <= map->capacity)
        return true;
    size_t capacity = map->capacity ? map->capacity * 2 : 32;
    struct entry *entries = PyMem_Realloc(map->entries, capacity * sizeof *entries);
    if (!entries) {
        PyErr_NoMemory();
        return false;
    }
    map->entries = entries;
    map->capacity = capacity;
    return true;
}

static void insert_at(UserMap *map, size_t index, struct entry entry)
{
    memmove(&map->entries[index + 1], &map->entries[index], (map->count - index) * sizeof entry);
    map->entries[index] = entry;
    map->count++;
    Py_XINCREF(entry.object);
}

static void remove_range(UserMap *map, size_t from, size_t to)
{
    /* Out of the array first: dropping an object may run anything. */
    size_t n = to - from;
    if (!n)
        return;
    MemoryObject *one = map->entries[from].object, **many = NULL;
    if (n > 1) {
        many = PyMem_Malloc(n * sizeof *many);
        for (size_t i = 0; many && i < n; i++)
            many[i] = map->entries[from + i].object;
    }
    memmove(&map->entries[from], &map->entries[to], (map->count - to) * sizeof map->entries[0]);
    map->count -= n;
    if (n == 1)
        Py_XDECREF(one);
    for (size_t i = 0; many && i < n; i++)
        Py_XDECREF(many[i]);
    PyMem_Free(many);
}

/* Makes `address` a border between entries; the caller has reserved room. Index of the first entry at or above it. */
static size_t split(UserMap *map, uint64_t address)
{
    size_t index = lower_bound(map, address);
    if (index == map->count || map->entries[index].start >= address)
        return index;
    struct entry upper = map->entries[index];
    map->entries[index].end = address;
    upper.offset += address - upper.start;
    upper.start = address;
    insert_at(map, index + 1, upper);
    return index + 1;
}

static bool continues(const struct entry *lower, const struct entry *upper)
{
    return lower->end == upper->start && lower->prot == upper->prot && lower->object == upper->object
           && (!lower->object || lower->offset + (lower->end - lower->start) == upper->offset);
}

/* Joins entries that continue each other, from the one before `from` up to the one at `to`. */
static void join(UserMap *map, size_t from, size_t to)
{
    for (size_t i = to < map->count ? to : map->count - 1; map->count > 1 && i > 0 && i + 1 > from; i--)
        if (continues(&map->entries[i - 1], &map->entries[i])) {
            map->entries[i - 1].end = map->entries[i].end;
            remove_range(map, i, i + 1);
        }
}

static bool argument_range(PyObject *const *args, uint64_t *start, uint64_t *end)
{
    if (!argument_u64(args[0], start) || !argument_u64(args[1], end))
        return false;
    if (*start <= *end)
        return true;
    PyErr_SetString(PyExc_ValueError, "the range ends before it starts");
    return false;
}

static PyObject *user_map_map(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    UserMap *map = (UserMap *)op;
    struct entry entry = {.window = NO_WINDOW};
    if (!arguments_check("map", nargs, 5, 5) || !argument_range(args, &entry.start, &entry.end) || !argument_u64(args[4], &entry.offset))
        return NULL;
    long prot = PyLong_AsLong(args[2]);
    if (prot == -1 && PyErr_Occurred())
        return NULL;
    entry.prot = (uint32_t)prot;
    if (args[3] != Py_None) {
        if (!PyObject_TypeCheck(args[3], &MemoryObjectType)) {
            PyErr_Format(PyExc_TypeError, "map() takes a MemoryObject or None, not %.100s", Py_TYPE(args[3])->tp_name);
            return NULL;
        }
        entry.object = (MemoryObject *)args[3];
    } else {
        entry.offset = 0;
    }
    if (entry.start == entry.end)
        Py_RETURN_NONE;
    if (!reserve(map, 3))
        return NULL;
    size_t from = split(map, entry.start), to = split(map, entry.end);
    map->version++;
    insert_at(map, from, entry);
    remove_range(map, from + 1, to + 1);
    join(map, from, from + 1);
    Py_RETURN_NONE;
}

static PyObject *user_map_unmap(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    UserMap *map = (UserMap *)op;
    uint64_t start, end;
    if (!arguments_check("unmap", nargs, 2, 2) || !argument_range(args, &start, &end) || !reserve(map, 2))
        return NULL;
    size_t from = split(map, start), to = split(map, end);
    map->version++;
    remove_range(map, from, to);
    Py_RETURN_NONE;
}

static PyObject *user_map_protect(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    UserMap *map = (UserMap *)op;
    uint64_t start, end;
    if (!arguments_check("protect", nargs, 3, 3) || !argument_range(args, &start, &end))
        return NULL;
    long prot = PyLong_AsLong(args[2]);
    if ((prot == -1 && PyErr_Occurred()) || !reserve(map, 2))
        return NULL;
    size_t from = split(map, start), to = split(map, end);
    for (size_t i = from; i < to; i++)
        map->entries[i].prot = (uint32_t)prot;
    map->version++;
    join(map, from, to);
    Py_RETURN_NONE;
}

static PyObject *user_map_clone(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    UserMap *map = (UserMap *)op;
    PyObject *old = nargs > 0 ? args[0] : Py_None, *new = nargs > 1 ? args[1] : Py_None;
    if (!arguments_check("clone", nargs, 0, 2))
        return NULL;
    if (nargs && (nargs != 2 || !PyObject_TypeCheck(old, &MemoryObjectType) || !PyObject_TypeCheck(new, &MemoryObjectType))) {
        PyErr_SetString(PyExc_TypeError, "clone() takes nothing, or two MemoryObjects: the one to replace, and its replacement");
        return NULL;
    }
    UserMap *copy = (UserMap *)PyObject_CallNoArgs((PyObject *)&UserMapType);
    if (!copy)
        return NULL;
    copy->entries = PyMem_Malloc((map->count + 1) * sizeof map->entries[0]);
    if (!copy->entries) {
        Py_DECREF(copy);
        return PyErr_NoMemory();
    }
    copy->capacity = map->count + 1;
    for (size_t i = 0; i < map->count; i++) {
        struct entry entry = map->entries[i];
        if (nargs && (PyObject *)entry.object == old) {
            entry.object = (MemoryObject *)new;
            entry.window = NO_WINDOW;
        }
        insert_at(copy, i, entry);
    }
    return (PyObject *)copy;
}

static PyObject *user_map_entries(PyObject *op, PyObject *unused)
{
    UserMap *map = (UserMap *)op;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < map->count; i++) {
        struct entry *e = &map->entries[i];
        PyObject *object = e->object ? (PyObject *)e->object : Py_None;
        PyObject *item = Py_BuildValue("(KKIOK)", (unsigned long long)e->start, (unsigned long long)e->end, e->prot, object, (unsigned long long)e->offset);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *user_map_accessible(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t address, n;
    if (!arguments_check("accessible", nargs, 3, 3) || !user_address_get(args[0], &address) || !argument_size(args[1], &n))
        return NULL;
    int write = PyObject_IsTrue(args[2]);
    int64_t extent = write < 0 ? -1 : user_map_extent((UserMap *)op, address, n, write);
    return extent < 0 ? NULL : PyLong_FromLongLong(extent);
}

static PyObject *user_map_futex_key(PyObject *op, PyObject *address)
{
    uint64_t at;
    struct entry *entry;
    if (!user_address_get(address, &at))
        return NULL;
    int result = user_map_entry((UserMap *)op, at, false, &entry);
    if (result)
        return result < 0 ? NULL : fault_raise(at, 0);
    return Py_BuildValue("(KK)", (unsigned long long)entry->object->id, (unsigned long long)(entry->offset + (at - entry->start)));
}

/* -- the type ---------------------------------------------------------------------------------------------------------------- */

static int user_map_clear(PyObject *op)
{
    UserMap *map = (UserMap *)op;
    Py_CLEAR(map->on_fault);
    remove_range(map, 0, map->count);
    return 0;
}

static int user_map_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(((UserMap *)op)->on_fault);
    return 0;
}

static void user_map_dealloc(PyObject *op)
{
    UserMap *map = (UserMap *)op;
    PyObject_GC_UnTrack(op);
    if (map->weakrefs)
        PyObject_ClearWeakRefs(op);
    user_map_clear(op);
    PyMem_Free(map->entries);
    Py_TYPE(op)->tp_free(op);
}

static PyObject *user_map_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "UserMap() takes no arguments");
        return NULL;
    }
    if (recovery_install() < 0) /* again: somebody may have taken the signals since */
        return PyErr_SetFromErrno(PyExc_OSError);
    return type->tp_alloc(type, 0);
}

static PyObject *user_map_get_on_fault(PyObject *op, void *closure)
{
    (void)closure;
    PyObject *handler = ((UserMap *)op)->on_fault;
    return Py_NewRef(handler ? handler : Py_None);
}

static int user_map_set_on_fault(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    if (value && value != Py_None && !PyCallable_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "on_fault is a callable or None");
        return -1;
    }
    Py_XSETREF(((UserMap *)op)->on_fault, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyGetSetDef getset[] = {
    {"on_fault", user_map_get_on_fault, user_map_set_on_fault, "on_fault(address: int, write: bool) -> bool: True to try again", NULL},
    {0},
};

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))user_map_##name, METH_FASTCALL, doc}
static PyMethodDef methods[] = {
    FAST(map, "map(start, end, prot, object, offset): a VMA, replacing what was there"),
    FAST(unmap, "unmap(start, end)"),
    FAST(protect, "protect(start, end, prot): of what is mapped there"),
    FAST(clone, "clone([old, new]) -> a copy, with one object replaced by another"),
    FAST(accessible, "accessible(address, n, write) -> how many of n bytes the VMAs allow"),
    {"entries", user_map_entries, METH_NOARGS, "entries() -> [(start, end, prot, object, offset)]"},
    {"futex_key", user_map_futex_key, METH_O, "futex_key(address) -> (object id, offset): what a futex word is known by"},
    {0},
};

PyTypeObject UserMapType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "polynix.addrspace._usercopy.UserMap",
    .tp_doc = "UserMap(): the VMAs of one address space as usercopy sees them; all access to guest memory.",
    .tp_basicsize = sizeof(UserMap),
    .tp_weaklistoffset = offsetof(UserMap, weakrefs),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = user_map_new,
    .tp_dealloc = user_map_dealloc,
    .tp_traverse = user_map_traverse,
    .tp_clear = user_map_clear,
    .tp_getset = getset,
    .tp_methods = methods, /* _usercopy.c adds those of the other files */
};
