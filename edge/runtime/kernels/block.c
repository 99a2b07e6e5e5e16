/* The Mamba-1 mixer of one block (Gu & Dao 2023, arXiv:2312.00752): products over all frames at once; convolution and
 * scan stream by stream, a vector of channels at a time, with their state in registers. */

#include "hop.h"

#define STATES_AT_ONCE 16 /* of a vector of channels; fewer where registers are fewer gained nothing */

/* Causal depthwise convolution and SiLU; the tail (K - 1, D) moves on. taps is K where that was compiled in. */
INLINE void convolve(const int taps, const hop_layer *layer, long inner, const float *signal, long count, float *tail,
                     float *to)
{
    for (long d = 0; d < inner; d += LANES) {
        vec x[MAX_TAPS - 1 + MAX_ROWS], weight[MAX_TAPS];
        for (int k = 0; k < taps; k++) weight[k] = load(layer->taps + k * inner + d);
        for (int k = 0; k < taps - 1; k++) x[k] = load(tail + k * inner + d);
        for (long t = 0; t < count; t++) x[taps - 1 + t] = load(signal + t * 2 * inner + d);
        const vec bias = load(layer->taps_bias + d);
        for (long t = 0; t < count; t++) {
            vec sum = bias;
            for (int k = 0; k < taps; k++) sum += weight[k] * x[t + k];
            store(to + t * inner + d, silu(sum));
        }
        for (int k = 0; k < taps - 1; k++) store(tail + k * inner + d, x[count + k]);
    }
}

static void convolve_any(const hop_model *m, const hop_layer *layer, const float *signal, long count, float *tail,
                         float *to)
{
    const long inner = PADDED(m->shape.inner);
    switch (m->shape.taps) {
    case 2: convolve(2, layer, inner, signal, count, tail, to); break;
    case 3: convolve(3, layer, inner, signal, count, tail, to); break;
    case 4: convolve(4, layer, inner, signal, count, tail, to); break;
    default: convolve((int)m->shape.taps, layer, inner, signal, count, tail, to);
    }
}

/* A vector of channels on its way through the scan: (count) of each. */
typedef struct {
    vec steps[MAX_ROWS], inputs[MAX_ROWS], sums[MAX_ROWS]; /* Δ, Δ·u, y */
} channels;

/* How the powers exp(Δ A) of a channel's states are found: one by one where no power can leave the range that
   exp2_product takes, one by one where one can, or by multiplying where the decays are multiples of the first. */
enum powers { EACH_BOUNDED, EACH, MULTIPLES };

INLINE vec power_of(const enum powers how, vec step, vec rate)
{
    return how == EACH_BOUNDED ? exp2_product(step, rate) : exp2_any(step * rate);
}

/* h ← exp(Δ A) h + Δ u b, y += c h for `states` states (eq. 2, zero-order hold on A), of which `before` have been done.
   decay is A log2(e) of the first of all states; b and c of the first of these stand at mixed[0] and mixed[apart] of each
   frame. Even and odd states have a sum and a chain of powers each: half the waiting. */
INLINE void scan(const int states, const enum powers how, channels *ch, long count, const float *decay, long inner,
                 long before, const float *mixed, long mixed_stride, long apart, float *state)
{
    vec h[STATES_AT_ONCE];
#pragma GCC unroll 16
    for (int n = 0; n < states; n++) h[n] = load(state + n * inner);
    for (long t = 0; t < count; t++, mixed += mixed_stride) {
        const vec step = ch->steps[t], input = ch->inputs[t];
        vec sums[2] = {ch->sums[t], broadcast(0.0f)}, chains[2], square;
        if (how == MULTIPLES) {
            const vec first = power_of(how, step, load(decay));
            square = first * first;
            chains[0] = before ? power_of(how, step, load(decay + before * inner)) : first;
            chains[1] = chains[0] * first;
        }
#pragma GCC unroll 16
        for (int n = 0; n < states; n++) {
            if (how == MULTIPLES && n >= 2) chains[n % 2] *= square;
            const vec power = how == MULTIPLES ? chains[n % 2] : power_of(how, step, load(decay + (before + n) * inner));
            h[n] = power * h[n] + input * broadcast(mixed[n]);
            sums[n % 2] += h[n] * broadcast(mixed[apart + n]);
        }
        ch->sums[t] = sums[0] + sums[1];
    }
#pragma GCC unroll 16
    for (int n = 0; n < states; n++) store(state + n * inner, h[n]);
}

