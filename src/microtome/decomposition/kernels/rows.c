/* Gathering the rows of a batch that are not zero, in single precision.  x is [K, B, d]. */
#include <stddef.h>
#include <string.h>

static inline int used(const float *row, long d) {
  int any = 0;
  for (long i = 0; i < d; i++) any |= row[i] != 0.0f;
  return any;
}

/* counts [K]: rows of each instance that are not zero. */
void count_rows(const float *restrict x, long K, long B, long d, long *restrict counts) {
  for (long k = 0; k < K; k++) {
    long n = 0;
    for (long b = 0; b < B; b++) n += used(x + (k * B + b) * d, d);
    counts[k] = n;
  }
}

/* rows [K, N, d]: those rows, then zeros; weight [K, N]: 1 for each, and one zero row with the weight of all. */
void gather_rows(const float *restrict x, long K, long B, long d, long N, float *restrict rows, float *restrict weight) {
  memset(rows, 0, sizeof(float) * K * N * d);
  memset(weight, 0, sizeof(float) * K * N);
  for (long k = 0; k < K; k++) {
    long n = 0;
    for (long b = 0; b < B; b++) {
      const float *row = x + (k * B + b) * d;
      if (!used(row, d)) continue;
      memcpy(rows + (k * N + n) * d, row, sizeof(float) * d);
      weight[k * N + n++] = 1.0f;
    }
    weight[k * N + n] = (float)(B - n);
  }
}
