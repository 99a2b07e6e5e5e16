/* Selective scan of Mamba, forward and backward, in float32 on the CPU.

     h_t = exp(dt_t A) h_{t-1} + dt_t u_t b_t        y_t = c_t . h_t

   Layouts: u, dt, y (batch, length, inner); b, c (batch, length, states); a2 (states, inner) = A log2(e), transposed;
   h0, h_last (batch, states, inner); checkpoints (batch, segments, states, inner), one every SEGMENT steps.
   Channels lie side by side in a vector, all states of a group of channels in registers. A caller may split the batch
   over threads: each call works on batches [first, last). */

#include "vector.h"

#include <stdlib.h>

#define SEGMENT 50
#define MAX_STATES 32

int scan_segment(void) { return SEGMENT; }
int scan_lanes(void) { return LANES; }

INLINE int smaller(int a, int b) { return a < b ? a : b; }

INLINE void forward(const int N, int first, int last, int length, int inner, const float *u, const float *dt,
                    const float *a2, const float *b, const float *c, const float *h0, float *y, float *h_last,
                    float *checkpoints)
{
    const int segments = (length + SEGMENT - 1) / SEGMENT;
    for (int batch = first; batch < last; batch++)
        for (int d = 0; d < inner; d += LANES) {
            const int count = inner - d;
            vec h[MAX_STATES], a[MAX_STATES];
            for (int n = 0; n < N; n++) {
                h[n] = load_some(h0 + ((long)batch * N + n) * inner + d, count);
                a[n] = load_some(a2 + (long)n * inner + d, count);
            }
            for (int t = 0; t < length; t++) {
                const long row = (long)batch * length + t;
                if (t % SEGMENT == 0) {
                    float *kept = checkpoints + ((long)batch * segments + t / SEGMENT) * N * inner + d;
                    for (int n = 0; n < N; n++) store_some(kept + (long)n * inner, h[n], count);
                }
                const vec step = load_some(dt + row * inner + d, count);
                const vec input = step * load_some(u + row * inner + d, count);
                vec sum = broadcast(0.0f);
#pragma GCC unroll 32
                for (int n = 0; n < N; n++) {
                    h[n] = exp2_any(step * a[n]) * h[n] + input * broadcast(b[row * N + n]);
                    sum += h[n] * broadcast(c[row * N + n]);
                }
                store_some(y + row * inner + d, sum, count);
            }
            for (int n = 0; n < N; n++) store_some(h_last + ((long)batch * N + n) * inner + d, h[n], count);
        }
}

typedef struct {
    const float *u, *dt, *a2, *b, *c, *checkpoints, *grad_y, *grad_last;
    float *grad_u, *grad_dt, *grad_a2, *grad_b, *grad_c, *grad_h0;
} scan_gradient;

/* Runs a segment forward again from its checkpoint, keeping every state and decay for the way back. */
INLINE void recompute(const int N, const scan_gradient *g, long batch, int length, int inner, int d, int from, int to,
                      vec *states, vec *decays)
{
    const int count = inner - d, segments = (length + SEGMENT - 1) / SEGMENT;
    const float *kept = g->checkpoints + (batch * segments + from / SEGMENT) * N * inner + d;
    for (int n = 0; n < N; n++) states[n] = load_some(kept + (long)n * inner, count);
    for (int t = from; t < to; t++) {
        const long row = batch * length + t;
        const vec step = load_some(g->dt + row * inner + d, count);
        const vec input = step * load_some(g->u + row * inner + d, count);
        vec *before = states + (long)(t - from) * N, *decay = decays + (long)(t - from) * N;
#pragma GCC unroll 32
        for (int n = 0; n < N; n++) {
            decay[n] = exp2_any(step * load_some(g->a2 + (long)n * inner + d, count));
            before[N + n] = decay[n] * before[n] + input * broadcast(g->b[row * N + n]);
        }
    }
}

