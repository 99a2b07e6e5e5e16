/* A tile of the result (TILE_ROWS rows, TILE_VECTORS vectors) stays in registers while the inputs are walked through:
 * each weight that is loaded serves all rows of the tile, each input all its vectors. Rows are shared out evenly, since
 * a short last tile would leave the multipliers idle. */

#include "product.h"

/* As many accumulators as registers hold (32 of them, or 16) beside one row of weights and one input. */
#define TILE_VECTORS 3
#if LANES == 16
#define TILE_ROWS 9
#elif defined(__aarch64__)
#define TILE_ROWS 8
#else
#define TILE_ROWS 4
#endif

INLINE long parts_of(long whole, long most) { return (whole + most - 1) / most; }
INLINE long edge_of(long whole, long parts, long part) { return whole * part / parts; }

INLINE void tile(const int rows, const int vectors, const packed_matrix *m, long column, const float *inputs,
                 long input_stride, float *outputs, long output_stride, enum product_mode mode)
{
    vec sums[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            sums[row][v] = m->bias ? load(m->bias + column + v * LANES) : broadcast(0.0f);
            if (mode == ADD) sums[row][v] += load(outputs + row * output_stride + column + v * LANES);
        }
    const float *weights = m->panels + column * m->inputs;
    for (long k = 0; k < m->inputs; k++, weights += vectors * LANES) {
        vec w[TILE_VECTORS];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) w[v] = load(weights + v * LANES);
#pragma GCC unroll 16
        for (int row = 0; row < rows; row++) {
            const vec x = broadcast(inputs[row * input_stride + k]);
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++) sums[row][v] += x * w[v];
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) store(outputs + row * output_stride + column + v * LANES, sums[row][v]);
}

INLINE void tile_of(const int vectors, int rows, const packed_matrix *m, long column, const float *inputs,
                    long input_stride, float *outputs, long output_stride, enum product_mode mode)
{
#define TILE(R) case R: tile(R, vectors, m, column, inputs, input_stride, outputs, output_stride, mode); break;
    switch (rows) {
        TILE(1) TILE(2) TILE(3) TILE(4)
#if TILE_ROWS > 4
        TILE(5) TILE(6) TILE(7) TILE(8)
#endif
#if TILE_ROWS > 8
        TILE(9)
#endif
    }
}

void multiply(const packed_matrix *m, long rows, const float *inputs, long input_stride, float *outputs,
              long output_stride, enum product_mode mode)
{
    const long vectors = m->columns / LANES, panels = parts_of(vectors, TILE_VECTORS);
    const long blocks = parts_of(rows, TILE_ROWS);
    for (long panel = 0; panel < panels; panel++) {
        const long first = edge_of(vectors, panels, panel), width = edge_of(vectors, panels, panel + 1) - first;
        for (long block = 0; block < blocks; block++) {
            const long row = edge_of(rows, blocks, block);
            const int height = (int)(edge_of(rows, blocks, block + 1) - row);
            const float *from = inputs + row * input_stride;
            float *to = outputs + row * output_stride;
            switch (width) {
            case 1: tile_of(1, height, m, first * LANES, from, input_stride, to, output_stride, mode); break;
            case 2: tile_of(2, height, m, first * LANES, from, input_stride, to, output_stride, mode); break;
            case 3: tile_of(3, height, m, first * LANES, from, input_stride, to, output_stride, mode); break;
            }
        }
    }
}

void pack_rows(const packed_matrix *m, long first, const float *weights, long rows)
{
    const long vectors = m->columns / LANES, panels = parts_of(vectors, TILE_VECTORS);
    for (long panel = 0; panel < panels; panel++) {
        const long begin = edge_of(vectors, panels, panel) * LANES, end = edge_of(vectors, panels, panel + 1) * LANES;
        float *to = m->panels + begin * m->inputs;
        for (long column = begin; column < end; column++) {
            if (column < first || column >= first + rows) continue;
            for (long k = 0; k < m->inputs; k++)
                to[k * (end - begin) + column - begin] = weights[(column - first) * m->inputs + k];
        }
    }
}
