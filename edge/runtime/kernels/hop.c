/* One hop of one stream or several: stem, blocks, pooling, head. Equations as in `trainer/model.py`.
 *
 * Frames of several streams are computed together until there are enough of them to pay for loading the weights; a long
 * step of one stream is computed in parts, so that everything stays in the cache. */

#include "hop.h"

#include <math.h>

#define NORM_EPSILON 1e-5f

INLINE long smaller(long a, long b) { return a < b ? a : b; }
INLINE long larger(long a, long b) { return a > b ? a : b; }

long stage_row(const hop_shape *s, long stage) { return stage ? PADDED(s->stem[stage - 1].width) : s->leads; }
long stage_tail(const hop_shape *s, long stage) { return larger(s->stem[stage].taps - s->stem[stage].stride, 0); }

long stage_rows_a_frame(const hop_shape *s, long stage)
{
    long rows = 1;
    for (; stage < s->stages; stage++) rows *= s->stem[stage].stride;
    return rows;
}

long stem_tensors(const hop_shape *s)
{
    long tensors = 0;
    for (long stage = 0; stage < s->stages; stage++) tensors += stage_tail(s, stage) > 0;
    return tensors;
}

long hop_lay_out(const hop_model *m, float *memory, hop_workspace *w)
{
    const hop_shape *s = &m->shape;
    const long wide = PADDED(s->width), inner = PADDED(s->inner);
    const struct {
        float **piece;
        long count;
    } pieces[] = {
        {&w->frames, MAX_ROWS * wide},
        {&w->normed, MAX_ROWS * wide},
        {&w->signal, MAX_ROWS * 2 * inner},
        {&w->inputs, MAX_ROWS * inner},
        {&w->outputs, MAX_ROWS * inner},
        {&w->mixed, MAX_ROWS * m->layers[0].x_proj.columns},
        {&w->steps, MAX_ROWS * inner},
        {&w->totals, MAX_ROWS * wide},
        {&w->highest, MAX_ROWS * wide},
        {&w->pooled, s->width + wide},
        {&w->scores, PADDED(s->classes)},
    };
    long used = 0;
    for (long stage = 0; stage < s->stages; stage++) {
        w->stem[stage] = memory ? memory + used : NULL;
        used += PADDED((stage_tail(s, stage) + MAX_ROWS * stage_rows_a_frame(s, stage)) * stage_row(s, stage));
    }
    for (unsigned i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        *pieces[i].piece = memory ? memory + used : NULL;
        used += PADDED(pieces[i].count);
    }
    return used;
}

/* x / sqrt(mean(x^2) + epsilon) · weight over each of `rows` rows (Zhang & Sennrich 2019); no weight: a copy. */
static void normalise(long width, const float *weight, const float *from, long rows, float *to)
{
    const long stride = PADDED(width);
    if (!weight) {
        memcpy(to, from, sizeof(float) * (size_t)(rows * stride));
        return;
    }
    for (long row = 0; row < rows; row++, from += stride, to += stride) {
        vec squares = broadcast(0.0f);
        for (long k = 0; k < stride; k += LANES) squares += load(from + k) * load(from + k);
        const vec scale = broadcast(1.0f / sqrtf(sum_of(squares) / (float)width + NORM_EPSILON));
        for (long k = 0; k < stride; k += LANES) store(to + k, load(from + k) * scale * load(weight + k));
    }
}

/* The causal strided convolutions, all but the last with a norm and a SiLU after them: `count` frames from their samples
   and from the tails before them, which move on. The rows that a product takes lie side by side; those of neighbouring
   outputs overlap. */
static void stem(const hop_model *m, const hop_workspace *w, float *state, const float *samples, long count,
                 float *frames)
{
    const hop_shape *s = &m->shape;
    const hop_tensor *tensor = m->tensors;
    memcpy(w->stem[0] + stage_tail(s, 0) * s->leads, samples, sizeof(float) * (size_t)(count * s->stride * s->leads));
    for (long stage = 0; stage < s->stages; stage++) {
        const stem_stage *it = &s->stem[stage];
        const long row = stage_row(s, stage), tail = stage_tail(s, stage) * row, wide = PADDED(it->width);
        const long rows = count * stage_rows_a_frame(s, stage), outputs = rows / it->stride;
        const int is_last = stage + 1 == s->stages;
        float *to = is_last ? frames : w->stem[stage + 1] + stage_tail(s, stage + 1) * wide;
        if (tail) memcpy(w->stem[stage], state + tensor->offset, sizeof(float) * (size_t)tail);
        multiply(&m->stem[stage], outputs, w->stem[stage], it->stride * row, to, wide, PUT);
        if (tail) memcpy(state + (tensor++)->offset, w->stem[stage] + rows * row, sizeof(float) * (size_t)tail);
        if (is_last) continue;
        normalise(it->width, m->stem_norm[stage], to, outputs, to);
        for (long k = 0; k < outputs * wide; k += LANES) store(to + k, silu(load(to + k)));
    }
}

/* Adds features (count, M) of one stream to what has been gathered of this step. */
static void gather(const hop_model *m, const float *features, long count, int first, float *total, float *highest)
{
    const long stride = PADDED(m->shape.width);
    for (long k = 0; k < stride; k += LANES) {
        vec sum = first ? broadcast(0.0f) : load(total + k), high = load((first ? features : highest) + k);
        for (long row = 0; row < count; row++) {
            const vec x = load(features + row * stride + k);
            sum += x;
            high = at_least(high, x);
        }
        store(total + k, sum);
        store(highest + k, high);
    }
}

