// The memory-bound parts of training a small Jamba on a CPU, forward and backward, all f32 and row-major.
//
//     gcc -Ofast -march=native -fopenmp -shared -fPIC kernels.c -o kernels.so -lm
//
// B sequences of T tokens; rows = B·T. D = d_inner, N = d_state. `xz` is the output of in_proj: rows of [u | z], 2·D wide.
// `dbc` holds rows of `width` floats: [dt (rank) | B (N) | C (N)]. Gradients of parameters are added to, all others are set.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define N 16              // d_state
#define TAPS 4            // d_conv
#define CHANNELS 4        // channels that the scan keeps in registers at once
#define MAX_NORM_WIDTH 512

// e^x to about 1e-7: 2^floor by exponent bits, the fraction by a polynomial.
static inline float fast_exp(float x) {
  float t = x * 1.44269504f;
  t = t < -126.f ? -126.f : (t > 126.f ? 126.f : t);
  float whole = floorf(t), r = t - whole;
  float p = 1.87757667e-3f;
  p = p * r + 8.98934009e-3f;
  p = p * r + 5.58263180e-2f;
  p = p * r + 2.40153617e-1f;
  p = p * r + 6.93153073e-1f;
  p = p * r + 9.99999994e-1f;
  union {
    int32_t bits;
    float value;
  } scale = {.bits = ((int32_t)whole + 127) << 23};
  return p * scale.value;
}

static inline float sigmoid(float x) { return 1.f / (1.f + fast_exp(-x)); }

// y = x · inverse · weight, inverse = 1 / sqrt(mean(x²) + 1e-6); rows are `stride` apart.
void rms_norm_forward(int rows, int width, int stride, const float *x, const float *weight, float *y, float *inverse) {
#pragma omp parallel for
  for (int r = 0; r < rows; r++) {
    const float *xr = x + (size_t)r * stride;
    float *yr = y + (size_t)r * stride, sum = 0;
    for (int i = 0; i < width; i++) sum += xr[i] * xr[i];
    float scale = 1.f / sqrtf(sum / width + 1e-6f);
    inverse[r] = scale;
    for (int i = 0; i < width; i++) yr[i] = xr[i] * scale * weight[i];
  }
}

void rms_norm_backward(int rows, int width, int stride, const float *x, const float *weight, const float *inverse,
                       const float *dy, float *dx, float *dweight) {
#pragma omp parallel
  {
    float partial[MAX_NORM_WIDTH] = {0};
#pragma omp for
    for (int r = 0; r < rows; r++) {
      const float *xr = x + (size_t)r * stride, *dyr = dy + (size_t)r * stride;
      float *dxr = dx + (size_t)r * stride, scale = inverse[r], dot = 0;
      for (int i = 0; i < width; i++) {
        dot += dyr[i] * weight[i] * xr[i];
        partial[i] += dyr[i] * xr[i] * scale;
      }
      dot *= scale * scale * scale / width;
      for (int i = 0; i < width; i++) dxr[i] = dyr[i] * weight[i] * scale - xr[i] * dot;
    }
#pragma omp critical
    for (int i = 0; i < width; i++) dweight[i] += partial[i];
  }
}

// One row of the causal convolution before its SiLU; `weight` is [TAPS][D].
static inline void convolve_row(int t, int D, const float *xz, size_t row, const float *weight, const float *bias,
                                float *out) {
  memcpy(out, bias, sizeof(float) * D);
  for (int k = 0; k < TAPS; k++) {
    int back = TAPS - 1 - k;
    if (t < back) continue;
    const float *u = xz + (row - back) * 2 * D, *w = weight + k * D;
    for (int i = 0; i < D; i++) out[i] += u[i] * w[i];
  }
}

// y = silu(conv(u) + bias)
void conv_silu_forward(int B, int T, int D, const float *xz, const float *weight, const float *bias, float *y) {
#pragma omp parallel for collapse(2)
  for (int b = 0; b < B; b++)
    for (int t = 0; t < T; t++) {
      size_t row = (size_t)b * T + t;
      float *yr = y + row * D;
      convolve_row(t, D, xz, row, weight, bias, yr);
      for (int i = 0; i < D; i++) yr[i] *= sigmoid(yr[i]);
    }
}

