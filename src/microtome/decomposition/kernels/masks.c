/* Causal importances, their minimality sums and stochastic masks, in single precision.
 *
 * Gates, causal importances and inner activations are [K, C, N] with the batch innermost.
 */
#include <math.h>
#include <stddef.h>

#define LEAK 0.01f
#define JITTER 0.05f

/* How masks read a gate: 0 leaks below 0 (the SPD paper), 1 leaks in the gradient only (the later code). */
enum { PAPER = 0, LEAKY_GRADIENT = 1 };

static inline float upper_leaky(float g) { return g <= 0.0f ? 0.0f : (g < 1.0f ? g : 1.0f + LEAK * (g - 1.0f)); }
static inline float upper_slope(float g) { return g <= 0.0f ? 0.0f : (g < 1.0f ? 1.0f : LEAK); }

/* x^p for x >= 0, to about 1e-6 of its value; 0 for x below 1e-37. */
static inline float power(float x, float p) {
  union { float f; int i; } bits;
  bits.f = x;
  const int shifted = bits.i - 0x3f3504f3;  /* the mantissa of sqrt(1/2) */
  const int exponent = shifted >> 23;
  bits.i -= exponent << 23;
  const float s = (bits.f - 1.0f) / (bits.f + 1.0f), s2 = s * s;
  float log2 = 2.8853900817779268f *
    (s + s * s2 * (0.333333333f + s2 * (0.2f + s2 * (0.142857143f + s2 * 0.111111111f))));
  log2 += (float)exponent;
  float t = p * log2;
  t = t < -125.0f ? -125.0f : t;
  t = t > 127.0f ? 127.0f : t;
  const float n = rintf(t), f = t - n;
  float q = 1.540353039e-04f;
  q = q * f + 1.333355815e-03f;
  q = q * f + 9.618129108e-03f;
  q = q * f + 5.550410866e-02f;
  q = q * f + 2.402265070e-01f;
  q = q * f + 6.931471806e-01f;
  q = q * f + 1.0f;
  union { int i; float f; } scale;
  scale.i = ((int)n + 127) << 23;
  return x < 1e-37f ? 0.0f : q * scale.f;
}

static inline float lower_of(float v, float leak) { return v <= 0.0f ? leak * v : (v < 1.0f ? v : 1.0f); }

/* The gradient by v, given that by lower_of(v). */
static inline float through_lower(float v, float d, int paper) {
  const float leaks = LEAK * (paper ? d : (d < 0.0f ? d : 0.0f));
  const float inside = (paper ? v < 1.0f : v <= 1.0f) ? d : 0.0f;
  return v <= 0.0f ? leaks : inside;
}

/* lower: what masks use.  sums [K, C]: sum over rows of row_weight * (upper + eps)^p.
 * jitter, where given: uniform numbers that move the gate of `lower` to 1.05 g - 0.05 jitter. */
void importance_forward(const float *restrict gate, const float *restrict jitter, const float *restrict row_weight,
                        long K, long C, long N, int sigmoid, float p, float eps,
                        float *restrict lower, double *restrict sums) {
  for (long kc = 0; kc < K * C; kc++) {
    const float *r = row_weight + (kc / C) * N, *g = gate + kc * N, *j = jitter ? jitter + kc * N : NULL;
    float *out = lower + kc * N;
    const float leak = sigmoid == PAPER ? LEAK : 0.0f;
    if (j)
      for (long n = 0; n < N; n++) out[n] = lower_of((1.0f + JITTER) * g[n] - JITTER * j[n], leak);
    else
      for (long n = 0; n < N; n++) out[n] = lower_of(g[n], leak);
    double total = 0.0;
    for (long start = 0; start < N; start += 1024) {
      const long end = N - start < 1024 ? N : start + 1024;
      float sum = 0.0f;
      if (p == 1.0f)
        for (long n = start; n < end; n++) sum += r[n] * (upper_leaky(g[n]) + eps);
      else if (p == 2.0f)
        for (long n = start; n < end; n++) { const float u = upper_leaky(g[n]) + eps; sum += r[n] * u * u; }
      else
        for (long n = start; n < end; n++) sum += r[n] * power(upper_leaky(g[n]) + eps, p);
      total += sum;
    }
    sums[kc] = total;
  }
}