INLINE void scan_all(const enum powers how, channels *ch, long count, const float *decay, long inner,
                     const float *mixed, long mixed_stride, long states, float *state)
{
    for (long n = 0; n < states;) {
        const long left = states - n;
#define SCAN(N) { scan(N, how, ch, count, decay, inner, n, mixed + n, mixed_stride, states, state + n * inner); n += N; }
        if (left >= 16) SCAN(16)
        else if (left >= 8) SCAN(8)
        else if (left >= 4) SCAN(4)
        else SCAN(1)
    }
}

/* Step sizes by softplus, the scan, the skip and the gate, for one stream. */
static void scan_stream(const hop_model *m, const hop_layer *layer, const hop_workspace *w, long row, long count,
                        float *state)
{
    const long inner = PADDED(m->shape.inner), states = m->shape.states, mixed_stride = layer->x_proj.columns;
    const float *mixed = w->mixed + row * mixed_stride + m->shape.rank;
    channels ch;
    for (long d = 0; d < inner; d += LANES) {
        const vec skip = load(layer->skip + d);
        vec longest = broadcast(0.0f);
        for (long t = 0; t < count; t++) {
            const vec u = load(w->inputs + (row + t) * inner + d);
            ch.steps[t] = softplus(load(w->steps + (row + t) * inner + d));
            ch.inputs[t] = ch.steps[t] * u;
            ch.sums[t] = skip * u;
            longest = at_least(longest, ch.steps[t]);
        }
        const float *decay = layer->decay + d;
        if (layer->multiples)
            scan_all(MULTIPLES, &ch, count, decay, inner, mixed, mixed_stride, states, state + d);
        else if (EXP2_TAKES_ALL || !any_below(longest * load(layer->fastest + d), LOWEST_POWER))
            scan_all(EACH_BOUNDED, &ch, count, decay, inner, mixed, mixed_stride, states, state + d);
        else
            scan_all(EACH, &ch, count, decay, inner, mixed, mixed_stride, states, state + d);
        for (long t = 0; t < count; t++) {
            const vec gate = load(w->signal + (row + t) * 2 * inner + inner + d);
            store(w->outputs + (row + t) * inner + d, ch.sums[t] * silu(gate));
        }
    }
}

void hop_mix(const hop_model *m, const hop_layer *layer, long conv, long ssm, const hop_workspace *w,
             float *const *states, long streams, long count)
{
    const long inner = PADDED(m->shape.inner), wide = PADDED(m->shape.width), rows = streams * count;
    multiply(&layer->in_proj, rows, w->normed, wide, w->signal, 2 * inner, PUT);
    for (long k = 0; k < streams; k++)
        convolve_any(m, layer, w->signal + k * count * 2 * inner, count, states[k] + conv,
                     w->inputs + k * count * inner);
    multiply(&layer->x_proj, rows, w->inputs, inner, w->mixed, layer->x_proj.columns, PUT);
    multiply(&layer->dt_proj, rows, w->mixed, layer->x_proj.columns, w->steps, inner, PUT);
    for (long k = 0; k < streams; k++) scan_stream(m, layer, w, k * count, count, states[k] + ssm);
    multiply(&layer->out_proj, rows, w->outputs, inner, w->frames, wide, m->shape.residual ? ADD : PUT);
}