void conv_silu_backward(int B, int T, int D, const float *xz, const float *weight, const float *bias, const float *dy,
                        float *dxz, float *dweight, float *dbias) {
#pragma omp parallel
  {
    float *dw = calloc(TAPS * D, sizeof(float)), *db = calloc(D, sizeof(float));
    float *dconv = malloc(sizeof(float) * T * D);
#pragma omp for
    for (int b = 0; b < B; b++) {
      for (int t = 0; t < T; t++) {
        size_t row = (size_t)b * T + t;
        float *c = dconv + (size_t)t * D;
        const float *g = dy + row * D;
        convolve_row(t, D, xz, row, weight, bias, c);
        for (int i = 0; i < D; i++) {
          float s = sigmoid(c[i]);
          c[i] = g[i] * s * (1 + c[i] * (1 - s));
          db[i] += c[i];
        }
        for (int k = 0; k < TAPS; k++) {
          int back = TAPS - 1 - k;
          if (t < back) continue;
          const float *u = xz + (row - back) * 2 * D;
          for (int i = 0; i < D; i++) dw[k * D + i] += u[i] * c[i];
        }
      }
      for (int t = 0; t < T; t++) {
        float *du = dxz + ((size_t)b * T + t) * 2 * D;
        memset(du, 0, sizeof(float) * D);
        for (int k = 0; k < TAPS; k++) {
          int later = t + TAPS - 1 - k;
          if (later >= T) continue;
          const float *c = dconv + (size_t)later * D, *w = weight + k * D;
          for (int i = 0; i < D; i++) du[i] += c[i] * w[i];
        }
      }
    }
#pragma omp critical
    {
      for (int i = 0; i < TAPS * D; i++) dweight[i] += dw[i];
      for (int i = 0; i < D; i++) dbias[i] += db[i];
    }
    free(dw), free(db), free(dconv);
  }
}

// delta = softplus(dt); h[t] = exp(delta·A) h[t-1] + delta·u·B; scanned = h·C; y = (scanned + skip·u) · silu(z)
void scan_forward(int B, int T, int D, int width, int rank, const float *u, const float *dt, const float *A,
                  const float *dbc, const float *skip, const float *xz, float *delta, float *scanned, float *y) {
#pragma omp parallel
  {
#pragma omp for
    for (int i = 0; i < B * T * D; i++) {
      float soft = logf(1.f + fast_exp(dt[i]));
      delta[i] = dt[i] > 15.f ? dt[i] : soft;
    }
#pragma omp for collapse(2)
    for (int b = 0; b < B; b++)
      for (int d0 = 0; d0 < D; d0 += CHANNELS) {
        float h[CHANNELS][N] = {{0}};
        for (int t = 0; t < T; t++) {
          size_t row = (size_t)b * T + t;
          const float *Bt = dbc + row * width + rank, *Ct = Bt + N;
          for (int j = 0; j < CHANNELS; j++) {
            size_t i = row * D + d0 + j;
            float step = delta[i], input = step * u[i], sum = 0;
            const float *Ad = A + (d0 + j) * N;
            for (int n = 0; n < N; n++) {
              h[j][n] = h[j][n] * fast_exp(step * Ad[n]) + input * Bt[n];
              sum += h[j][n] * Ct[n];
            }
            scanned[i] = sum;
          }
        }
      }
#pragma omp for
    for (int r = 0; r < B * T; r++) {
      size_t row = (size_t)r * D;
      const float *z = xz + 2 * row + D;
      for (int i = 0; i < D; i++) y[row + i] = (scanned[row + i] + u[row + i] * skip[i]) * z[i] * sigmoid(z[i]);
    }
  }
}

