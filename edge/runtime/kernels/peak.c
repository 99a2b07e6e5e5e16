/* Probes: multiply-adds between registers, and the scan's exponential on values that stay in the first cache. */

#include "peak.h"

#include "vector.h"

#define CHAINS 12 /* enough to fill two pipes of four cycles */
#define BLOCK 16
#define KEEP(v) __asm__ volatile("" : : "m"(v) : "memory")

long peak_multiply_adds(long rounds)
{
    vec sums[CHAINS], factor = broadcast(0.999f), term = broadcast(1e-3f);
    KEEP(factor);
    KEEP(term);
    for (int i = 0; i < CHAINS; i++) sums[i] = broadcast(1e-3f * (float)i);
    for (long round = 0; round < rounds; round++)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
    KEEP(sums);
    return rounds * CHAINS * LANES;
}

long peak_exponentials(long rounds)
{
    vec x[BLOCK], sums[2] = {broadcast(0.0f), broadcast(0.0f)};
    const vec factor = broadcast(0.01f);
    for (int i = 0; i < BLOCK; i++) x[i] = broadcast(-1.0f - (float)i);
    for (long round = 0; round < rounds; round++) {
        KEEP(x); /* as far as the compiler knows they are new each round */
#pragma GCC unroll 16
        for (int i = 0; i < BLOCK; i++) sums[i % 2] += exp2_product(factor, x[i]);
    }
    KEEP(sums);
    return rounds * BLOCK * LANES;
}
