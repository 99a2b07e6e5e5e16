/* The measurements that the verdict on a hop rests on; the meaning of each stands in edge/signal/lead_quality.py. */

#ifndef ECG_EDGE_QUALITY_H
#define ECG_EDGE_QUALITY_H

#include "buffers.h"

#include <math.h>

typedef struct { /* as packed by edge/signal/lead_quality.py */
    double invalid_share, missing_share, flat_mv, plateau_mv, plateau_far_mv, bottom_mv, top_mv, noise_mv, mad_to_sigma,
        drift_mv, range_mv, einthoven_mv, einthoven_share, plateau_samples;
} Limits;

enum { STANDARD_LEADS = 12 };

enum { MISSING_SAMPLE = 2 };

enum { LEAD_OFF = 1, MISSING = 2, FLAT = 4, SATURATED = 8, NOISE = 16 };

/* The value that would stand at this place if the values were in order (Hoare 1961); reorders them. */
static double select_value(double *values, long long count, long long place)
{
    long long low = 0, high = count - 1;
    while (low < high) {
        const double pivot = values[low + (high - low) / 2];
        long long i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) i++;
            while (values[j] > pivot) j--;
            if (i <= j) {
                const double swapped = values[i];
                values[i++] = values[j];
                values[j--] = swapped;
            }
        }
        if (place <= j) high = j;
        else if (place >= i) low = i;
        else break;
    }
    return values[place];
}

/* The upper median of one lead's samples from..to; `room` holds as many values. */
static double median(const double *samples, long long from, long long to, long long leads, double *room)
{
    for (long long k = from; k < to; k++) room[k - from] = samples[k * leads];
    return select_value(room, to - from, (to - from) / 2);
}

static double distance(double a, double b) { return fabs(a - b); }

/* Whether a lead stands still for so many samples, at least so far from a level. */
static int has_plateau(const double *samples, long long count, long long leads, double level_mv, double far_mv,
                       const Limits *limits)
{
    long long run = 0;
    for (long long k = 1; k < count; k++) {
        const double now = samples[k * leads], before = samples[(k - 1) * leads];
        const int still = distance(now, before) <= limits->plateau_mv;
        run = still && distance(now, level_mv) >= far_mv ? run + 1 : 0;
        if (run >= (long long)limits->plateau_samples - 1) return 1;
    }
    return 0;
}

/* What is wrong with one lead's trace. */
static int32_t faults(const double *samples, long long count, long long leads, double low, double high, double calm,
                      const Limits *limits, double *room)
{
    const double range_mv = high - low;
    const long long half = count / 2;
    int saturated = low <= limits->bottom_mv || high >= limits->top_mv;
    if (!saturated && range_mv >= limits->plateau_far_mv && has_plateau(samples, count, leads, 0.0, 0.0, limits)) {
        const double median_mv = median(samples, 0, count, leads, room);
        saturated = has_plateau(samples, count, leads, median_mv, limits->plateau_far_mv, limits);
    }
    int noisy = calm <= (double)((count - 3) / 2) || range_mv > limits->range_mv;
    if (!noisy && range_mv > limits->drift_mv)
        noisy = distance(median(samples, 0, half, leads, room), median(samples, half, count, leads, room)) >
                limits->drift_mv;
    return (range_mv <= limits->flat_mv && !saturated ? FLAT : 0) | (saturated ? SATURATED : 0) | (noisy ? NOISE : 0);
}

/* Whether the limb leads whose samples are valid contradict each other; relations is (rows, leads). */
static int contradicts(const double *relations, long long rows, const double *samples, long long count, long long leads,
                       const uint8_t *valid, const double *low, const double *high, const Limits *limits)
{
    double missed_mv = 0.0, range_mv = 0.0;
    for (long long row = 0; row < rows; row++) {
        double weights[MAX_LEADS];
        long long of[MAX_LEADS], terms = 0;
        int known = 1;
        for (long long lead = 0; lead < leads; lead++) {
            if (relations[row * leads + lead] == 0.0) continue;
            weights[terms] = relations[row * leads + lead];
            of[terms++] = lead;
            known &= valid[lead];
        }
        for (long long k = 0; known && k < count; k++) {
            double sum = 0.0;
            for (long long term = 0; term < terms; term++) sum += weights[term] * samples[k * leads + of[term]];
            missed_mv = distance(sum, 0.0) > missed_mv ? distance(sum, 0.0) : missed_mv;
        }
    }
    if (missed_mv <= limits->einthoven_mv) return 0;
    for (long long lead = 0; lead < leads; lead++)
        for (long long row = 0; row < rows; row++)
            if (relations[row * leads + lead] != 0.0 && valid[lead] && high[lead] - low[lead] > range_mv)
                range_mv = high[lead] - low[lead];
    return missed_mv > limits->einthoven_mv + limits->einthoven_share * range_mv;
}

