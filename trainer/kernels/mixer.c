/* What surrounds the scan in a Mamba block, forward and backward, in float32 on the CPU.

     u = silu(bias + sum_k weight_k x_{t-K+1+k})        out = (y + skip u) silu(gate)

   Layouts: x, u, y, gate, out (batch, length, inner); tail (batch, K - 1, inner) before x; weight (K, inner). What is
   computed between the two of each is computed again on the way back, which costs less than to keep it. A caller may
   split the batch over threads: each call works on batches [first, last). */

#include "vector.h"

#define MAX_TAPS 16

int mixer_most_taps(void) { return MAX_TAPS; }

/* 1 / (1 + e^-x) */
INLINE vec sigmoid(vec x) { return broadcast(1.0f) / (broadcast(1.0f) + exp_any(-x)); }

/* d silu(x) / dx, given sigmoid(x). */
INLINE vec silu_slope(vec x, vec s) { return s * (broadcast(1.0f) + x * (broadcast(1.0f) - s)); }

typedef struct {
    const float *x, *tail, *weight, *bias, *grad_u;
    float *u, *grad_x, *grad_tail, *grad_weight, *grad_bias; /* the last two (batch, K, inner) and (batch, inner) */
} convolution;

INLINE void convolve(const int taps, const convolution *c, long batch, int length, int inner, int d)
{
    const int count = inner - d;
    vec x[MAX_TAPS], weight[MAX_TAPS];
    for (int k = 0; k < taps; k++) weight[k] = load_some(c->weight + (long)k * inner + d, count);
    for (int k = 0; k < taps - 1; k++) x[k] = load_some(c->tail + (batch * (taps - 1) + k) * inner + d, count);
    const vec bias = load_some(c->bias + d, count);
    for (int t = 0; t < length; t++) {
        const long at = (batch * length + t) * inner + d;
        x[taps - 1] = load_some(c->x + at, count);
        vec sum = bias;
        for (int k = 0; k < taps; k++) sum += weight[k] * x[k];
        store_some(c->u + at, sum * sigmoid(sum), count);
        for (int k = 0; k < taps - 1; k++) x[k] = x[k + 1];
    }
}

/* Where the gradient of input `position` goes, counted from the first of the tail. */
INLINE float *grad_at(const int taps, const convolution *c, long batch, int length, int inner, int position)
{
    if (position < taps - 1) return c->grad_tail + (batch * (taps - 1) + position) * inner;
    return c->grad_x + (batch * length + position - (taps - 1)) * inner;
}

INLINE void convolve_back(const int taps, const convolution *c, long batch, int length, int inner, int d)
{
    const int count = inner - d;
    vec x[MAX_TAPS], weight[MAX_TAPS], grad_x[MAX_TAPS], grad_weight[MAX_TAPS], grad_bias = broadcast(0.0f);
    for (int k = 0; k < taps; k++) {
        weight[k] = load_some(c->weight + (long)k * inner + d, count);
        grad_x[k] = grad_weight[k] = broadcast(0.0f);
    }
    for (int k = 0; k < taps - 1; k++) x[k] = load_some(c->tail + (batch * (taps - 1) + k) * inner + d, count);
    const vec bias = load_some(c->bias + d, count);
    for (int t = 0; t < length; t++) {
        const long at = (batch * length + t) * inner + d;
        x[taps - 1] = load_some(c->x + at, count);
        vec sum = bias;
        for (int k = 0; k < taps; k++) sum += weight[k] * x[k];
        const vec grad = load_some(c->grad_u + at, count) * silu_slope(sum, sigmoid(sum));
        grad_bias += grad;
        for (int k = 0; k < taps; k++) {
            grad_weight[k] += grad * x[k];
            grad_x[k] += grad * weight[k];
        }
        store_some(grad_at(taps, c, batch, length, inner, t) + d, grad_x[0], count);
        for (int k = 0; k < taps - 1; k++) {
            x[k] = x[k + 1];
            grad_x[k] = grad_x[k + 1];
        }
        grad_x[taps - 1] = broadcast(0.0f);
    }
    for (int k = 0; k < taps - 1; k++)
        store_some(grad_at(taps, c, batch, length, inner, length + k) + d, grad_x[k], count);
    for (int k = 0; k < taps; k++) store_some(c->grad_weight + (batch * taps + k) * inner + d, grad_weight[k], count);
    store_some(c->grad_bias + batch * inner + d, grad_bias, count);
}

int mixer_convolve(int taps, int first, int last, int length, int inner, const convolution *c)
{
    for (long batch = first; batch < last; batch++)
        for (int d = 0; d < inner; d += LANES) {
            if (taps == 4) convolve(4, c, batch, length, inner, d);
            else convolve(taps, c, batch, length, inner, d);
        }
    return 0;
}

int mixer_convolve_back(int taps, int first, int last, int length, int inner, const convolution *c)
{
    for (long batch = first; batch < last; batch++)
        for (int d = 0; d < inner; d += LANES) {
            if (taps == 4) convolve_back(4, c, batch, length, inner, d);
            else convolve_back(taps, c, batch, length, inner, d);
        }
    return 0;
}

typedef struct {
    const float *y, *u, *skip, *gate, *grad_out;
    float *out, *grad_y, *grad_u, *grad_skip, *grad_gate; /* grad_skip (batch, inner) */
} gating;

int mixer_gate(int first, int last, int length, int inner, const gating *g)
{
    for (long batch = first; batch < last; batch++)
        for (int d = 0; d < inner; d += LANES) {
            const int count = inner - d;
            const vec skip = load_some(g->skip + d, count);
            for (int t = 0; t < length; t++) {
                const long at = (batch * length + t) * inner + d;
                const vec gate = load_some(g->gate + at, count);
                const vec sum = load_some(g->y + at, count) + skip * load_some(g->u + at, count);
                store_some(g->out + at, sum * gate * sigmoid(gate), count);
            }
        }
    return 0;
}

int mixer_gate_back(int first, int last, int length, int inner, const gating *g)
{
    for (long batch = first; batch < last; batch++)
        for (int d = 0; d < inner; d += LANES) {
            const int count = inner - d;
            const vec skip = load_some(g->skip + d, count);
            vec grad_skip = broadcast(0.0f);
            for (int t = 0; t < length; t++) {
                const long at = (batch * length + t) * inner + d;
                const vec gate = load_some(g->gate + at, count), u = load_some(g->u + at, count);
                const vec sum = load_some(g->y + at, count) + skip * u, grad = load_some(g->grad_out + at, count);
                const vec s = sigmoid(gate), through = grad * gate * s;
                store_some(g->grad_y + at, through, count);
                store_some(g->grad_u + at, through * skip, count);
                store_some(g->grad_gate + at, grad * sum * silu_slope(gate, s), count);
                grad_skip += through * u;
            }
            store_some(g->grad_skip + batch * inner + d, grad_skip, count);
        }
    return 0;
}
