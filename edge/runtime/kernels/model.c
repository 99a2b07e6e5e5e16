/* Building a model: sizes checked, weights packed into one block of memory, places of the carried tensors fixed. */

#include "hop.h"

#include <math.h>
#include <stdlib.h>

#define MULTIPLES_WITHIN 2e-6f /* of themselves: logarithms and exponentials in float32 lie between */

/* Memory handed out piece by piece. The first walk through a model only counts (`base` is NULL), the second fills. */
typedef struct {
    float *base;
    long used;
    const hop_weight *next, *end;
    const char *problem;
} builder;

static const char *const MISFIT = "a weight does not have the size that the shape says";

static float *take(builder *b, long count)
{
    float *piece = b->base ? b->base + b->used : NULL;
    b->used += PADDED(count);
    return piece;
}

/* The next weight, which must have `count` floats; NULL once something is wrong. */
static const float *next_weight(builder *b, long count)
{
    if (b->problem) return NULL;
    if (b->next == b->end || b->next->count != count) {
        b->problem = MISFIT;
        return NULL;
    }
    return b->next++->floats;
}

/* A weight of rows x columns with its rows padded by zeros. */
static const float *plane(builder *b, long rows, long columns)
{
    const float *from = next_weight(b, rows * columns);
    float *to = take(b, rows * PADDED(columns));
    if (from && to)
        for (long row = 0; row < rows; row++)
            memcpy(to + row * PADDED(columns), from + row * columns, sizeof(float) * (size_t)columns);
    return to;
}

static packed_matrix matrix_of(builder *b, long inputs, long columns)
{
    return (packed_matrix){.inputs = inputs, .columns = columns, .panels = take(b, inputs * columns)};
}

/* A linear layer without bias: a weight (outputs, inputs). */
static packed_matrix linear(builder *b, long outputs, long inputs)
{
    packed_matrix m = matrix_of(b, inputs, PADDED(outputs));
    const float *weights = next_weight(b, outputs * inputs);
    if (weights && m.panels) pack_rows(&m, 0, weights, outputs);
    return m;
}

static packed_matrix linear_with_bias(builder *b, long outputs, long inputs)
{
    packed_matrix m = linear(b, outputs, inputs);
    m.bias = plane(b, 1, outputs);
    return m;
}

/* Signal and gate come from one weight (2 D, M), each into columns of its own padded width. */
static packed_matrix signal_and_gate(builder *b, long inner, long width)
{
    packed_matrix m = matrix_of(b, width, 2 * PADDED(inner));
    const float *weights = next_weight(b, 2 * inner * width);
    if (weights && m.panels) {
        pack_rows(&m, 0, weights, inner);
        pack_rows(&m, PADDED(inner), weights + inner * width, inner);
    }
    return m;
}

/* The most negative decay of every channel: what tells whether a power can leave the range of floats. */
static const float *fastest_of(builder *b, const float *decay, long states, long inner)
{
    float *lowest = take(b, inner);
    if (lowest)
        for (long n = 0; n < states; n++)
            for (long d = 0; d < inner; d++)
                if (decay[n * inner + d] < lowest[d]) lowest[d] = decay[n * inner + d];
    return lowest;
}

/* Whether the decays of every channel are multiples of its first, 1, 2, 3 … times, as near as floats can say it. */
static long are_multiples(const builder *b, const float *decay, long states, long inner)
{
    if (!b->base || b->problem) return 0;
    for (long n = 1; n < states; n++)
        for (long d = 0; d < inner; d++) {
            const float wanted = (float)(n + 1) * decay[d];
            if (!(fabsf(decay[n * inner + d] - wanted) <= MULTIPLES_WITHIN * fabsf(wanted))) return 0; /* nor is NaN */
        }
    return 1;
}

static void build_layer(builder *b, const hop_shape *s, hop_layer *layer)
{
    layer->norm = s->residual ? plane(b, 1, s->width) : NULL;
    layer->in_proj = signal_and_gate(b, s->inner, s->width);
    layer->taps = plane(b, s->taps, s->inner);
    layer->taps_bias = plane(b, 1, s->inner);
    layer->x_proj = linear(b, s->rank + 2 * s->states, s->inner);
    layer->dt_proj = linear_with_bias(b, s->inner, s->rank);
    layer->decay = plane(b, s->states, s->inner);
    layer->fastest = fastest_of(b, layer->decay, s->states, PADDED(s->inner));
    layer->multiples = are_multiples(b, layer->decay, s->states, PADDED(s->inner));
    layer->skip = plane(b, 1, s->inner);
    layer->out_proj = linear(b, s->width, s->inner);
}

