/* The vectors and functions that serving computes with, and what training needs besides: ends of rows. */
#ifndef ECG_EDGE_TRAINING_VECTOR_H
#define ECG_EDGE_TRAINING_VECTOR_H

#include "../../edge/runtime/kernels/vector.h"

/* The last lanes of a row may be fewer than a vector: the rest reads as zero and is not written. */
INLINE vec load_some(const float *from, int count)
{
    if (count >= LANES) return load(from);
    vec v = {0};
    memcpy(&v, from, (size_t)count * 4);
    return v;
}

INLINE void store_some(float *to, vec v, int count)
{
    if (count >= LANES) store(to, v);
    else memcpy(to, &v, (size_t)count * 4);
}

#endif