/* Per lead: the lowest and highest sample, how many are not finite, and how much of the noise is small. Counts are kept
 * as doubles: like everything else here they then lie in the same vectors as the leads. */
static inline void measure(const double *samples, long long count, long long leads, const Limits *limits, double *low,
                           double *high, double *lost, double *calm)
{
    for (long long lead = 0; lead < leads; lead++) {
        low[lead] = high[lead] = samples[lead];
        lost[lead] = calm[lead] = 0.0;
    }
    for (long long k = 0; k < count; k++) {
        const double *restrict x = samples + k * leads;
        for (long long lead = 0; lead < leads; lead++) {
            low[lead] = x[lead] < low[lead] ? x[lead] : low[lead];
            high[lead] = x[lead] > high[lead] ? x[lead] : high[lead];
            lost[lead] += x[lead] - x[lead] == 0.0 ? 0.0 : 1.0;
        }
    }
    for (long long k = 3; k < count; k++) {
        const double *restrict x = samples + k * leads;
        for (long long lead = 0; lead < leads; lead++) {
            const double noise =
                0.5 * x[lead] - 0.5 * x[lead - leads] - 0.5 * x[lead - 2 * leads] + 0.5 * x[lead - 3 * leads];
            calm[lead] += fabs(noise) * limits->mad_to_sigma <= limits->noise_mv ? 1.0 : 0.0;
        }
    }
}

static int judge_hop(const double *samples, const uint8_t *invalid, const uint8_t *lead_off, const Limits *limits,
                     const double *relations, int32_t *codes, double *shares, long long count, long long received,
                     long long leads, long long rows, double *room)
{
    double low[MAX_LEADS], high[MAX_LEADS], lost[MAX_LEADS], calm[MAX_LEADS];
    long long marked[MAX_LEADS] = {0}, missing[MAX_LEADS] = {0};
    uint8_t valid[MAX_LEADS];
    int has_gap = received > 0, wrong = 0;
    if (leads == STANDARD_LEADS) /* the usual number, known to the compiler */
        measure(samples, count, STANDARD_LEADS, limits, low, high, lost, calm);
    else
        measure(samples, count, leads, limits, low, high, lost, calm);
    for (long long k = 0; k < received; k++)
        for (long long lead = 0; lead < leads; lead++) {
            marked[lead] += invalid[k * leads + lead] != 0;
            missing[lead] += invalid[k * leads + lead] == MISSING_SAMPLE;
        }
    for (long long lead = 0; lead < leads; lead++)
        has_gap &= (double)missing[lead] / (double)received >= limits->missing_share;
    for (long long lead = 0; lead < leads; lead++) {
        const double share = received ? (double)marked[lead] / (double)received : 0.0;
        const double unknown = 1.0 - ((double)count - lost[lead]) / (double)count;
        shares[lead] = lost[lead] != 0.0 && unknown > share ? unknown : share;
        const double came = has_gap ? shares[lead] - (double)missing[lead] / (double)received : shares[lead];
        codes[lead] = (came >= limits->invalid_share || lead_off[lead] ? LEAD_OFF : 0) | (has_gap ? MISSING : 0);
        valid[lead] = shares[lead] == 0.0 && codes[lead] == 0;
        if (codes[lead] == 0 && lost[lead] == 0.0)
            codes[lead] = faults(samples + lead, count, leads, low[lead], high[lead], calm[lead], limits, room);
        wrong |= codes[lead] != 0 || shares[lead] != 0.0;
    }
    if (contradicts(relations, rows, samples, count, leads, valid, low, high, limits)) return 2;
    return wrong;
}

#endif
