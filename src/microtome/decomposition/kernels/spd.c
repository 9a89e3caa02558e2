/* The hot loops of stochastic parameter decomposition, in single precision, batch axis innermost.
 *
 * Inner activations, gates and causal importances are [K, C, B]; gate weights [K, C, H].
 * Blocks of the batch stay in the first-level cache, so that nothing of size [B, C, H] ever exists.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#define BLOCK 256

/* exp(t) for t <= 0, to about 1 unit in the last place. */
static inline float exp_negative(float t) {
  float s = t * 1.44269504088896341f;
  s = s < -125.0f ? -125.0f : s;
  float n = rintf(s);
  float f = s - n;
  float p = 1.327640783e-03f;
  p = p * f + 9.675540788e-03f;
  p = p * f + 5.550713437e-02f;
  p = p * f + 2.402211975e-01f;
  p = p * f + 6.931469670e-01f;
  p = p * f + 1.000000072f;
  union { int i; float f; } scale;
  scale.i = ((int)n + 127) << 23;
  return p * scale.f;
}

/* Phi(-m) * exp(m^2/2) for m >= 0: a minimax polynomial in 1/(1 + 0.33 m), absolute error 6e-9. */
static inline float tail(float m) {
  float t = 1.0f / (1.0f + 0.33f * m);
  float q = 4.677588921e-02f;
  q = q * t - 2.269424981e-01f;
  q = q * t + 3.451313535e-01f;
  q = q * t - 1.059119549e-01f;
  q = q * t + 1.927380152e-01f;
  q = q * t + 1.146089773e-01f;
  q = q * t + 1.337002121e-01f;
  return q * t - 9.998808022e-05f;
}

/* z * Phi(z) with Phi = 1/2 + z R(z^2), R a minimax polynomial for |z| <= 5.6; absolute error 3e-8 before
 * rounding.  Cheaper than the exponential, which the derivative needs and this does not. */
static inline float gelu(float z) {
  float m = z > 5.6f ? 5.6f : z;
  m = m < -5.6f ? -5.6f : m;
  const float v = m * m * (float)(2.0 / (5.6 * 5.6)) - 1.0f;
  float r = -2.734108362e-04f;
  r = r * v + 8.122309134e-04f;
  r = r * v - 8.127407300e-04f;
  r = r * v + 8.930908085e-04f;
  r = r * v - 2.630596949e-03f;
  r = r * v + 5.230657691e-03f;
  r = r * v - 7.690669200e-03f;
  r = r * v + 1.103828915e-02f;
  r = r * v - 1.570419523e-02f;
  r = r * v + 2.092757205e-02f;
  r = r * v - 2.632033751e-02f;
  r = r * v + 3.197162389e-02f;
  r = r * v - 3.834490193e-02f;
  r = r * v + 4.698080443e-02f;
  r = r * v - 6.305130041e-02f;
  r = r * v + 1.262595952e-01f;
  return z * (0.5f + m * r);
}

static inline float lower_leaky(float g) { return g <= 0.0f ? 0.01f * g : (g < 1.0f ? g : 1.0f); }
static inline float lower_slope(float g) { return g <= 0.0f ? 0.01f : (g < 1.0f ? 1.0f : 0.0f); }
static inline float upper_leaky(float g) { return g <= 0.0f ? 0.0f : (g < 1.0f ? g : 1.0f + 0.01f * (g - 1.0f)); }
static inline float upper_slope(float g) { return g <= 0.0f ? 0.0f : (g < 1.0f ? 1.0f : 0.01f); }

/* Gate MLP of each component on its own inner activation, both leaky hard sigmoids and the sum of
 * row_weight * upper^p.  H == 0: a linear gate. */
void gate_forward(const float *restrict inner, const float *restrict row_weight,
                  const float *restrict w_in, const float *restrict b_in,
                  const float *restrict w_out, const float *restrict b_out,
                  long K, long C, long B, long H, float p, float eps,
                  float *restrict gate, float *restrict lower, double *restrict importance) {
  for (long k = 0; k < K; k++) {
    double total = 0.0;
    const float *rw = row_weight + k * B;
    for (long c = 0; c < C; c++) {
      const long kc = k * C + c;
      const float *wi = w_in + kc * (H ? H : 1), *bi = b_in + kc * H, *wo = w_out + kc * H;
      for (long start = 0; start < B; start += BLOCK) {
        const long n = B - start < BLOCK ? B - start : BLOCK;
        const float *x = inner + kc * B + start;
        float g[BLOCK];
        for (long b = 0; b < n; b++) g[b] = b_out[kc];
        if (H == 0)
          for (long b = 0; b < n; b++) g[b] += wi[0] * x[b];
        long h = 0;
        for (; h + 1 < H; h += 2) {
          const float w0 = wi[h], c0 = bi[h], o0 = wo[h], w1 = wi[h + 1], c1 = bi[h + 1], o1 = wo[h + 1];
          for (long b = 0; b < n; b++) g[b] += o0 * gelu(x[b] * w0 + c0) + o1 * gelu(x[b] * w1 + c1);
        }
        for (; h < H; h++) {
          const float w0 = wi[h], c0 = bi[h], o0 = wo[h];
          for (long b = 0; b < n; b++) g[b] += o0 * gelu(x[b] * w0 + c0);
        }
        float *gs = gate + kc * B + start, *ls = lower + kc * B + start;
        const float *r = rw + start;
        float sum = 0.0f;
        for (long b = 0; b < n; b++) { gs[b] = g[b]; ls[b] = lower_leaky(g[b]); }
        if (p == 1.0f)
          for (long b = 0; b < n; b++) sum += r[b] * upper_leaky(g[b]);
        else if (p == 2.0f)
          for (long b = 0; b < n; b++) { float u = upper_leaky(g[b]); sum += r[b] * u * u; }
        else
          for (long b = 0; b < n; b++) sum += r[b] * powf(upper_leaky(g[b]) + eps, p);
        total += sum;
      }
    }
    importance[k] = total;
  }
}