// Sets du, ddt, the B and C columns of ddbc and the z half of dxz; adds to dA and dskip. Overwrites dy.
void scan_backward(int B, int T, int D, int width, int rank, const float *u, const float *dt, const float *A,
                   const float *dbc, const float *skip, const float *xz, const float *delta, const float *scanned,
                   float *dy, float *du, float *ddt, float *dA, float *ddbc, float *dskip, float *dxz) {
#pragma omp parallel
  {
    size_t tile = (size_t)T * CHANNELS * N;
    float *decayed = malloc(sizeof(float) * tile), *decay = malloc(sizeof(float) * tile);
    float *dA_part = calloc(D * N, sizeof(float)), *dskip_part = calloc(D, sizeof(float));
#pragma omp for
    for (int r = 0; r < B * T; r++) {  // through the gate and the skip; dy becomes the gradient of `scanned`
      size_t row = (size_t)r * D;
      const float *z = xz + 2 * row + D;
      float *dz = dxz + 2 * row + D;
      for (int i = 0; i < D; i++) {
        float s = sigmoid(z[i]), g = dy[row + i];
        dz[i] = g * (scanned[row + i] + u[row + i] * skip[i]) * s * (1 + z[i] * (1 - s));
        g *= z[i] * s;
        dy[row + i] = g;
        dskip_part[i] += g * u[row + i];
      }
    }
#pragma omp for
    for (int b = 0; b < B; b++) {
      for (int t = 0; t < T; t++) memset(ddbc + ((size_t)b * T + t) * width + rank, 0, sizeof(float) * 2 * N);
      for (int d0 = 0; d0 < D; d0 += CHANNELS) {
        float h[CHANNELS][N] = {{0}}, dh[CHANNELS][N] = {{0}};
        for (int t = 0; t < T; t++) {  // the states again, which were not kept
          size_t row = (size_t)b * T + t;
          const float *Bt = dbc + row * width + rank;
          for (int j = 0; j < CHANNELS; j++) {
            size_t i = row * D + d0 + j, at = ((size_t)t * CHANNELS + j) * N;
            float step = delta[i], input = step * u[i];
            const float *Ad = A + (d0 + j) * N;
            for (int n = 0; n < N; n++) {
              decay[at + n] = fast_exp(step * Ad[n]);
              decayed[at + n] = h[j][n] * decay[at + n];
              h[j][n] = decayed[at + n] + input * Bt[n];
            }
          }
        }
        for (int t = T - 1; t >= 0; t--) {
          size_t row = (size_t)b * T + t;
          const float *Bt = dbc + row * width + rank, *Ct = Bt + N;
          float *dB = ddbc + row * width + rank, *dC = dB + N, dB_sum[N] = {0}, dC_sum[N] = {0};
          for (int j = 0; j < CHANNELS; j++) {
            size_t i = row * D + d0 + j, at = ((size_t)t * CHANNELS + j) * N;
            const float *Ad = A + (d0 + j) * N;
            float *dAd = dA_part + (d0 + j) * N;
            float step = delta[i], g = dy[i], input = step * u[i], by_decay = 0, by_input = 0;
            for (int n = 0; n < N; n++) {
              float dhn = dh[j][n] + g * Ct[n], dexponent = dhn * decayed[at + n];
              dC_sum[n] += g * (decayed[at + n] + input * Bt[n]);
              dB_sum[n] += dhn * input;
              by_decay += dexponent * Ad[n];
              by_input += dhn * Bt[n];
              dAd[n] += dexponent * step;
              dh[j][n] = dhn * decay[at + n];
            }
            du[i] = by_input * step + g * skip[d0 + j];
            ddt[i] = (by_decay + by_input * u[i]) * sigmoid(dt[i]);
          }
          for (int n = 0; n < N; n++) {
            dB[n] += dB_sum[n];
            dC[n] += dC_sum[n];
          }
        }
      }
    }
#pragma omp critical
    {
      for (int i = 0; i < D * N; i++) dA[i] += dA_part[i];
      for (int i = 0; i < D; i++) dskip[i] += dskip_part[i];
    }
    free(decayed), free(decay), free(dA_part), free(dskip_part);
  }
}

// h = silu(gate) · up · scale over rows of [gate | up]; `scale` is one factor a row, or NULL.
void swiglu_forward(int rows, int width, const float *gate_up, const float *scale, float *h) {
#pragma omp parallel for
  for (int r = 0; r < rows; r++) {
    const float *gate = gate_up + (size_t)r * 2 * width, *up = gate + width;
    float *hr = h + (size_t)r * width, factor = scale ? scale[r] : 1.f;
    for (int i = 0; i < width; i++) hr[i] = gate[i] * sigmoid(gate[i]) * up[i] * factor;
  }
}

void swiglu_backward(int rows, int width, const float *gate_up, const float *scale, const float *dh, float *dgate_up,
                     float *dscale) {
#pragma omp parallel for
  for (int r = 0; r < rows; r++) {
    const float *gate = gate_up + (size_t)r * 2 * width, *up = gate + width, *dhr = dh + (size_t)r * width;
    float *dgate = dgate_up + (size_t)r * 2 * width, *dup = dgate + width, factor = scale ? scale[r] : 1.f, sum = 0;
    for (int i = 0; i < width; i++) {
      float s = sigmoid(gate[i]), silu = gate[i] * s;
      sum += dhr[i] * silu * up[i];
      dup[i] = dhr[i] * silu * factor;
      dgate[i] = dhr[i] * factor * up[i] * s * (1 + gate[i] * (1 - s));
    }
    if (dscale) dscale[r] = sum;
  }
}
