/* Steps in a thread of their own, which takes the interpreter lock for none of them.

   A thread that computes without the lock must have it back after each step, and waits for it while others interpret:
   under load for as long as the step itself took. So `begin` puts a step, as a pointer, into a pipe; the thread, inside
   `serve` all its life, takes it out, computes, and puts it into another pipe; `collect` takes it from there. A step
   belongs to whoever took it out of a pipe last, and nobody else may touch it. */

#include "python_side.h"

#ifndef _WIN32
#include <errno.h>
#include <unistd.h>

#define COLLECTED 64 /* at once; a pipe is asked again for more */

/* Both move one pointer, which pipes do in one piece; 0 when the other end is closed. */
static int put(int pipe, Work *work)
{
    ssize_t moved;
    while ((moved = write(pipe, &work, sizeof work)) < 0 && errno == EINTR) continue;
    return moved == sizeof work;
}

static int take(int pipe, Work **work)
{
    ssize_t moved;
    while ((moved = read(pipe, work, sizeof *work)) < 0 && errno == EINTR) continue;
    return moved == sizeof *work;
}

const char begin_doc[] = "begin(pipe, states, slots, frames, logits)\n--\n\n"
                         "Hand a step to the thread that serves the pipe. The arrays are its own until `collect` has "
                         "counted it.";

PyObject *model_begin(PyObject *object, PyObject *args)
{
    const int pipe = PyTuple_GET_SIZE(args) ? PyObject_AsFileDescriptor(PyTuple_GET_ITEM(args, 0)) : -1;
    PyObject *rest = pipe < 0 && PyErr_Occurred() ? NULL : PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args));
    Work *work = rest ? PyMem_New(Work, 1) : NULL;
    if (rest && !work) PyErr_NoMemory();
    const int opened = work && open_work((Model *)object, rest, work);
    Py_XDECREF(rest);
    if (opened && put(pipe, work)) return Py_NewRef(Py_None);
    if (opened) {
        PyErr_SetFromErrno(PyExc_OSError);
        close_work(work);
    }
    PyMem_Free(work);
    return NULL;
}

PyDoc_STRVAR(serve_doc, "serve(requests, replies)\n--\n\n"
                        "Take the steps that come through one pipe, pass them on through the other; return when the "
                        "first is closed.");

static PyObject *serve(PyObject *module, PyObject *args)
{
    (void)module;
    int requests, replies;
    if (!PyArg_ParseTuple(args, "ii:serve", &requests, &replies)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    Work *work;
    while (take(requests, &work)) {
        do_work(work);
        if (!put(replies, work)) break;
    }
    Py_END_ALLOW_THREADS
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(collect_doc, "collect(replies) -> int\n--\n\n"
                          "Return how many steps are done, in the order they were begun, since this was last asked: "
                          "0 when the pipe is empty and does not block. A null pointer in it is passed over.");

static PyObject *collect(PyObject *module, PyObject *pipe)
{
    (void)module;
    Work *done[COLLECTED];
    const int descriptor = PyObject_AsFileDescriptor(pipe);
    if (descriptor < 0) return NULL;
    ssize_t bytes;
    while ((bytes = read(descriptor, done, sizeof done)) < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return PyErr_SetFromErrno(PyExc_OSError);
    long count = 0;
    for (ssize_t i = 0; i < bytes / (ssize_t)sizeof *done; i++) {
        if (!done[i]) continue;
        close_work(done[i]);
        PyMem_Free(done[i]);
        count++;
    }
    return PyLong_FromLong(count);
}

PyMethodDef step_functions[] = {
    {"serve", serve, METH_VARARGS, serve_doc}, {"collect", collect, METH_O, collect_doc}, {0}};
#else
PyMethodDef step_functions[] = {{0}};
#endif
