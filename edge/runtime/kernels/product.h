/* Products of a few rows with a weight matrix that was packed once. */
#ifndef ECG_EDGE_HOP_PRODUCT_H
#define ECG_EDGE_HOP_PRODUCT_H

#include "vector.h"

#define PAD 16 /* rows of every array are whole numbers of the widest vector: one state layout serves every build */
#define PADDED(n) (((n) + PAD - 1) / PAD * PAD)

/* Weights (inputs, columns) in panels as wide as a tile, each (inputs, panel's columns), one after another. */
typedef struct {
    long inputs, columns; /* columns: a multiple of PAD */
    float *panels;
    const float *bias; /* (columns) or NULL */
} packed_matrix;

enum product_mode { PUT, ADD };

/* Puts weights (rows, inputs) of a linear layer into columns [first, first + rows) of a zeroed matrix. */
void pack_rows(const packed_matrix *matrix, long first, const float *weights, long rows);

/* outputs (rows, columns) = (or +=) inputs (rows, matrix->inputs) · weights + bias. Rows lie `stride` floats apart; those
   of the inputs may overlap. Inputs beyond matrix->inputs are not read; all columns are written, unused ones as zero. */
void multiply(const packed_matrix *matrix, long rows, const float *inputs, long input_stride, float *outputs,
              long output_stride, enum product_mode mode);

#endif