/* Gradients of the above, given those of `lower` [K, C, B] and of the importance sum [K]. */
void gate_backward(const float *restrict inner, const float *restrict row_weight,
                   const float *restrict w_in, const float *restrict b_in, const float *restrict w_out,
                   const float *restrict gate, const float *restrict d_lower, const float *restrict d_importance,
                   long K, long C, long B, long H, float p, float eps,
                   float *restrict d_inner, float *restrict d_w_in, float *restrict d_b_in,
                   float *restrict d_w_out, float *restrict d_b_out) {
  for (long k = 0; k < K; k++) {
    const float di = d_importance[k];
    const float *rw = row_weight + k * B;
    for (long c = 0; c < C; c++) {
      const long kc = k * C + c;
      const long HH = H ? H : 1;
      const float *wi = w_in + kc * HH, *bi = b_in + kc * H, *wo = w_out + kc * H;
      float *dwi = d_w_in + kc * HH, *dbi = d_b_in + kc * H, *dwo = d_w_out + kc * H;
      for (long h = 0; h < HH; h++) dwi[h] = 0.0f;
      for (long h = 0; h < H; h++) dbi[h] = dwo[h] = 0.0f;
      float dbo = 0.0f;
      for (long start = 0; start < B; start += BLOCK) {
        const long n = B - start < BLOCK ? B - start : BLOCK;
        const long at = kc * B + start;
        const float *x = inner + at, *g = gate + at, *dl = d_lower + at, *r = rw + start;
        float dg[BLOCK], dx[BLOCK];
        if (p == 1.0f)
          for (long b = 0; b < n; b++) dg[b] = dl[b] * lower_slope(g[b]) + di * r[b] * upper_slope(g[b]);
        else if (p == 2.0f)
          for (long b = 0; b < n; b++)
            dg[b] = dl[b] * lower_slope(g[b]) + di * r[b] * 2.0f * upper_leaky(g[b]) * upper_slope(g[b]);
        else
          for (long b = 0; b < n; b++)
            dg[b] = dl[b] * lower_slope(g[b]) +
                    (g[b] > 0.0f ? di * r[b] * p * powf(upper_leaky(g[b]) + eps, p - 1.0f) * upper_slope(g[b]) : 0.0f);
        float sum = 0.0f;
        for (long b = 0; b < n; b++) sum += dg[b];
        dbo += sum;
        if (H == 0) {
          float s = 0.0f;
          for (long b = 0; b < n; b++) { dx[b] = dg[b] * wi[0]; s += dg[b] * x[b]; }
          dwi[0] += s;
        } else {
          for (long b = 0; b < n; b++) dx[b] = 0.0f;
        }
        for (long h = 0; h < H; h++) {
          const float w = wi[h], o = wo[h], c0 = bi[h];
          float sum_out = 0.0f, sum_in = 0.0f, sum_bias = 0.0f;
          for (long b = 0; b < n; b++) {
            const float z = x[b] * w + c0;
            const float m = fabsf(z);
            const float e = exp_negative(-0.5f * z * z);
            const float below = e * tail(m);
            const float phi = z > 0.0f ? 1.0f - below : below;
            const float d = dg[b] * o * (phi + z * 0.398942280401432678f * e);
            sum_out += dg[b] * z * phi;
            sum_in += d * x[b];
            sum_bias += d;
            dx[b] += d * w;
          }
          dwo[h] += sum_out;
          dwi[h] += sum_in;
          dbi[h] += sum_bias;
        }
        float *out = d_inner + at;
        for (long b = 0; b < n; b++) out[b] = dx[b];
      }
      d_b_out[kc] = dbo;
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

/* masked = inner * (ci + (1 - ci) * u); u from `source`, or from the key where there is no source. */
void mask_forward(const float *restrict inner, const float *restrict ci, const float *restrict source,
                  unsigned low, unsigned high, float *restrict masked, long n) {
  if (source)
    for (long i = 0; i < n; i++) masked[i] = inner[i] * (ci[i] + (1.0f - ci[i]) * source[i]);
  else
    for (long i = 0; i < n; i++) {
      const float u = uniform((unsigned)i, low, high);
      masked[i] = inner[i] * (ci[i] + (1.0f - ci[i]) * u);
    }
}

void mask_backward(const float *restrict d_masked, const float *restrict inner, const float *restrict ci,
                   const float *restrict source, unsigned low, unsigned high,
                   float *restrict d_inner, float *restrict d_ci, long n) {
  if (source)
    for (long i = 0; i < n; i++) {
      d_inner[i] = d_masked[i] * (ci[i] + (1.0f - ci[i]) * source[i]);
      d_ci[i] = d_masked[i] * inner[i] * (1.0f - source[i]);
    }
  else
    for (long i = 0; i < n; i++) {
      const float u = uniform((unsigned)i, low, high);
      d_inner[i] = d_masked[i] * (ci[i] + (1.0f - ci[i]) * u);
      d_ci[i] = d_masked[i] * inner[i] * (1.0f - u);
    }
}
