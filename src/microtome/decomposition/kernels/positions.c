/* Masks and causal importances with the subcomponents innermost: [P, C], P rows and positions together.
 * Single precision. */
#include <stddef.h>

#define LEAK 0.01f
#define ALWAYS static inline __attribute__((always_inline))

/* out = inner * (lower + (1 - lower) * source - delta), 0 where a position is not routed.
 * delta [P], route [P]: where given. */
void drawn_forward(const float *restrict inner, const float *restrict lower, const float *restrict source,
                   const float *restrict delta, const unsigned char *restrict route, long P, long C,
                   float *restrict out) {
  for (long p = 0; p < P; p++) {
    const float *h = inner + p * C, *l = lower + p * C, *u = source + p * C;
    float *o = out + p * C;
    const float d = delta ? delta[p] : 0.0f;
    if (route && !route[p])
      for (long c = 0; c < C; c++) o[c] = 0.0f;
    else
      for (long c = 0; c < C; c++) o[c] = h[c] * (l[c] + (1.0f - l[c]) * u[c] - d);
  }
}

/* Gradients of the above, given that of out; d_source and d_delta where they are wanted. */
void drawn_backward(const float *restrict d_out, const float *restrict inner, const float *restrict lower,
                    const float *restrict source, const float *restrict delta, const unsigned char *restrict route,
                    long P, long C, float *restrict d_inner, float *restrict d_lower, float *restrict d_source,
                    float *restrict d_delta) {
  for (long p = 0; p < P; p++) {
    const long at = p * C;
    const float *g = d_out + at, *h = inner + at, *l = lower + at, *u = source + at;
    const float d = delta ? delta[p] : 0.0f;
    if (route && !route[p]) {
      for (long c = 0; c < C; c++) d_inner[at + c] = 0.0f;
      for (long c = 0; c < C; c++) d_lower[at + c] = 0.0f;
      if (d_source) for (long c = 0; c < C; c++) d_source[at + c] = 0.0f;
      if (d_delta) d_delta[p] = 0.0f;
      continue;
    }
    for (long c = 0; c < C; c++) {
      const float both = g[c] * h[c];
      d_inner[at + c] = g[c] * (l[c] + (1.0f - l[c]) * u[c] - d);
      d_lower[at + c] = both * (1.0f - u[c]);
    }
    if (d_source) for (long c = 0; c < C; c++) d_source[at + c] = g[c] * h[c] * (1.0f - l[c]);
    if (d_delta) {
      float sum = 0.0f;
      for (long c = 0; c < C; c++) sum += g[c] * h[c];
      d_delta[p] = -sum;
    }
  }
}

/* Both leaky hard sigmoids of a gate: for masks (leaking in the gradient only, unless paper) and for losses. */
void sigmoids_forward(const float *restrict gate, long n, int paper, float *restrict lower, float *restrict upper) {
  const float leak = paper ? LEAK : 0.0f;
  for (long i = 0; i < n; i++) {
    const float g = gate[i];
    lower[i] = g <= 0.0f ? leak * g : (g < 1.0f ? g : 1.0f);
    upper[i] = g <= 0.0f ? 0.0f : (g < 1.0f ? g : 1.0f + LEAK * (g - 1.0f));
  }
}

ALWAYS void sigmoids_loop(const float *restrict gate, const float *restrict d_lower, const float *restrict d_upper,
                          long n, float *restrict d_gate, int paper) {
  for (long i = 0; i < n; i++) {
    const float g = gate[i], dl = d_lower[i];
    const float leaks = LEAK * (paper ? dl : (dl < 0.0f ? dl : 0.0f));
    const float inside = (paper ? g < 1.0f : g <= 1.0f) ? dl : 0.0f;
    d_gate[i] = (g <= 0.0f ? leaks : inside) + d_upper[i] * (g <= 0.0f ? 0.0f : (g < 1.0f ? 1.0f : LEAK));
  }
}

void sigmoids_backward(const float *restrict gate, const float *restrict d_lower, const float *restrict d_upper,
                       long n, int paper, float *restrict d_gate) {
  if (paper) sigmoids_loop(gate, d_lower, d_upper, n, d_gate, 1);
  else sigmoids_loop(gate, d_lower, d_upper, n, d_gate, 0);
}
