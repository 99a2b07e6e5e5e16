/* `Model`: built once, stepped without the interpreter lock. */

#include "python_side.h"

#include <math.h>
#include <stdlib.h>

PyDoc_STRVAR(step_doc, "step(states, slots, frames, logits)\n--\n\n"
                       "Advance the rows of states (capacity, state_floats) that slots name by frames (slots, samples, "
                       "leads); put the scores into logits (slots, classes). Slots must be distinct.");

static PyObject *model_step(PyObject *object, PyObject *args)
{
    Work work;
    if (!open_work((Model *)object, args, &work)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    do_work(&work);
    Py_END_ALLOW_THREADS
    close_work(&work);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(sizes_doc, "sizes(states, slot) -> list\n--\n\n"
                        "Return the root mean square of each carried tensor in a row of states, as `tensors` lists them.");

static double root_mean_square(const float *from, const hop_tensor *t)
{
    double sum = 0.0;
    for (long row = 0; row < t->rows; row++)
        for (long column = 0; column < t->columns; column++) {
            const double x = from[t->offset + row * t->stride + column];
            sum += x * x;
        }
    return sqrt(sum / (double)(t->rows * t->columns));
}

static PyObject *model_sizes(PyObject *object, PyObject *args)
{
    const hop_model *model = &((Model *)object)->model;
    PyObject *states_object;
    long slot;
    Py_buffer states;
    if (!PyArg_ParseTuple(args, "Ol:sizes", &states_object, &slot)) return NULL;
    if (!float_buffer(states_object, "states", 0, 2, (Py_ssize_t[]){0, model->state_floats}, &states)) return NULL;
    PyObject *list = NULL;
    if (slot < 0 || slot >= states.shape[0]) PyErr_Format(PyExc_IndexError, "slot %ld is none of %zd", slot, states.shape[0]);
    else list = PyList_New(model->tensor_count);
    for (long i = 0; list && i < model->tensor_count; i++) {
        const float *row = (const float *)states.buf + slot * model->state_floats;
        PyObject *size = PyFloat_FromDouble(root_mean_square(row, &model->tensors[i]));
        if (size) PyList_SET_ITEM(list, i, size);
        else Py_CLEAR(list);
    }
    PyBuffer_Release(&states);
    return list;
}

/* Reads the shape, a sequence of SHAPE_NUMBERS whole numbers in the order of hop_shape. */
static int read_shape(PyObject *object, hop_shape *shape)
{
    long *numbers = (long *)shape;
    PyObject *sequence = PySequence_Fast(object, "the shape must be a sequence");
    int read = sequence && PySequence_Fast_GET_SIZE(sequence) == SHAPE_NUMBERS;
    if (sequence && !read) PyErr_Format(PyExc_ValueError, "the shape must have %d numbers", SHAPE_NUMBERS);
    for (int i = 0; read && i < SHAPE_NUMBERS; i++) {
        numbers[i] = PyLong_AsLong(PySequence_Fast_GET_ITEM(sequence, i));
        if (numbers[i] == -1 && PyErr_Occurred()) read = 0;
    }
    Py_XDECREF(sequence);
    return read;
}

/* Builds from a list of float32 buffers; returns 0 with an exception set when one does not fit. */
static int build(Model *self, const hop_shape *shape, PyObject *list)
{
    const Py_ssize_t count = PyList_GET_SIZE(list);
    hop_weight *weights = PyMem_New(hop_weight, count ? count : 1);
    Py_buffer *views = PyMem_New(Py_buffer, count ? count : 1);
    Py_ssize_t held = 0;
    const char *problem = weights && views ? NULL : "memory ran out";
    for (; !problem && held < count; held++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(list, held), &views[held], PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) break;
        if (views[held].itemsize != 4 || !views[held].format || strcmp(views[held].format, "f") != 0)
            problem = "a weight is not float32";
        weights[held] = (hop_weight){views[held].buf, (long)(views[held].len / 4)};
    }
    if (!problem && held == count) problem = hop_build(&self->model, shape, weights, (long)count);
    if (problem) PyErr_SetString(PyExc_ValueError, problem);
    while (held > 0) PyBuffer_Release(&views[--held]);
    PyMem_Free(views);
    PyMem_Free(weights);
    return !PyErr_Occurred();
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *numbers, *list;
    hop_shape shape;
    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Model takes no keywords");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO!:Model", &numbers, &PyList_Type, &list) || !read_shape(numbers, &shape)) return NULL;
    Model *self = (Model *)type->tp_alloc(type, 0);
    if (self && !build(self, &shape, list)) Py_CLEAR(self);
    return (PyObject *)self;
}

static void model_dealloc(PyObject *object)
{
    Model *self = (Model *)object;
    PyTypeObject *type = Py_TYPE(object);
    while (self->spares > 0) free(self->spare[--self->spares]);
    hop_free(&self->model);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *model_tensors(PyObject *object, void *unused)
{
    (void)unused;
    const hop_model *model = &((Model *)object)->model;
    PyObject *list = PyList_New(model->tensor_count);
    for (long i = 0; list && i < model->tensor_count; i++) {
        const hop_tensor *t = &model->tensors[i];
        PyObject *entry = Py_BuildValue("(llll)", t->offset, t->rows, t->columns, t->stride);
        if (entry) PyList_SET_ITEM(list, i, entry);
        else Py_CLEAR(list);
    }
    return list;
}

static PyObject *model_state_floats(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((Model *)object)->model.state_floats);
}

static PyMethodDef model_methods[] = {
    {"step", model_step, METH_VARARGS, step_doc},
#ifndef _WIN32
    {"begin", model_begin, METH_VARARGS, begin_doc},
#endif
    {"sizes", model_sizes, METH_VARARGS, sizes_doc},
    {0},
};

static PyGetSetDef model_attributes[] = {
    {"tensors", model_tensors, NULL, "where each carried tensor stands: (offset, rows, columns, stride)", NULL},
    {"state_floats", model_state_floats, NULL, "floats of one stream's row of state", NULL},
    {0},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "Model(shape, weights)\n--\n\nA model; weights are float32 buffers in the order of hop_build."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_attributes},
    {0, NULL},
};

PyType_Spec model_spec = {"edge.runtime.hop.Model", sizeof(Model), 0, Py_TPFLAGS_DEFAULT, model_slots};
