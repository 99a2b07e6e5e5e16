/* A recurrent ECG classifier as `trainer/model.py` defines it, ready to be advanced by hops.
 *
 * Letters as there: M width · D inner · N states · K taps · R rank · P slots. All arrays are float32; rows are padded to
 * PAD, and what stands in the padding never reaches a result. */
#ifndef ECG_EDGE_HOP_H
#define ECG_EDGE_HOP_H

#include "product.h"

#define MAX_LAYERS 64
#define MAX_TAPS 16
#define MAX_STAGES 8
#define MAX_ROWS 36 /* frames (of one stream or of several) that are computed together */

typedef struct {
    long width, taps, stride;
} stem_stage;

typedef struct {
    long leads, classes, width, inner, states, taps, rank, layers, stride, slots;
    long residual, final_norm, pool_max, pool_norm; /* 0 or 1 */
    long stages;                                    /* convolutions of the stem; the last one's width is the model's */
    stem_stage stem[MAX_STAGES];
} hop_shape;

#define SHAPE_NUMBERS (15 + 3 * MAX_STAGES)

typedef struct {
    const float *norm;                     /* (M) or NULL */
    packed_matrix in_proj, x_proj, dt_proj, out_proj;
    const float *taps, *taps_bias;         /* (K, D), (D) */
    const float *decay, *fastest, *skip;   /* (N, D) = A log2(e), its minimum over N, (D) */
    long multiples;                        /* 0 or 1: decay[n] is (n + 1) times decay[0] */
} hop_layer;

/* Where one carried tensor stands in a stream's row of state: `rows` rows of `columns` floats, `stride` apart. They come
   in the order of `state_layout` in trainer/model.py; a convolution's and a scan's channels are the columns. */
typedef struct {
    long offset, rows, columns, stride;
} hop_tensor;

typedef struct {
    hop_shape shape;
    packed_matrix stem[MAX_STAGES];
    const float *stem_norm[MAX_STAGES];    /* (a stage's width), NULL for the last */
    hop_layer layers[MAX_LAYERS];
    const float *final_norm;               /* (M) or NULL */
    const float *pool_weight, *pool_bias;  /* (pooled) or NULL */
    packed_matrix head;
    hop_tensor tensors[MAX_STAGES + 2 * MAX_LAYERS + 3];
    long tensor_count, state_floats, scratch_floats;
    float *memory;                         /* what holds all weights */
} hop_model;

/* Where a step keeps what it computes; `rows` are the frames of all streams that are computed together. */
typedef struct {
    float *stem[MAX_STAGES];  /* what goes into each stage: (its tail + its rows, its row's floats) of one stream */
    float *frames, *normed;   /* (rows, M) */
    float *signal;            /* (rows, 2 D): signal, gate */
    float *inputs, *outputs;  /* (rows, D): into the scan, out of it */
    float *mixed;             /* (rows, R + 2 N): step sizes of low rank, b, c */
    float *steps;             /* (rows, D) before the softplus */
    float *totals, *highest;  /* (streams, M) over the frames of this step */
    float *pooled, *scores;   /* of one stream */
} hop_workspace;

/* Of a stage of the stem: floats of a row that goes into it (samples as they come, then padded), rows that it carries
   from one step to the next, and rows that make a frame. */
long stage_row(const hop_shape *shape, long stage);
long stage_tail(const hop_shape *shape, long stage);
long stage_rows_a_frame(const hop_shape *shape, long stage);

/* Tensors that the stem carries: they come first. */
long stem_tensors(const hop_shape *shape);

/* Lays a workspace out in memory, or only counts where that is NULL; returns the number of floats. */
long hop_lay_out(const hop_model *model, float *memory, hop_workspace *workspace);

/* A block's mixer on w->normed, one of `streams` after the other with `count` frames each; its output goes to (or is
   added to) w->frames. states: a row of state per stream, its tensors of this layer at the offsets given. */
void hop_mix(const hop_model *model, const hop_layer *layer, long conv, long ssm, const hop_workspace *w,
             float *const *states, long streams, long count);

/* Weights as they come, in the order of `hop_build`, each with its number of floats. */
typedef struct {
    const float *floats;
    long count;
} hop_weight;

/* Builds a model. Returns NULL, or what is wrong; nothing needs to be freed then. */
const char *hop_build(hop_model *model, const hop_shape *shape, const hop_weight *weights, long weight_count);
void hop_free(hop_model *model);

/* Floats aligned as vectors want them, zeroed; NULL when memory ran out. Freed by free(). */
float *aligned_floats(long count);

/* Advances streams by `samples` samples, a multiple of the stride.
 * states (…, state_floats), the row of stream k at slots[k]; frames (streams, samples, leads); logits (streams, classes);
 * scratch holds model->scratch_floats. Threads may share a model, not scratch or slots. */
void hop_step(const hop_model *model, float *scratch, float *states, const long *slots, long streams,
              const float *frames, long samples, float *logits);

#endif
