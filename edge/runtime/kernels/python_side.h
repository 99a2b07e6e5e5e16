/* What the files that speak to Python share. */
#ifndef ECG_EDGE_PYTHON_SIDE_H
#define ECG_EDGE_PYTHON_SIDE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Fills `view` with a contiguous float32 buffer of the given dimensions (0: any); returns 0 with an exception set when
   it was refused. */
int float_buffer(PyObject *object, const char *name, int writable, int dimensions, const Py_ssize_t *shape,
                 Py_buffer *view);

extern PyType_Spec model_spec;

#endif