/* The gradient by `gate`, given those by `lower` and by `sums`. */
void importance_backward(const float *restrict gate, const float *restrict jitter, const float *restrict row_weight,
                         const float *restrict d_lower, const float *restrict d_sums,
                         long K, long C, long N, int sigmoid, float p, float eps, float *restrict d_gate) {
  for (long kc = 0; kc < K * C; kc++) {
    const long at = kc * N;
    const float *r = row_weight + (kc / C) * N, *g = gate + at, *dl = d_lower + at, *j = jitter ? jitter + at : NULL;
    const float ds = d_sums[kc];
    float *out = d_gate + at;
    const float blur = 1.0f + JITTER;
    if (j && sigmoid == PAPER)
      for (long n = 0; n < N; n++) out[n] = blur * through_lower(blur * g[n] - JITTER * j[n], dl[n], 1);
    else if (j)
      for (long n = 0; n < N; n++) out[n] = blur * through_lower(blur * g[n] - JITTER * j[n], dl[n], 0);
    else if (sigmoid == PAPER)
      for (long n = 0; n < N; n++) out[n] = through_lower(g[n], dl[n], 1);
    else
      for (long n = 0; n < N; n++) out[n] = through_lower(g[n], dl[n], 0);
    if (p == 1.0f)
      for (long n = 0; n < N; n++) out[n] += ds * r[n] * upper_slope(g[n]);
    else if (p == 2.0f)
      for (long n = 0; n < N; n++) out[n] += ds * r[n] * 2.0f * (upper_leaky(g[n]) + eps) * upper_slope(g[n]);
    else
      for (long n = 0; n < N; n++) {
        const float slope = p * power(upper_leaky(g[n]) + eps, p - 1.0f) * upper_slope(g[n]);
        out[n] += g[n] > 0.0f ? ds * r[n] * slope : 0.0f;
      }
  }
}

/* A uniform number in [0, 1) for a place in the array: an integer hash (triple32, C. Wellons) with two halves of
 * a key.  Nothing is stored: the backward pass asks again. */
static inline float uniform(unsigned place, unsigned low, unsigned high) {
  unsigned x = place ^ low;
  x ^= x >> 17; x *= 0xed5ad4bbU;
  x ^= x >> 11; x *= 0xac4c1b51U;
  x += high;
  x ^= x >> 15; x *= 0x31848babU;
  x ^= x >> 14;
  return (float)(int)(x >> 8) * (1.0f / 16777216.0f);
}

void uniform_fill(float *restrict out, long n, unsigned low, unsigned high) {
  for (long i = 0; i < n; i++) out[i] = uniform((unsigned)i, low, high);
}

/* masked = inner * (ci + (1 - ci) * u - delta); u from `source`, or from the key where there is no source;
 * `binary` makes u 1 below one half and else 0.  delta [K, N], where given: the weight of what the components
 * leave out.  Which of these there are is constant within a loop: so the compiler can vectorise each. */
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS float number(const float *restrict source, long i, unsigned low, unsigned high, int given, int binary) {
  const float u = given ? source[i] : uniform((unsigned)i, low, high);
  return binary ? (u < 0.5f ? 1.0f : 0.0f) : u;
}

ALWAYS void forward_loop(const float *restrict inner, const float *restrict ci, const float *restrict source,
                         unsigned low, unsigned high, const float *restrict d, long start, long n,
                         float *restrict masked, int given, int with_delta, int binary) {
  for (long b = 0; b < n; b++) {
    const long i = start + b;
    const float u = number(source, i, low, high, given, binary);
    const float mask = ci[i] + (1.0f - ci[i]) * u;
    masked[i] = inner[i] * (with_delta ? mask - d[b] : mask);
  }
}

ALWAYS void backward_loop(const float *restrict d_masked, const float *restrict inner, const float *restrict ci,
                          const float *restrict source, unsigned low, unsigned high, const float *restrict d,
                          long start, long n, float *restrict d_inner, float *restrict d_ci,
                          int given, int with_delta, int binary) {
  for (long b = 0; b < n; b++) {
    const long i = start + b;
    const float u = number(source, i, low, high, given, binary);
    const float mask = ci[i] + (1.0f - ci[i]) * u;
    d_inner[i] = d_masked[i] * (with_delta ? mask - d[b] : mask);
    d_ci[i] = d_masked[i] * inner[i] * (1.0f - u);
  }
}

#define EVERY_KIND(CALL) \
  if (source && delta && binary) { CALL(1, 1, 1); } \
  else if (source && delta) { CALL(1, 1, 0); } \
  else if (source && binary) { CALL(1, 0, 1); } \
  else if (source) { CALL(1, 0, 0); } \
  else if (delta && binary) { CALL(0, 1, 1); } \
  else if (delta) { CALL(0, 1, 0); } \
  else if (binary) { CALL(0, 0, 1); } \
  else { CALL(0, 0, 0); }

void mask_forward(const float *restrict inner, const float *restrict ci, const float *restrict source,
                  unsigned low, unsigned high, const float *restrict delta, int binary,
                  long K, long C, long N, float *restrict masked) {
  for (long kc = 0; kc < K * C; kc++) {
    const float *d = delta ? delta + (kc / C) * N : NULL;
#define FORWARD(given, with_delta, binary) \
    forward_loop(inner, ci, source, low, high, d, kc * N, N, masked, given, with_delta, binary)
    EVERY_KIND(FORWARD)
  }
}

void mask_backward(const float *restrict d_masked, const float *restrict inner, const float *restrict ci,
                   const float *restrict source, unsigned low, unsigned high, const float *restrict delta, int binary,
                   long K, long C, long N, float *restrict d_inner, float *restrict d_ci) {
  for (long kc = 0; kc < K * C; kc++) {
    const float *d = delta ? delta + (kc / C) * N : NULL;
#define BACKWARD(given, with_delta, binary) \
    backward_loop(d_masked, inner, ci, source, low, high, d, kc * N, N, d_inner, d_ci, given, with_delta, binary)
    EVERY_KIND(BACKWARD)
  }
}
