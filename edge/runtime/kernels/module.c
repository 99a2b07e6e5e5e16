/* The extension module: one per vector width, all from the same source. Buffers are those of the buffer protocol. */

#include "python_side.h"

#include "peak.h"

int float_buffer(PyObject *object, const char *name, int writable, int dimensions, const Py_ssize_t *shape,
                 Py_buffer *view)
{
    const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags) < 0) return 0;
    int fits = view->itemsize == 4 && view->format && strcmp(view->format, "f") == 0 && view->ndim == dimensions;
    for (int i = 0; fits && i < dimensions; i++) fits = !shape[i] || view->shape[i] == shape[i];
    if (fits) return 1;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "%s must be float32, with %d dimensions as the model and the slots say", name,
                 dimensions);
    return 0;
}

/* 2: AVX-512, 1: AVX2 with multiply-add, 0: neither. */
static PyObject *cpu_level(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    long level = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level = 1;
    if (level && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        level = 2;
#endif
    return PyLong_FromLong(level);
}

static void exp2_of(const float *from, float *to) { store(to, exp2_any(load(from))); }
static void silu_of(const float *from, float *to) { store(to, silu(load(from))); }
static void softplus_of(const float *from, float *to) { store(to, softplus(load(from))); }

static const struct {
    const char *name;
    void (*of)(const float *from, float *to);
} FUNCTIONS[] = {{"exp2", exp2_of}, {"silu", silu_of}, {"softplus", softplus_of}};

PyDoc_STRVAR(apply_doc, "apply(name, values, results)\n--\n\n"
                        "Put exp2, silu or softplus of each value into results, as the kernel computes them.");

static PyObject *apply(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    PyObject *from_object, *to_object;
    if (!PyArg_ParseTuple(args, "sOO:apply", &name, &from_object, &to_object)) return NULL;
    unsigned which = 0;
    while (which < sizeof FUNCTIONS / sizeof FUNCTIONS[0] && strcmp(FUNCTIONS[which].name, name) != 0) which++;
    if (which == sizeof FUNCTIONS / sizeof FUNCTIONS[0]) return PyErr_Format(PyExc_ValueError, "no function %s", name);
    Py_buffer from, to;
    if (!float_buffer(from_object, "values", 0, 1, (Py_ssize_t[]){0}, &from)) return NULL;
    if (!float_buffer(to_object, "results", 1, 1, &from.shape[0], &to)) {
        PyBuffer_Release(&from);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < from.shape[0] && to.shape[0] == from.shape[0]; i += LANES) {
        const size_t bytes = sizeof(float) * (size_t)(from.shape[0] - i < LANES ? from.shape[0] - i : LANES);
        float values[LANES] = {0.0f};
        memcpy(values, (const float *)from.buf + i, bytes);
        FUNCTIONS[which].of(values, values);
        memcpy((float *)to.buf + i, values, bytes);
    }
    PyBuffer_Release(&to);
    PyBuffer_Release(&from);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(peak_doc, "peak(kind, rounds)\n--\n\n"
                       "Compute 'multiply_add' or 'exp' at full speed; return how many single operations that were.");

static PyObject *peak(PyObject *module, PyObject *args)
{
    (void)module;
    const char *kind;
    long rounds, operations;
    if (!PyArg_ParseTuple(args, "sl:peak", &kind, &rounds)) return NULL;
    if (strcmp(kind, "multiply_add") == 0) operations = peak_multiply_adds(rounds);
    else if (strcmp(kind, "exp") == 0) operations = peak_exponentials(rounds);
    else return PyErr_Format(PyExc_ValueError, "no peak %s", kind);
    return PyLong_FromLong(operations);
}

static PyMethodDef functions[] = {
    {"cpu_level", cpu_level, METH_NOARGS, "Return 2 for AVX-512, 1 for AVX2 with multiply-add, 0 for neither."},
    {"apply", apply, METH_VARARGS, apply_doc},
    {"peak", peak, METH_VARARGS, peak_doc},
    {0},
};

static int fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&model_spec);
    if (!type || PyModule_AddFunctions(module, step_functions) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    const int added = PyModule_AddObjectRef(module, "Model", type);
    Py_DECREF(type);
    return added < 0 ? -1 : PyModule_AddIntConstant(module, "LANES", LANES);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "hop", .m_size = 0, .m_methods = functions, .m_slots = slots,
};

#define JOIN(a, b) a##b
#define INIT(name) JOIN(PyInit_, name)

PyMODINIT_FUNC INIT(MODULE)(void) { return PyModuleDef_Init(&definition); }
