/*
 * module.c: polynix.addrspace._restricted: enter guest code with a register state, come back with a reason.
 */
#include "object.h"

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "polynix.addrspace._restricted",
    .m_doc = "Restricted mode: guest code in processes of its own, their registers in shared memory.",
    .m_size = -1,
};

static int add_constants(PyObject *module)
{
    static const struct {
        const char *name;
        unsigned long long value;
    } constants[] = {
#define ENTRY(name) {#name, name},
        LAYOUT_CONSTANTS(ENTRY)
#define REGISTER(name) {#name, name},
        REGISTER(REG_R8) REGISTER(REG_R9) REGISTER(REG_R10) REGISTER(REG_R11) REGISTER(REG_R12) REGISTER(REG_R13)
        REGISTER(REG_R14) REGISTER(REG_R15) REGISTER(REG_RDI) REGISTER(REG_RSI) REGISTER(REG_RBP) REGISTER(REG_RBX)
        REGISTER(REG_RDX) REGISTER(REG_RAX) REGISTER(REG_RCX) REGISTER(REG_RSP) REGISTER(REG_RIP) REGISTER(REG_EFL)
        REGISTER(REG_CSGSFS) REGISTER(REG_ERR) REGISTER(REG_TRAPNO) REGISTER(REG_OLDMASK) REGISTER(REG_CR2)
    };
    for (size_t index = 0; index < sizeof constants / sizeof *constants; index++) {
        PyObject *value = PyLong_FromUnsignedLongLong(constants[index].value);
        if (!value || PyModule_AddObjectRef(module, constants[index].name, value) < 0) {
            Py_XDECREF(value);
            return -1;
        }
        Py_DECREF(value);
    }
    return 0;
}

PyMODINIT_FUNC PyInit__restricted(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (!module || PyModule_AddType(module, &Monitor_Type) < 0 || PyModule_AddType(module, &Stub_Type) < 0 ||
        PyModule_AddType(module, &Slot_Type) < 0 || add_constants(module) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