static void build_weights(builder *b, hop_model *m)
{
    const hop_shape *s = &m->shape;
    const long pooled = s->width * (s->pool_max ? 2 : 1);
    for (long i = 0; i < s->stages; i++) {
        m->stem[i] = linear_with_bias(b, s->stem[i].width, s->stem[i].taps * stage_row(s, i));
        m->stem_norm[i] = i + 1 < s->stages ? plane(b, 1, s->stem[i].width) : NULL;
    }
    for (long i = 0; i < s->layers; i++) build_layer(b, s, &m->layers[i]);
    m->final_norm = s->final_norm ? plane(b, 1, s->width) : NULL;
    m->pool_weight = s->pool_norm ? plane(b, 1, pooled) : NULL;
    m->pool_bias = s->pool_norm ? plane(b, 1, pooled) : NULL;
    m->head = linear_with_bias(b, s->classes, pooled);
    if (!b->problem && b->next != b->end) b->problem = "there are more weights than the shape says";
}

static void place(hop_model *m, long rows, long columns, long stride)
{
    m->tensors[m->tensor_count++] = (hop_tensor){m->state_floats, rows, columns, stride};
    m->state_floats += PADDED(rows * stride);
}

static void place_state(hop_model *m)
{
    const hop_shape *s = &m->shape;
    for (long i = 0; i < s->stages; i++)
        if (stage_tail(s, i)) place(m, stage_tail(s, i), i ? s->stem[i - 1].width : s->leads, stage_row(s, i));
    for (long i = 0; i < s->layers; i++) {
        place(m, s->taps - 1, s->inner, PADDED(s->inner));
        place(m, s->states, s->inner, PADDED(s->inner));
    }
    place(m, s->slots, s->width, PADDED(s->width));
    place(m, s->slots, 1, 1);
    if (s->pool_max) place(m, s->slots, s->width, PADDED(s->width));
}

/* Bounds that keep every product of sizes far from overflow and every fixed array within its end, on 32 bits too. */
static const char *shape_problem(const hop_shape *s)
{
    const long sizes[][2] = {
        {s->leads, 16},  {s->classes, 1024}, {s->width, 2048},        {s->inner, 16384}, {s->states, 1024},
        {s->rank, 1024}, {s->stride, 1024},  {s->layers, MAX_LAYERS}, {s->slots, 65536}, {s->stages, MAX_STAGES},
    };
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i][0] < 1 || sizes[i][0] > sizes[i][1]) return "a dimension is outside what the kernel takes";
    long rows_a_frame = 1;
    for (long i = 0; i < s->stages; i++) {
        const stem_stage *it = &s->stem[i];
        if (it->width < 1 || it->width > 2048 || it->taps < 1 || it->taps > 4096 || it->stride < 1 || it->stride > 1024)
            return "a convolution of the stem is outside what the kernel takes";
        rows_a_frame *= it->stride;
        if (rows_a_frame > s->stride) break;
    }
    if (rows_a_frame != s->stride || s->stem[s->stages - 1].width != s->width)
        return "the stem's convolutions do not make the model's frames";
    if (s->taps < 2 || s->taps > MAX_TAPS) return "the convolution has a number of taps the kernel does not take";
    return NULL;
}

float *aligned_floats(long count)
{
    const size_t bytes = ((size_t)count * sizeof(float) + 63) / 64 * 64;
    float *memory = aligned_alloc(64, bytes);
    if (memory) memset(memory, 0, bytes);
    return memory;
}

const char *hop_build(hop_model *m, const hop_shape *shape, const hop_weight *weights, long weight_count)
{
    memset(m, 0, sizeof *m);
    m->shape = *shape;
    const char *problem = shape_problem(shape);
    if (problem) return problem;
    builder counting = {.next = weights, .end = weights + weight_count};
    build_weights(&counting, m);
    if (counting.problem) return counting.problem;
    m->memory = aligned_floats(counting.used);
    if (!m->memory) return "memory ran out";
    builder filling = {.base = m->memory, .next = weights, .end = weights + weight_count};
    build_weights(&filling, m);
    place_state(m);
    hop_workspace unused;
    m->scratch_floats = hop_lay_out(m, NULL, &unused);
    return NULL;
}

void hop_free(hop_model *m)
{
    free(m->memory);
    m->memory = NULL;
}