/* Everything up to the features of `count` frames of every stream, and those into totals and highest. */
static void encode(const hop_model *m, const hop_workspace *w, float *const *states, long streams,
                   const float *const *samples, long count, int first)
{
    const hop_shape *s = &m->shape;
    const hop_tensor *tensor = m->tensors + stem_tensors(s);
    const long wide = PADDED(s->width), rows = streams * count;
    for (long k = 0; k < streams; k++) stem(m, w, states[k], samples[k], count, w->frames + k * count * wide);
    for (long i = 0; i < s->layers; i++, tensor += 2) {
        normalise(s->width, m->layers[i].norm, w->frames, rows, w->normed);
        hop_mix(m, &m->layers[i], tensor[0].offset, tensor[1].offset, w, states, streams, count);
    }
    normalise(s->width, m->final_norm, w->frames, rows, w->normed);
    for (long k = 0; k < streams; k++)
        gather(m, w->normed + k * count * wide, count, first, w->totals + k * wide, w->highest + k * wide);
}

/* Drops the oldest finished hop of a stream and appends the newest. */
static void push(float *slots, long count, long floats, const float *newest)
{
    memmove(slots, slots + floats, sizeof(float) * (size_t)((count - 1) * floats));
    memcpy(slots + (count - 1) * floats, newest, sizeof(float) * (size_t)floats);
}

static void layer_norm(float *x, long count, const float *weight, const float *bias)
{
    float mean = 0.0f, variance = 0.0f;
    for (long k = 0; k < count; k++) mean += x[k] / (float)count;
    for (long k = 0; k < count; k++) variance += (x[k] - mean) * (x[k] - mean) / (float)count;
    const float scale = 1.0f / sqrtf(variance + NORM_EPSILON);
    for (long k = 0; k < count; k++) x[k] = (x[k] - mean) * scale * weight[k] + bias[k];
}

/* Pools what a step gathered with the finished hops of the window, and scores the window. */
static void score(const hop_model *m, const hop_workspace *w, float *state, const float *total, const float *highest,
                  long frames, float *logits)
{
    const hop_shape *s = &m->shape;
    const hop_tensor *tensor = m->tensors + stem_tensors(s) + 2 * s->layers;
    const long wide = PADDED(s->width), pooled = s->width * (s->pool_max ? 2 : 1);
    float *sums = state + tensor[0].offset, *counts = state + tensor[1].offset;
    float *highs = s->pool_max ? state + tensor[2].offset : NULL;
    const float newest = (float)frames;
    float seen = newest;
    for (long p = 0; p < s->slots; p++) seen += counts[p];
    for (long k = 0; k < wide; k += LANES) {
        vec sum = load(total + k);
        for (long p = 0; p < s->slots; p++) sum += load(sums + p * wide + k);
        store(w->pooled + k, sum / broadcast(seen));
    }
    for (long k = 0; highs && k < wide; k += LANES) { /* over the padding of the mean */
        vec high = load(highest + k);
        for (long p = 0; p < s->slots; p++) high = at_least(high, load(highs + p * wide + k));
        store(w->pooled + s->width + k, high);
    }
    push(sums, s->slots, wide, total);
    push(counts, s->slots, 1, &newest);
    if (highs) push(highs, s->slots, wide, highest);
    if (m->pool_weight) layer_norm(w->pooled, pooled, m->pool_weight, m->pool_bias);
    multiply(&m->head, 1, w->pooled, pooled, w->scores, m->head.columns, PUT);
    memcpy(logits, w->scores, sizeof(float) * (size_t)s->classes);
}

/* Numbers too small to be normal become zero: x86 computes with them a hundred times more slowly. */
#if defined(__SSE2__)
#define FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO 0x8040u
INLINE unsigned flush_denormals(void)
{
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO);
    return before;
}
INLINE void restore_denormals(unsigned before) { _mm_setcsr(before); }
#else
INLINE unsigned flush_denormals(void) { return 0; }
INLINE void restore_denormals(unsigned before) { (void)before; }
#endif

void hop_step(const hop_model *m, float *scratch, float *states, const long *slots, long streams,
              const float *frames, long samples, float *logits)
{
    const hop_shape *s = &m->shape;
    const long count = samples / s->stride, parts = (count + MAX_ROWS - 1) / MAX_ROWS;
    const long most = larger(MAX_ROWS / count, 1), wide = PADDED(s->width);
    const unsigned mode = flush_denormals();
    hop_workspace w;
    hop_lay_out(m, scratch, &w);
    for (long first = 0; first < streams; first += most) {
        const long together = smaller(most, streams - first);
        float *rows[MAX_ROWS];
        for (long k = 0; k < together; k++) rows[k] = states + slots[first + k] * m->state_floats;
        for (long part = 0; part < parts; part++) {
            const long from = count * part / parts, to = count * (part + 1) / parts;
            const float *part_samples[MAX_ROWS];
            for (long k = 0; k < together; k++)
                part_samples[k] = frames + ((first + k) * samples + from * s->stride) * s->leads;
            encode(m, &w, rows, together, part_samples, to - from, part == 0);
        }
        for (long k = 0; k < together; k++)
            score(m, &w, rows[k], w.totals + k * wide, w.highest + k * wide, count, logits + (first + k) * s->classes);
    }
    restore_denormals(mode);
}