/* d y/d x for a group of channels, walking back in time; sums_b and sums_c gather over the groups. */
INLINE void backward_group(const int N, const scan_gradient *g, long batch, int length, int inner, int d, vec *states,
                           vec *decays, vec *sums_b, vec *sums_c)
{
    const int count = inner - d;
    const vec ln2 = broadcast(0.6931471805599453f);
    vec grad_h[MAX_STATES], grad_a[MAX_STATES];
    for (int n = 0; n < N; n++) {
        grad_h[n] = load_some(g->grad_last + (batch * N + n) * inner + d, count);
        grad_a[n] = broadcast(0.0f);
    }
    for (int from = (length - 1) / SEGMENT * SEGMENT; from >= 0; from -= SEGMENT) {
        const int to = smaller(from + SEGMENT, length);
        recompute(N, g, batch, length, inner, d, from, to, states, decays);
        for (int t = to - 1; t >= from; t--) {
            const long row = batch * length + t;
            const vec step = load_some(g->dt + row * inner + d, count), x = load_some(g->u + row * inner + d, count);
            const vec gy = load_some(g->grad_y + row * inner + d, count), input = step * x;
            const vec *before = states + (long)(t - from) * N, *decay = decays + (long)(t - from) * N;
            vec grad_input = broadcast(0.0f), grad_step = broadcast(0.0f);
#pragma GCC unroll 32
            for (int n = 0; n < N; n++) {
                sums_c[(long)t * N + n] += gy * before[N + n];
                const vec gh = grad_h[n] + gy * broadcast(g->c[row * N + n]);
                grad_input += gh * broadcast(g->b[row * N + n]);
                sums_b[(long)t * N + n] += gh * input;
                grad_h[n] = gh * decay[n];
                const vec through_decay = grad_h[n] * before[n];
                grad_step += through_decay * load_some(g->a2 + (long)n * inner + d, count);
                grad_a[n] += through_decay * step;
            }
            store_some(g->grad_u + row * inner + d, grad_input * step, count);
            store_some(g->grad_dt + row * inner + d, grad_input * x + grad_step * ln2, count);
        }
    }
    for (int n = 0; n < N; n++) {
        store_some(g->grad_a2 + (batch * N + n) * inner + d, grad_a[n], count);
        store_some(g->grad_h0 + (batch * N + n) * inner + d, grad_h[n], count);
    }
}

INLINE float across(vec v)
{
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
}

INLINE int backward(const int N, int first, int last, int length, int inner, const scan_gradient *g)
{
    const size_t row = (size_t)N * sizeof(vec);
    const size_t total = row * (2 * SEGMENT + 1 + 2 * (size_t)length);
    vec *scratch = aligned_alloc(64, (total + 63) / 64 * 64);
    if (!scratch) return 1;
    vec *states = scratch, *decays = states + (SEGMENT + 1) * N;
    vec *sums_b = decays + SEGMENT * N, *sums_c = sums_b + (size_t)length * N;
    for (int batch = first; batch < last; batch++) {
        memset(sums_b, 0, 2 * row * length);
        for (int d = 0; d < inner; d += LANES)
            backward_group(N, g, batch, length, inner, d, states, decays, sums_b, sums_c);
        for (long i = 0; i < (long)length * N; i++) {
            g->grad_b[(long)batch * length * N + i] = across(sums_b[i]);
            g->grad_c[(long)batch * length * N + i] = across(sums_c[i]);
        }
    }
    free(scratch);
    return 0;
}

/* Both return 0, 1 when memory ran out, 2 for a number of states that was not compiled in. */

int scan_forward(int states, int first, int last, int length, int inner, const float *u, const float *dt,
                 const float *a2, const float *b, const float *c, const float *h0, float *y, float *h_last,
                 float *checkpoints)
{
#define FORWARD(N) forward(N, first, last, length, inner, u, dt, a2, b, c, h0, y, h_last, checkpoints); return 0;
    switch (states) {
    case 4: FORWARD(4)
    case 8: FORWARD(8)
    case 16: FORWARD(16)
    case 32: FORWARD(32)
    default: return 2;
    }
}

int scan_backward(int states, int first, int last, int length, int inner, const scan_gradient *g)
{
    switch (states) {
    case 4: return backward(4, first, last, length, inner, g);
    case 8: return backward(8, first, last, length, inner, g);
    case 16: return backward(16, first, last, length, inner, g);
    case 32: return backward(32, first, last, length, inner, g);
    default: return 2;
    }
}
