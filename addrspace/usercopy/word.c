/* UserMap's loads, stores and atomics. Each raises Fault; a word that straddles two VMAs is copied by bytes. */
#include "usercopy.h"

/* 0: the word lies in *span; 1: it straddles; -1: an exception is set (Fault too). */
static int word_span(UserMap *map, uint64_t address, uint64_t size, bool write, struct span *span)
{
    int result = user_map_span(map, address, size, write, span);
    if (UNLIKELY(result)) {
        if (result > 0)
            fault_raise(address, 0);
        return -1;
    }
    return span->length < size;
}

static bool load(UserMap *map, PyObject *at, uint64_t size, uint64_t *value)
{
    uint64_t address;
    struct span span;
    if (!user_address_get(at, &address))
        return false;
    int result = word_span(map, address, size, false, &span);
    if (UNLIKELY(result < 0))
        return false;
    *value = 0;
    if (LIKELY(!result)) {
        uint32_t narrow = 0;
        if (size == 8)
            result = recover_load64(span.ptr, value);
        else if (size == 4)
            result = recover_load32(span.ptr, &narrow), *value = narrow;
        else
            result = recover_copy(value, span.ptr, size) != 0;
        if (LIKELY(!result))
            return true;
        fault_raise(address, 0);
        return false;
    }
    int64_t done = user_map_copy_in(map, address, (char *)value, size);
    if (done == (int64_t)size)
        return true;
    if (done >= 0)
        fault_raise(address + (uint64_t)done, (uint64_t)done);
    return false;
}

static PyObject *store(const char *name, UserMap *map, PyObject *const *args, Py_ssize_t nargs, uint64_t size)
{
    uint64_t address;
    struct span span;
    if (!arguments_check(name, nargs, 2, 2) || !user_address_get(args[0], &address))
        return NULL;
    uint64_t value = PyLong_AsUnsignedLongLongMask(args[1]);
    if (UNLIKELY(value == UINT64_MAX && PyErr_Occurred()))
        return NULL;
    int result = word_span(map, address, size, true, &span);
    if (UNLIKELY(result < 0))
        return NULL;
    if (LIKELY(!result)) {
        if (size == 8)
            result = recover_store64(span.ptr, value);
        else if (size == 4)
            result = recover_store32(span.ptr, (uint32_t)value);
        else
            result = recover_copy(span.ptr, &value, size) != 0;
        if (UNLIKELY(result))
            return fault_raise(address, 0);
        Py_RETURN_NONE;
    }
    int64_t done = user_map_copy_out(map, address, (char *)&value, size);
    if (done == (int64_t)size)
        Py_RETURN_NONE;
    return done < 0 ? NULL : fault_raise(address + (uint64_t)done, (uint64_t)done);
}

#define LOAD(name, size, convert)                                                \
    static PyObject *load_##name(PyObject *map, PyObject *address)               \
    {                                                                            \
        uint64_t value;                                                          \
        return load((UserMap *)map, address, size, &value) ? (convert) : NULL;   \
    }
LOAD(u8, 1, PyLong_FromUnsignedLong((uint8_t)value))
LOAD(u16, 2, PyLong_FromUnsignedLong((uint16_t)value))
LOAD(u32, 4, PyLong_FromUnsignedLong((uint32_t)value))
LOAD(i32, 4, PyLong_FromLong((int32_t)value))
LOAD(u64, 8, PyLong_FromUnsignedLongLong(value))
LOAD(i64, 8, PyLong_FromLongLong((int64_t)value))

