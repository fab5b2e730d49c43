/* The module polynix.addrspace._usercopy: its types, its exception, and what the other files share. */
#include "usercopy.h"

bool arguments_check(const char *name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most)
{
    if (LIKELY(given >= least && given <= most))
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd%s arguments, %zd given", name, least, least == most ? "" : " or more", given);
    return false;
}

bool argument_u64(PyObject *object, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(object);
    return LIKELY(*value != UINT64_MAX) || !PyErr_Occurred();
}

bool argument_size(PyObject *object, uint64_t *value)
{
    Py_ssize_t size = PyLong_AsSsize_t(object);
    if (UNLIKELY(size < 0)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_OverflowError, "a size or offset is not negative");
        return false;
    }
    *value = (uint64_t)size;
    return true;
}

bool argument_iov(PyObject *item, uint64_t *address, uint64_t *n)
{
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
        PyErr_SetString(PyExc_TypeError, "an iovec is a sequence of tuples (UserAddress, int)");
        return false;
    }
    return user_address_get(PyTuple_GET_ITEM(item, 0), address) && argument_size(PyTuple_GET_ITEM(item, 1), n);
}

static PyObject *window_faults(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromUnsignedLongLong(recovery_window_faults());
}

static PyObject *windows(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromUnsignedLong(window_count());
}

static PyObject *set_window_limit(PyObject *module, PyObject *value)
{
    (void)module;
    unsigned long limit = PyLong_AsUnsignedLong(value);
    if (limit == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (limit > UINT32_MAX || !window_set_limit((uint32_t)limit)) {
        PyErr_SetString(PyExc_ValueError, "the limit of windows is out of range");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *install_fault_handler(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (recovery_install() < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"window_faults", window_faults, METH_NOARGS, "window_faults() -> how many window pages the last-resort handler replaced"},
    {"windows", windows, METH_NOARGS, "windows() -> how many windows are mapped"},
    {"set_window_limit", set_window_limit, METH_O, "set_window_limit(n): drop the least recently used windows beyond n"},
    {"install_fault_handler", install_fault_handler, METH_NOARGS, "install_fault_handler(): again, after somebody took SIGBUS or SIGSEGV"},
    {0},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "polynix.addrspace._usercopy",
    .m_doc = "Guest memory as the kernel process reaches it: translation through the VMAs, checked copies, recovered faults.",
    .m_size = -1,
    .m_methods = functions,
};

static int add_methods(PyTypeObject *type, PyMethodDef *methods)
{
    for (; methods->ml_name; methods++) {
        PyObject *descriptor = PyDescr_NewMethod(type, methods);
        if (!descriptor || PyDict_SetItemString(type->tp_dict, methods->ml_name, descriptor) < 0) {
            Py_XDECREF(descriptor);
            return -1;
        }
        Py_DECREF(descriptor);
    }
    PyType_Modified(type);
    return 0;
}

static PyObject *new_fault_type(void)
{
    PyObject *attributes = Py_BuildValue("{s:i,s:O,s:i}", "errno", 14, "address", Py_None, "done", 0); /* EFAULT */
    PyObject *type = attributes ? PyErr_NewExceptionWithDoc(
                         "polynix.addrspace._usercopy.Fault",
                         "Guest memory can't be accessed: `address` is the first byte that failed, `done` counts those before it. `errno` is EFAULT.",
                         NULL, attributes)
                                : NULL;
    Py_XDECREF(attributes);
    return type;
}

PyMODINIT_FUNC PyInit__usercopy(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (!module)
        return NULL;
    if (PyModule_AddType(module, &UserAddressType) < 0 || PyModule_AddType(module, &MemoryObjectType) < 0
        || PyModule_AddType(module, &UserMapType) < 0 || PyModule_AddType(module, &UserOutputType) < 0
        || PyModule_AddType(module, &UserInputType) < 0 || add_methods(&UserMapType, user_map_copy_methods) < 0
        || add_methods(&UserMapType, user_map_word_methods) < 0 || add_methods(&UserMapType, user_map_host_io_methods) < 0
        || !(FaultError = new_fault_type()) || PyModule_AddObjectRef(module, "Fault", FaultError) < 0 || recovery_install() < 0) {
        if (!PyErr_Occurred())
            PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
