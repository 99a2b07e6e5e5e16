/* A vector of LANES floats by the compiler's vector extensions, and the base-2 exponential of one. */
#ifndef ECG_EDGE_VECTOR_H
#define ECG_EDGE_VECTOR_H

#include <stdint.h>
#include <string.h>

#ifndef LANES
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { vec v; memcpy(&v, from, sizeof v); return v; }
INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }
INLINE vec broadcast(float x) { return x - (vec){0}; }

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

/* 2^x for x <= 0, within 2 ulp: the integer part goes into the exponent, a polynomial covers [-1/2, 1/2].
   The coefficients are ln(2)^k / k! adjusted by a minimax fit. */
INLINE vec exp2_vec(vec x)
{
    const vec lowest = broadcast(-126.0f), shift = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds */
    const ivec below = x < lowest;
    x = (vec)((below & (ivec)lowest) | (~below & (ivec)x));
    const vec rounded = x + shift;
    const vec f = x - (rounded - shift);
    vec p = broadcast(1.535336188319500e-4f);
    p = p * f + broadcast(1.339887440266574e-3f);
    p = p * f + broadcast(9.618437357674640e-3f);
    p = p * f + broadcast(5.550332471162809e-2f);
    p = p * f + broadcast(2.402264791363012e-1f);
    p = p * f + broadcast(6.931472028550421e-1f);
    p = p * f + broadcast(1.0f);
    return (vec)((ivec)p + ((ivec)rounded << 23));
}

#endif
