/* A vector of LANES floats by the compiler's vector extensions, and the functions a Mamba block needs of one.
 *
 * The same source serves every processor: the build chooses LANES and the instruction set. Only what the extensions
 * cannot say (maximum, rounding, scaling by a power of two) is written per instruction set, with a portable version. */
#ifndef ECG_EDGE_HOP_VECTOR_H
#define ECG_EDGE_HOP_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef LANES
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { vec v; memcpy(&v, from, sizeof v); return v; }
INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }
INLINE vec broadcast(float x) { return x - (vec){0}; }

/* The larger and the smaller of two; a NaN in x stays. */
#if LANES == 16 && defined(__AVX512F__)
INLINE vec at_least(vec floor, vec x) { return (vec)_mm512_max_ps((__m512)floor, (__m512)x); }
INLINE vec at_most(vec ceiling, vec x) { return (vec)_mm512_min_ps((__m512)ceiling, (__m512)x); }
#elif LANES == 8 && defined(__AVX__)
INLINE vec at_least(vec floor, vec x) { return (vec)_mm256_max_ps((__m256)floor, (__m256)x); }
INLINE vec at_most(vec ceiling, vec x) { return (vec)_mm256_min_ps((__m256)ceiling, (__m256)x); }
#elif LANES == 4 && defined(__SSE2__)
INLINE vec at_least(vec floor, vec x) { return (vec)_mm_max_ps((__m128)floor, (__m128)x); }
INLINE vec at_most(vec ceiling, vec x) { return (vec)_mm_min_ps((__m128)ceiling, (__m128)x); }
#else
INLINE vec chosen(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
INLINE vec at_least(vec floor, vec x) { return chosen(x < floor, floor, x); }
INLINE vec at_most(vec ceiling, vec x) { return chosen(x > ceiling, ceiling, x); }
#endif

INLINE vec magnitude(vec x) { return (vec)((ivec)x & 0x7fffffff); }

INLINE float sum_of(vec v)
{
    float lanes[LANES];
    store(lanes, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

INLINE int any_below(vec v, float bound)
{
    const ivec below = v < broadcast(bound);
    int32_t lanes[LANES], any = 0;
    memcpy(lanes, &below, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) any |= lanes[lane];
    return any != 0;
}

/* 2^f for |f| <= 1/2 within 9e-8 of itself, exactly 1 at 0: a minimax fit of the relative error. */
INLINE vec power_near_one(vec f)
{
    vec p = broadcast(0.001326472731307149f);
    p = p * f + broadcast(0.009671512991189957f);
    p = p * f + broadcast(0.05550733581185341f);
    p = p * f + broadcast(0.24022242426872253f);
    p = p * f + broadcast(0.6931470036506653f);
    return p * f + broadcast(1.0f);
}

#define LOWEST_POWER -126.0f
#define ROUNDING 12582912.0f /* 1.5 * 2^23: adding it to a float rounds that to a whole number, in its lowest bits */

/* p times 2 to the whole number that was rounded so. */
INLINE vec scaled(vec p, vec rounded) { return (vec)((ivec)p + ((ivec)rounded << 23)); }

/* 2^(a b). Where EXP2_TAKES_ALL is 0 the product must not lie outside ±126. */
#if LANES == 16 && defined(__AVX512F__)
#define EXP2_TAKES_ALL 1
INLINE vec exp2_product(vec a, vec b)
{
    const vec x = a * b, whole = (vec)_mm512_roundscale_ps((__m512)x, 0);
    return (vec)_mm512_scalef_ps((__m512)power_near_one(x - whole), (__m512)whole);
}
#else
#define EXP2_TAKES_ALL 0
INLINE vec exp2_product(vec a, vec b)
{
    const vec rounded = a * b + broadcast(ROUNDING);
    return scaled(power_near_one(a * b - (rounded - broadcast(ROUNDING))), rounded);
}
#endif

/* 2^x, held within 2^±126. */
INLINE vec exp2_any(vec x)
{
    if (!EXP2_TAKES_ALL) x = at_most(broadcast(-LOWEST_POWER), at_least(broadcast(LOWEST_POWER), x));
    return exp2_product(x, broadcast(1.0f));
}

#define LOG2_E 1.4426950408889634f
#define LN_2_HIGH 0.693359375f /* so few bits that its products are exact */
#define LN_2_LOW -2.12194440e-4f
#define LOWEST_EXPONENT -87.0f

/* e^x, held within e^±87: what is left of x without whole multiples of ln 2 (Cody & Waite 1980) by a minimax fit within
   1e-7, exactly 1 at 0. */
INLINE vec exp_any(vec x)
{
    x = at_most(broadcast(-LOWEST_EXPONENT), at_least(broadcast(LOWEST_EXPONENT), x));
    const vec rounded = x * broadcast(LOG2_E) + broadcast(ROUNDING), whole = rounded - broadcast(ROUNDING);
    const vec f = x - whole * broadcast(LN_2_HIGH) - whole * broadcast(LN_2_LOW);
    vec p = broadcast(0.008290272206068039f);
    p = p * f + broadcast(0.04189816117286682f);
    p = p * f + broadcast(0.1666763871908188f);
    p = p * f + broadcast(0.4999914765357971f);
    p = p * f + broadcast(0.9999997019767761f);
    return scaled(p * f + broadcast(1.0f), rounded);
}

/* x / (1 + e^-x) */
INLINE vec silu(vec x) { return x / (broadcast(1.0f) + exp_any(-x)); }

/* log(1 + e^x) = max(x, 0) + log1p(e^-|x|), and log1p(t) = 2 atanh(t / (2 + t)): nothing cancels however small t is.
   The series of atanh(s) / s in s^2 <= 1/9 is a minimax fit within 5e-9. */
INLINE vec softplus(vec x)
{
    const vec t = exp_any(-magnitude(x));
    const vec s = t / (broadcast(2.0f) + t), z = s * s;
    vec p = broadcast(0.1400599330663681f);
    p = p * z + broadcast(0.14000903069972992f);
    p = p * z + broadcast(0.2001076340675354f);
    p = p * z + broadcast(0.3333320915699005f);
    p = p * z + broadcast(1.0f);
    return at_least(broadcast(0.0f), x) + broadcast(2.0f) * s * p;
}

#endif
