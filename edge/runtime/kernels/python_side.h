/* What the files that speak to Python share. */
#ifndef ECG_EDGE_PYTHON_SIDE_H
#define ECG_EDGE_PYTHON_SIDE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "hop.h"

#define MAX_SPARE 8 /* workspaces kept for the next step, one per step that was under way at the same time */

typedef struct {
    PyObject_HEAD
    hop_model model;
    float *spare[MAX_SPARE];
    int spares;
} Model;

/* A step with all that it needs: buffers that fit, slots that exist, a workspace, and the model itself. */
typedef struct {
    Model *model;
    Py_buffer states, frames, logits;
    long *slots;
    Py_ssize_t count;
    float *workspace;
} Work;

/* Fills `view` with a contiguous float32 buffer of the given dimensions (0: any); returns 0 with an exception set when
   it was refused. */
int float_buffer(PyObject *object, const char *name, int writable, int dimensions, const Py_ssize_t *shape,
                 Py_buffer *view);

/* Takes (states, slots, frames, logits), every size checked; returns 0 with an exception set when one does not fit. */
int open_work(Model *model, PyObject *args, Work *work);
/* Takes the step. Alone of all this it needs no interpreter lock. */
void do_work(const Work *work);
void close_work(Work *work);

/* Steps in a thread of their own, where there are pipes: see steps.c. */
extern const char begin_doc[];
PyObject *model_begin(PyObject *object, PyObject *args);
extern PyMethodDef step_functions[];

extern PyType_Spec model_spec;

#endif
