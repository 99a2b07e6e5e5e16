/* What the signal path does for every sample, as a Python extension: int16 to millivolts (edge/stream/wire.py), the
 * polyphase resampler (edge/signal/resample.py), second-order sections (edge/signal/sections.py), normalisation
 * (edge/signal/frontend.py) and the measurements that the verdict on a hop rests on (edge/signal/lead_quality.py). Each
 * has a twin in NumPy.
 *
 * Compiled without contraction to fused multiply-adds: the results are those of the twins to the last bit. The leads of a
 * sample lie side by side and do not depend on each other, so the compiler computes them in vectors.
 *
 * Arguments are C-contiguous buffers whose sizes are checked before anything is touched. The interpreter lock is let go
 * of only where there is much to do: getting it back may take longer than a hop of one stream. */

#include "quality.h"

#include <math.h>
#include <string.h>

#define MUCH_WORK (1 << 20)
#define INVALID_SAMPLE INT16_MIN

/* Second-order sections. A state that has died away becomes zero: what is next to nothing takes a processor a hundred
   times as long, and a lead at exactly 0 mV, of an electrode unplugged, would cost that for good. */

#define NEXT_TO_NOTHING_MV 1e-30

static inline double living(double state) { return fabs(state) < NEXT_TO_NOTHING_MV ? 0.0 : state; }

static void filter_one(const double *restrict section, double *restrict samples, long long count, long long leads,
                       double *restrict state)
{
    const double b0 = section[0], b1 = section[1], b2 = section[2], a1 = section[4], a2 = section[5];
    double z0[MAX_LEADS], z1[MAX_LEADS];
    for (long long lead = 0; lead < leads; lead++) {
        z0[lead] = state[lead];
        z1[lead] = state[leads + lead];
    }
    for (long long k = 0; k < count; k++) {
        double *restrict x = samples + k * leads;
        for (long long lead = 0; lead < leads; lead++) {
            const double y = b0 * x[lead] + z0[lead];
            z0[lead] = living(b1 * x[lead] - a1 * y + z1[lead]);
            z1[lead] = living(b2 * x[lead] - a2 * y);
            x[lead] = y;
        }
    }
    for (long long lead = 0; lead < leads; lead++) {
        state[lead] = z0[lead];
        state[leads + lead] = z1[lead];
    }
}

static void filter_all(const double *sos, long long sections, double *samples, long long streams, long long count,
                       long long leads, double *state)
{
    for (long long stream = 0; stream < streams; stream++)
        for (long long section = 0; section < sections; section++)
            filter_one(sos + 6 * section, samples + stream * count * leads, count, leads,
                       state + (section * streams + stream) * 2 * leads);
}

PyDoc_STRVAR(filter_doc, "filter_sections(sos, samples, state, sections, streams, count, leads)\n\n"
                         "Change samples (streams, count, leads) and state (sections, streams, 2, leads) in place.");

