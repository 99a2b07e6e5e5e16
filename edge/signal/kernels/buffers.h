/* Checks of the arguments that Python hands to a kernel. */

#ifndef ECG_EDGE_BUFFERS_H
#define ECG_EDGE_BUFFERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define MAX_LEADS 16 /* as in edge/signal/kernel.py */

/* Take a buffer of exactly so many bytes; 0 when it is something else, with an exception set. */
static int take(PyObject *object, Py_buffer *view, int flags, long long bytes, const char *name)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | flags) < 0) return 0;
    if (view->len == bytes) return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, not %lld", name, view->len, bytes);
    PyBuffer_Release(view);
    return 0;
}

/* Read a whole number from lowest to 2^31 - 1; -1 with an exception set when it is something else. */
static long long number(PyObject *object, long lowest, const char *name)
{
    const long value = PyLong_AsLong(object);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value >= lowest && value <= INT32_MAX) return value;
    PyErr_Format(PyExc_ValueError, "%s is %ld", name, value);
    return -1;
}

static int has_arguments(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted) return 1;
    PyErr_Format(PyExc_TypeError, "%zd arguments instead of %zd", given, wanted);
    return 0;
}

static int fits_leads(long long leads)
{
    if (leads >= 1 && leads <= MAX_LEADS) return 1;
    if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%lld leads; the kernel takes 1 to %d", leads, MAX_LEADS);
    return 0;
}

#endif
