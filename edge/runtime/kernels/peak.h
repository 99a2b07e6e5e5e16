/* How fast this processor can be at best: what a hop's time is held against. */
#ifndef ECG_EDGE_PEAK_H
#define ECG_EDGE_PEAK_H

/* Each does its work `rounds` times and returns how many single operations (per lane) that were. */
long peak_multiply_adds(long rounds);
long peak_exponentials(long rounds);

#endif