static PyObject *filter_sections(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t arguments)
{
    if (!has_arguments(arguments, 7)) return NULL;
    const long long sections = number(given[3], 0, "sections"), streams = number(given[4], 0, "streams");
    const long long count = number(given[5], 0, "count"), leads = number(given[6], 1, "leads");
    if (sections < 0 || streams < 0 || count < 0 || !fits_leads(leads)) return NULL;
    Py_buffer sos, samples, state;
    if (!take(given[0], &sos, 0, sections * 48, "sos")) return NULL;
    if (!take(given[1], &samples, PyBUF_WRITABLE, streams * count * leads * 8, "samples")) goto release_sos;
    if (!take(given[2], &state, PyBUF_WRITABLE, sections * streams * 2 * leads * 8, "state")) goto release_samples;
    PyThreadState *saved = streams * count > MUCH_WORK / MAX_LEADS ? PyEval_SaveThread() : NULL;
    filter_all(sos.buf, sections, samples.buf, streams, count, leads, state.buf);
    if (saved != NULL) PyEval_RestoreThread(saved);
    PyBuffer_Release(&state);
release_samples:
    PyBuffer_Release(&samples);
release_sos:
    PyBuffer_Release(&sos);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* Normalisation */

PyDoc_STRVAR(normalise_doc, "normalise(filtered_mv, mean_mv, std_mv, outputs, count, leads)\n\n"
                            "outputs (count, leads) float32 = (filtered_mv - mean_mv) / std_mv; the latter two (leads).");

static PyObject *normalise(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t arguments)
{
    if (!has_arguments(arguments, 6)) return NULL;
    const long long count = number(given[4], 0, "count"), leads = number(given[5], 1, "leads");
    if (count < 0 || !fits_leads(leads)) return NULL;
    const long long bytes[4] = {count * leads * 8, leads * 8, leads * 8, count * leads * 4};
    static const char *const names[4] = {"filtered_mv", "mean_mv", "std_mv", "outputs"};
    Py_buffer views[4];
    int taken = 0;
    while (taken < 4 && take(given[taken], &views[taken], taken < 3 ? 0 : PyBUF_WRITABLE, bytes[taken], names[taken]))
        taken++;
    if (taken == 4) {
        const double *restrict mean_mv = views[1].buf, *restrict std_mv = views[2].buf;
        for (long long k = 0; k < count; k++) {
            const double *restrict x = (const double *)views[0].buf + k * leads;
            float *restrict to = (float *)views[3].buf + k * leads;
            for (long long lead = 0; lead < leads; lead++) to[lead] = (float)((x[lead] - mean_mv[lead]) / std_mv[lead]);
        }
    }
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* Resampling */

PyDoc_STRVAR(resample_doc,
             "resample(taps, inputs, outputs, up, down, reach, leads, first, count, given)\n\n"
             "Output k of outputs (count, leads) is the sum over j of taps[phase][j] * inputs[newest - j]: its place on "
             "the upsampled axis is (first + k) * down, its phase that modulo up, its newest input that divided by up. "
             "taps is (up, reach), inputs (given, leads).");

static PyObject *resample(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t arguments)
{
    if (!has_arguments(arguments, 10)) return NULL;
    const long long up = number(given[3], 1, "up"), down = number(given[4], 1, "down");
    const long long reach = number(given[5], 1, "reach"), leads = number(given[6], 1, "leads");
    const long long first = number(given[7], 0, "first"), count = number(given[8], 0, "count");
    const long long rows = number(given[9], 0, "given");
    if (up < 0 || down < 0 || reach < 0 || first < 0 || count < 0 || rows < 0 || !fits_leads(leads)) return NULL;
    if (count > 0 && (first * down / up < reach - 1 || (first + count - 1) * down / up >= rows)) {
        PyErr_SetString(PyExc_ValueError, "the inputs do not reach as far as the outputs look");
        return NULL;
    }
    Py_buffer taps, inputs, outputs;
    if (!take(given[0], &taps, 0, up * reach * 8, "taps")) return NULL;
    if (!take(given[1], &inputs, 0, rows * leads * 8, "inputs")) goto release_taps;
    if (!take(given[2], &outputs, PyBUF_WRITABLE, count * leads * 8, "outputs")) goto release_inputs;
    for (long long k = 0; k < count; k++) {
        const long long place = (first + k) * down;
        const double *restrict row = (const double *)taps.buf + place % up * reach;
        double sum[MAX_LEADS] = {0.0};
        for (long long j = 0; j < reach; j++) {
            const double *restrict x = (const double *)inputs.buf + (place / up - j) * leads;
            for (long long lead = 0; lead < leads; lead++) sum[lead] += row[j] * x[lead];
        }
        memcpy((double *)outputs.buf + k * leads, sum, sizeof(double) * (size_t)leads);
    }
    PyBuffer_Release(&outputs);
release_inputs:
    PyBuffer_Release(&inputs);
release_taps:
    PyBuffer_Release(&taps);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* Millivolts */

PyDoc_STRVAR(millivolts_doc,
             "millivolts(units, samples_mv, invalid, leads, count, baseline, units_per_mv) -> bool\n\n"
             "Turn int16 units (leads, count) into samples_mv (count, leads), NaN where invalid (count, leads) becomes "
             "true; tell whether it did anywhere.");

static PyObject *millivolts(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t arguments)
{
    if (!has_arguments(arguments, 7)) return NULL;
    const long long leads = number(given[3], 1, "leads"), count = number(given[4], 0, "count");
    const double baseline = PyFloat_AsDouble(given[5]), units_per_mv = PyFloat_AsDouble(given[6]);
    if (PyErr_Occurred() || count < 0 || !fits_leads(leads)) return NULL;
    int any_invalid = 0;
    Py_buffer units, samples_mv, invalid;
    if (!take(given[0], &units, 0, leads * count * 2, "units")) return NULL;
    if (!take(given[1], &samples_mv, PyBUF_WRITABLE, leads * count * 8, "samples_mv")) goto release_units;
    if (!take(given[2], &invalid, PyBUF_WRITABLE, leads * count, "invalid")) goto release_samples;
    for (long long lead = 0; lead < leads; lead++) {
        const int16_t *restrict x = (const int16_t *)units.buf + lead * count;
        double *restrict to = (double *)samples_mv.buf + lead;
        uint8_t *restrict lost = (uint8_t *)invalid.buf + lead;
        for (long long k = 0; k < count; k++) {
            const int is_invalid = x[k] == INVALID_SAMPLE;
            to[k * leads] = is_invalid ? Py_NAN : ((double)x[k] - baseline) / units_per_mv;
            lost[k * leads] = (uint8_t)is_invalid;
            any_invalid |= is_invalid;
        }
    }
    PyBuffer_Release(&invalid);
release_samples:
    PyBuffer_Release(&samples_mv);
release_units:
    PyBuffer_Release(&units);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(any_invalid);
}

/* Quality */

PyDoc_STRVAR(judge_doc,
             "judge(raw_mv, invalid, lead_off, limits, relations, codes, shares, count, received, leads, rows) -> int\n\n"
             "Fill codes (leads) int32 and shares (leads) of raw_mv (count, leads); invalid is (received, leads), "
             "lead_off (leads). Return 0 when nothing is wrong, 2 when limb leads contradict, otherwise 1.");

static PyObject *judge(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t arguments)
{
    if (!has_arguments(arguments, 11)) return NULL;
    const long long count = number(given[7], 8, "count"), received = number(given[8], 0, "received");
    const long long leads = number(given[9], 1, "leads"), rows = number(given[10], 0, "rows");
    if (count < 0 || received < 0 || rows < 0 || !fits_leads(leads)) return NULL;
    const long long bytes[7] = {count * leads * 8, received * leads, leads, sizeof(Limits), rows * leads * 8, leads * 4,
                                leads * 8};
    static const char *const names[7] = {"raw_mv", "invalid", "lead_off", "limits", "relations", "codes", "shares"};
    Py_buffer views[7];
    int taken = 0, verdict = 0;
    while (taken < 7 && take(given[taken], &views[taken], taken < 5 ? 0 : PyBUF_WRITABLE, bytes[taken], names[taken]))
        taken++;
    double *room = taken == 7 ? PyMem_Malloc(sizeof(double) * (size_t)count) : NULL;
    if (room != NULL)
        verdict = judge_hop(views[0].buf, views[1].buf, views[2].buf, views[3].buf, views[4].buf, views[5].buf,
                            views[6].buf, count, received, leads, rows, room);
    else if (taken == 7)
        PyErr_NoMemory();
    PyMem_Free(room);
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(verdict);
}

static PyMethodDef methods[] = {
    {"filter_sections", (PyCFunction)(void (*)(void))filter_sections, METH_FASTCALL, filter_doc},
    {"normalise", (PyCFunction)(void (*)(void))normalise, METH_FASTCALL, normalise_doc},
    {"resample", (PyCFunction)(void (*)(void))resample, METH_FASTCALL, resample_doc},
    {"millivolts", (PyCFunction)(void (*)(void))millivolts, METH_FASTCALL, millivolts_doc},
    {"judge", (PyCFunction)(void (*)(void))judge, METH_FASTCALL, judge_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_frontend", .m_doc = "The signal path's kernels.", .m_methods = methods};

PyMODINIT_FUNC PyInit__frontend(void) { return PyModuleDef_Init(&definition); }