#define STORE(name, size)                                                                     \
    static PyObject *store_##name(PyObject *map, PyObject *const *args, Py_ssize_t nargs)     \
    {                                                                                         \
        return store("store_" #name, (UserMap *)map, args, nargs, size);                      \
    }
STORE(u8, 1)
STORE(u16, 2)
STORE(u32, 4)
STORE(u64, 8)

/* The aligned 32-bit word at args[0], for writing: never straddles. */
static bool atomic_word(UserMap *map, PyObject *at, uint64_t *address, struct span *span)
{
    if (!user_address_get(at, address))
        return false;
    if (*address & 3) {
        PyErr_SetString(PyExc_ValueError, "an atomic operation needs an aligned word");
        return false;
    }
    return word_span(map, *address, 4, true, span) == 0;
}

static bool argument_u32(PyObject *object, uint32_t *value)
{
    uint64_t wide = PyLong_AsUnsignedLongLongMask(object);
    *value = (uint32_t)wide;
    return wide != UINT64_MAX || !PyErr_Occurred();
}

static PyObject *compare_exchange_u32(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t address;
    struct span span;
    uint32_t expected, value;
    if (!arguments_check("compare_exchange_u32", nargs, 3, 3) || !argument_u32(args[1], &expected) || !argument_u32(args[2], &value))
        return NULL;
    if (!atomic_word((UserMap *)map, args[0], &address, &span))
        return NULL;
    return recover_compare_exchange32(span.ptr, &expected, value) ? fault_raise(address, 0) : PyLong_FromUnsignedLong(expected);
}

enum operation { EXCHANGE, ADD, OR, AND, XOR };

static PyObject *fetch(const char *name, PyObject *map, PyObject *const *args, Py_ssize_t nargs, enum operation operation)
{
    uint64_t address;
    struct span span;
    uint32_t operand, old;
    int failed;
    if (!arguments_check(name, nargs, 2, 2) || !argument_u32(args[1], &operand) || !atomic_word((UserMap *)map, args[0], &address, &span))
        return NULL;
    if (operation == EXCHANGE || operation == ADD) {
        old = operand;
        failed = operation == ADD ? recover_add32(span.ptr, &old) : recover_exchange32(span.ptr, &old);
    } else {
        failed = recover_load32(span.ptr, &old);
        for (;;) {
            uint32_t seen = old, new = operation == OR ? old | operand : operation == AND ? old & operand : old ^ operand;
            if (failed || (failed = recover_compare_exchange32(span.ptr, &old, new)) || old == seen)
                break;
        }
    }
    return failed ? fault_raise(address, 0) : PyLong_FromUnsignedLong(old);
}

#define FETCH(name, operation)                                                         \
    static PyObject *name(PyObject *map, PyObject *const *args, Py_ssize_t nargs)      \
    {                                                                                  \
        return fetch(#name, map, args, nargs, operation);                              \
    }
FETCH(exchange_u32, EXCHANGE)
FETCH(fetch_add_u32, ADD)
FETCH(fetch_or_u32, OR)
FETCH(fetch_and_u32, AND)
FETCH(fetch_xor_u32, XOR)

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, doc}
PyMethodDef user_map_word_methods[] = {
    {"load_u8", load_u8, METH_O, "load_u8(address) -> int; raises Fault"},
    {"load_u16", load_u16, METH_O, "load_u16(address) -> int; raises Fault"},
    {"load_u32", load_u32, METH_O, "load_u32(address) -> int; raises Fault"},
    {"load_i32", load_i32, METH_O, "load_i32(address) -> int; raises Fault"},
    {"load_u64", load_u64, METH_O, "load_u64(address) -> int; raises Fault"},
    {"load_i64", load_i64, METH_O, "load_i64(address) -> int; raises Fault"},
    FAST(store_u8, "store_u8(address, value), modulo 2^8; raises Fault"),
    FAST(store_u16, "store_u16(address, value), modulo 2^16; raises Fault"),
    FAST(store_u32, "store_u32(address, value), modulo 2^32; raises Fault"),
    FAST(store_u64, "store_u64(address, value), modulo 2^64; raises Fault"),
    {"store_i32", (PyCFunction)(void (*)(void))store_u32, METH_FASTCALL, "store_i32(address, value); raises Fault"},
    {"store_i64", (PyCFunction)(void (*)(void))store_u64, METH_FASTCALL, "store_i64(address, value); raises Fault"},
    FAST(compare_exchange_u32, "compare_exchange_u32(address, expected, new) -> old value; raises Fault"),
    FAST(exchange_u32, "exchange_u32(address, value) -> old value; raises Fault"),
    FAST(fetch_add_u32, "fetch_add_u32(address, value) -> old value; raises Fault"),
    FAST(fetch_or_u32, "fetch_or_u32(address, value) -> old value; raises Fault"),
    FAST(fetch_and_u32, "fetch_and_u32(address, value) -> old value; raises Fault"),
    FAST(fetch_xor_u32, "fetch_xor_u32(address, value) -> old value; raises Fault"),
    {0},
};
