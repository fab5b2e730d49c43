/* UserAddress: a guest address. It has arithmetic and order, and no __index__: it can't be taken for a number by accident. */
#include "usercopy.h"

#define FREELIST 256
static UserAddress *freelist[FREELIST];
static int free_count;

PyObject *user_address_new(uint64_t ptr)
{
    UserAddress *self;
    if (LIKELY(free_count)) {
        self = freelist[--free_count];
        (void)PyObject_Init((PyObject *)self, &UserAddressType);
    } else {
        self = PyObject_New(UserAddress, &UserAddressType);
        if (!self)
            return NULL;
    }
    self->ptr = ptr;
    return (PyObject *)self;
}

static void user_address_dealloc(PyObject *self)
{
    if (LIKELY(free_count < FREELIST))
        freelist[free_count++] = (UserAddress *)self;
    else
        PyObject_Free(self);
}

bool user_address_get(PyObject *object, uint64_t *ptr)
{
    if (UNLIKELY(!Py_IS_TYPE(object, &UserAddressType))) {
        PyErr_Format(PyExc_TypeError, "expected a UserAddress, not %.100s", Py_TYPE(object)->tp_name);
        return false;
    }
    *ptr = ((UserAddress *)object)->ptr;
    return true;
}

static PyObject *from_value(PyObject *value)
{
    if (Py_IS_TYPE(value, &UserAddressType))
        return Py_NewRef(value);
    if (UNLIKELY(!PyLong_Check(value))) {
        PyErr_Format(PyExc_TypeError, "UserAddress() takes an int, not %.100s", Py_TYPE(value)->tp_name);
        return NULL;
    }
    uint64_t ptr = PyLong_AsUnsignedLongLongMask(value);
    if (UNLIKELY(ptr == UINT64_MAX && PyErr_Occurred()))
        return NULL;
    return user_address_new(ptr);
}

static PyObject *user_address_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    (void)type;
    if (UNLIKELY(PyVectorcall_NARGS(nargsf) != 1 || kwnames)) {
        PyErr_SetString(PyExc_TypeError, "UserAddress() takes one positional argument");
        return NULL;
    }
    return from_value(args[0]);
}

static PyObject *user_address_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *value;
    (void)type;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "UserAddress() takes no keyword arguments");
        return NULL;
    }
    return PyArg_ParseTuple(args, "O:UserAddress", &value) ? from_value(value) : NULL;
}

static PyObject *user_address_add(PyObject *left, PyObject *right)
{
    if (!Py_IS_TYPE(left, &UserAddressType)) {
        PyObject *swap = left;
        left = right;
        right = swap;
    }
    if (!PyLong_Check(right))
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t n = PyLong_AsUnsignedLongLongMask(right);
    if (UNLIKELY(n == UINT64_MAX && PyErr_Occurred()))
        return NULL;
    return user_address_new(((UserAddress *)left)->ptr + n);
}

static PyObject *user_address_subtract(PyObject *left, PyObject *right)
{
    if (!Py_IS_TYPE(left, &UserAddressType))
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t a = ((UserAddress *)left)->ptr;
    if (Py_IS_TYPE(right, &UserAddressType)) {
        uint64_t b = ((UserAddress *)right)->ptr;
        if (a >= b)
            return PyLong_FromUnsignedLongLong(a - b);
        PyObject *positive = PyLong_FromUnsignedLongLong(b - a);
        PyObject *result = positive ? PyNumber_Negative(positive) : NULL;
        Py_XDECREF(positive);
        return result;
    }
    if (!PyLong_Check(right))
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t n = PyLong_AsUnsignedLongLongMask(right);
    if (UNLIKELY(n == UINT64_MAX && PyErr_Occurred()))
        return NULL;
    return user_address_new(a - n);
}

static int user_address_bool(PyObject *self)
{
    return ((UserAddress *)self)->ptr != 0;
}

static PyObject *user_address_compare(PyObject *left, PyObject *right, int op)
{
    if (!Py_IS_TYPE(left, &UserAddressType) || !Py_IS_TYPE(right, &UserAddressType))
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t a = ((UserAddress *)left)->ptr, b = ((UserAddress *)right)->ptr;
    Py_RETURN_RICHCOMPARE(a, b, op);
}

static Py_hash_t user_address_hash(PyObject *self)
{
    uint64_t ptr = ((UserAddress *)self)->ptr;
    Py_hash_t hash = (Py_hash_t)(ptr >> 4 | ptr << 60);
    return hash == -1 ? -2 : hash;
}

static PyObject *user_address_repr(PyObject *self)
{
    char text[24];
    snprintf(text, sizeof text, "0x%llx", (unsigned long long)((UserAddress *)self)->ptr);
    return PyUnicode_FromString(text);
}

static PyObject *user_address_get_ptr(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(((UserAddress *)self)->ptr);
}

static PyObject *user_address_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_BuildValue("O(K)", &UserAddressType, (unsigned long long)((UserAddress *)self)->ptr);
}

static PyNumberMethods as_number = {
    .nb_add = user_address_add,
    .nb_subtract = user_address_subtract,
    .nb_bool = user_address_bool,
};
static PyGetSetDef getset[] = {{"ptr", user_address_get_ptr, NULL, "the address as an int", NULL}, {0}};
static PyMethodDef methods[] = {{"__reduce__", user_address_reduce, METH_NOARGS, NULL}, {0}};

PyTypeObject UserAddressType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "polynix.addrspace._usercopy.UserAddress",
    .tp_doc = "UserAddress(ptr): an address in guest memory, 64 bits, unsigned. Reached only through a UserMap.",
    .tp_basicsize = sizeof(UserAddress),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = user_address_tp_new,
    .tp_vectorcall = user_address_vectorcall,
    .tp_dealloc = user_address_dealloc,
    .tp_as_number = &as_number,
    .tp_richcompare = user_address_compare,
    .tp_hash = user_address_hash,
    .tp_repr = user_address_repr,
    .tp_getset = getset,
    .tp_methods = methods,
};
