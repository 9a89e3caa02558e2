/* Gate MLPs of stochastic parameter decomposition, in single precision, batch axis innermost.
 *
 * Inner activations and gates are [K, C, N]; gate weights [K, C, H].
 * Blocks of the batch stay in the first-level cache, so that nothing of size [N, C, H] ever exists.
 */
#include <math.h>
#include <stddef.h>

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

/* Gate MLP of each component on its own inner activation.  H == 0: a linear gate. */
void gate_forward(const float *restrict inner, const float *restrict w_in, const float *restrict b_in,
                  const float *restrict w_out, const float *restrict b_out,
                  long K, long C, long N, long H, float *restrict gate) {
  for (long kc = 0; kc < K * C; kc++) {
    const float *wi = w_in + kc * (H ? H : 1), *bi = b_in + kc * H, *wo = w_out + kc * H;
    for (long start = 0; start < N; start += BLOCK) {
      const long n = N - start < BLOCK ? N - start : BLOCK;
      const float *x = inner + kc * N + start;
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
      float *out = gate + kc * N + start;
      for (long b = 0; b < n; b++) out[b] = g[b];
    }
  }
}

/* Gradients of the above, given that of `gate`. */
void gate_backward(const float *restrict inner, const float *restrict w_in, const float *restrict b_in,
                   const float *restrict w_out, const float *restrict d_gate,
                   long K, long C, long N, long H,
                   float *restrict d_inner, float *restrict d_w_in, float *restrict d_b_in,
                   float *restrict d_w_out, float *restrict d_b_out) {
  for (long kc = 0; kc < K * C; kc++) {
    const long HH = H ? H : 1;
    const float *wi = w_in + kc * HH, *bi = b_in + kc * H, *wo = w_out + kc * H;
    float *dwi = d_w_in + kc * HH, *dbi = d_b_in + kc * H, *dwo = d_w_out + kc * H;
    for (long h = 0; h < HH; h++) dwi[h] = 0.0f;
    for (long h = 0; h < H; h++) dbi[h] = dwo[h] = 0.0f;
    float dbo = 0.0f;
    for (long start = 0; start < N; start += BLOCK) {
      const long n = N - start < BLOCK ? N - start : BLOCK;
      const float *x = inner + kc * N + start, *dg = d_gate + kc * N + start;
      float dx[BLOCK];
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
      float *out = d_inner + kc * N + start;
      for (long b = 0; b < n; b++) out[b] = dx[b];
    }
    d_b_out[kc] = dbo;
  }
}

/* The last layer of networks with one hidden layer: gate[c, n] = sum_h w_out[c, h] gelu(pre[c, h, n]) + b_out[c].
 * pre: [K, C, H, N], the first layer's bias included. */
void hidden_forward(const float *restrict pre, const float *restrict w_out, const float *restrict b_out,
                    long KC, long H, long N, float *restrict gate) {
  for (long c = 0; c < KC; c++)
    for (long start = 0; start < N; start += BLOCK) {
      const long n = N - start < BLOCK ? N - start : BLOCK;
      float g[BLOCK];
      for (long b = 0; b < n; b++) g[b] = b_out[c];
      for (long h = 0; h < H; h++) {
        const float *z = pre + (c * H + h) * N + start;
        const float o = w_out[c * H + h];
        for (long b = 0; b < n; b++) g[b] += o * gelu(z[b]);
      }
      float *out = gate + c * N + start;
      for (long b = 0; b < n; b++) out[b] = g[b];
    }
}

/* Gradients of the above, given that of `gate`; that by `pre` takes its place. */
void hidden_backward(float *restrict pre, const float *restrict w_out, const float *restrict d_gate,
                     long KC, long H, long N, float *restrict d_w_out, float *restrict d_b_in, float *restrict d_b_out) {
  for (long c = 0; c < KC; c++) {
    const float *dg = d_gate + c * N;
    float dbo = 0.0f;
    for (long b = 0; b < N; b++) dbo += dg[b];
    d_b_out[c] = dbo;
    for (long h = 0; h < H; h++) {
      float *z = pre + (c * H + h) * N;
      const float o = w_out[c * H + h];
      float sum_out = 0.0f, sum_bias = 0.0f;
      for (long b = 0; b < N; b++) {
        const float e = exp_negative(-0.5f * z[b] * z[b]);
        const float below = e * tail(fabsf(z[b]));
        const float phi = z[b] > 0.0f ? 1.0f - below : below;
        const float d = dg[b] * o * (phi + z[b] * 0.398942280401432678f * e);
        sum_out += dg[b] * z[b] * phi;
        sum_bias += d;
        z[b] = d;
      }
      d_w_out[c * H + h] = sum_out;
      d_b_in[c * H + h] = sum_bias;
    }
  }
}
