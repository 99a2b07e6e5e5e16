/* The front-end's two filters over interleaved leads: second-order sections (edge/signal/sections.py) and the polyphase
 * resampler (edge/signal/resample.py).
 *
 * Compiled without contraction to fused multiply-adds: the results are those of the NumPy versions to the last bit. The
 * leads of a sample lie side by side and do not depend on each other, so the compiler computes them in vectors. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define MAX_LEADS 16 /* as in edge/signal/kernel.py */

static void filter_one(const double *restrict section, double *restrict samples, long count, long leads,
                       double *restrict state)
{
    const double b0 = section[0], b1 = section[1], b2 = section[2], a1 = section[4], a2 = section[5];
    double z0[MAX_LEADS], z1[MAX_LEADS];
    for (long lead = 0; lead < leads; lead++) {
        z0[lead] = state[lead];
        z1[lead] = state[leads + lead];
    }
    for (long k = 0; k < count; k++) {
        double *restrict x = samples + k * leads;
        for (long lead = 0; lead < leads; lead++) {
            const double y = b0 * x[lead] + z0[lead];
            z0[lead] = b1 * x[lead] - a1 * y + z1[lead];
            z1[lead] = b2 * x[lead] - a2 * y;
            x[lead] = y;
        }
    }
    for (long lead = 0; lead < leads; lead++) {
        state[lead] = z0[lead];
        state[leads + lead] = z1[lead];
    }
}

/* samples (streams, count, leads) and state (sections, streams, 2, leads) are changed in place; leads <= MAX_LEADS. */
void filter_sections(const double *sos, long sections, double *samples, long streams, long count, long leads,
                     double *state)
{
    for (long stream = 0; stream < streams; stream++)
        for (long section = 0; section < sections; section++)
            filter_one(sos + 6 * section, samples + stream * count * leads, count, leads,
                       state + (section * streams + stream) * 2 * leads);
}

/* outputs (count, leads): output k is the sum over j of taps[phase][j] * inputs[newest - j], where its place on the
 * upsampled axis is (first + k) * down, its phase that modulo up, its newest input that divided by up. taps is (up, reach);
 * inputs (…, leads) reach back far enough. */
void resample(const double *taps, long up, long down, long reach, const double *inputs, long leads, long first,
              long count, double *outputs)
{
    for (long k = 0; k < count; k++) {
        const long place = (first + k) * down;
        const double *restrict row = taps + place % up * reach;
        double sum[MAX_LEADS] = {0.0};
        for (long j = 0; j < reach; j++) {
            const double *restrict x = inputs + (place / up - j) * leads;
            for (long lead = 0; lead < leads; lead++) sum[lead] += row[j] * x[lead];
        }
        for (long lead = 0; lead < leads; lead++) outputs[k * leads + lead] = sum[lead];
    }
}

/* An empty Python module: the package build compiles and finds it, ctypes calls it (and so releases the interpreter
 * lock). */
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_frontend", .m_size = 0};

PyMODINIT_FUNC PyInit__frontend(void) { return PyModuleDef_Init(&definition); }
