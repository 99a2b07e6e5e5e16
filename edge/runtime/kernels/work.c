/* One step of a model, from Python's arguments to the kernel. */

#include "python_side.h"

#include <stdlib.h>

/* Reads slot numbers of rows that exist. Returns NULL with an exception set, else to be freed with PyMem_Free. */
static long *read_slots(PyObject *object, Py_ssize_t capacity, Py_ssize_t *count)
{
    PyObject *sequence = PySequence_Fast(object, "slots must be a sequence");
    if (!sequence) return NULL;
    *count = PySequence_Fast_GET_SIZE(sequence);
    long *slots = PyMem_New(long, *count ? *count : 1);
    if (!slots) PyErr_NoMemory();
    for (Py_ssize_t i = 0; slots && i < *count; i++) {
        slots[i] = PyLong_AsLong(PySequence_Fast_GET_ITEM(sequence, i));
        if (slots[i] >= 0 && slots[i] < capacity) continue;
        if (!PyErr_Occurred()) PyErr_Format(PyExc_IndexError, "slot %ld is none of %zd", slots[i], capacity);
        PyMem_Free(slots);
        slots = NULL;
    }
    Py_DECREF(sequence);
    return slots;
}

/* The interpreter lock guards the spare workspaces. */
static float *borrow_workspace(Model *self)
{
    return self->spares ? self->spare[--self->spares] : aligned_floats(self->model.scratch_floats);
}

static void return_workspace(Model *self, float *workspace)
{
    if (self->spares < MAX_SPARE) self->spare[self->spares++] = workspace;
    else free(workspace);
}

/* Takes frames and logits for so many slots; returns 0 with an exception set, and neither taken, when one does not fit. */
static int open_frames(Work *work, PyObject *frames, PyObject *logits)
{
    const hop_shape *s = &work->model->model.shape;
    if (!float_buffer(frames, "frames", 0, 3, (Py_ssize_t[]){0, 0, s->leads}, &work->frames)) return 0;
    const Py_ssize_t *shape = work->frames.shape;
    if (shape[0] != work->count || shape[1] < 1 || shape[1] % s->stride)
        PyErr_Format(PyExc_ValueError, "frames must be (%zd, a multiple of %ld, %ld)", work->count, s->stride, s->leads);
    else if (float_buffer(logits, "logits", 1, 2, (Py_ssize_t[]){0, s->classes}, &work->logits)) {
        if (work->logits.shape[0] == work->count) return 1;
        PyErr_SetString(PyExc_ValueError, "logits must have a row for every slot");
        PyBuffer_Release(&work->logits);
    }
    PyBuffer_Release(&work->frames);
    return 0;
}

int open_work(Model *model, PyObject *args, Work *work)
{
    PyObject *states, *slots, *frames, *logits;
    if (!PyArg_ParseTuple(args, "OOOO", &states, &slots, &frames, &logits)) return 0;
    *work = (Work){.model = model};
    if (!float_buffer(states, "states", 1, 2, (Py_ssize_t[]){0, model->model.state_floats}, &work->states)) return 0;
    work->slots = read_slots(slots, work->states.shape[0], &work->count);
    if (work->slots && open_frames(work, frames, logits)) {
        work->workspace = borrow_workspace(model);
        if (work->workspace) {
            Py_INCREF(model);
            return 1;
        }
        PyErr_NoMemory();
        PyBuffer_Release(&work->logits);
        PyBuffer_Release(&work->frames);
    }
    PyMem_Free(work->slots);
    PyBuffer_Release(&work->states);
    return 0;
}

void do_work(const Work *work)
{
    hop_step(&work->model->model, work->workspace, work->states.buf, work->slots, (long)work->count, work->frames.buf,
             (long)work->frames.shape[1], work->logits.buf);
}

void close_work(Work *work)
{
    return_workspace(work->model, work->workspace);
    PyBuffer_Release(&work->logits);
    PyBuffer_Release(&work->frames);
    PyMem_Free(work->slots);
    PyBuffer_Release(&work->states);
    Py_DECREF(work->model);
}
