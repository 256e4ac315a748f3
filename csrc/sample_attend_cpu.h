// attend: y[h] = softmax(scale · q[h] · K[:, h]ᵀ + bias[h]) · V[:, h], one position of one image, over its keys alone
// Shapes   q (heads, dk), K (keys, heads, dk), V (keys, heads, dv), y (heads, dv); keys in runs of neighbours
// Traffic  each key and each value once, all heads together: 4·heads·(dk + dv) bytes, 2 operations for each number
// Numerics f32, sums of a head over 16 lanes; one order whatever the batch. Scores first, then their largest, then
//          exponentials: a head's scores lie in memory
// No torch headers.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "math.h"

namespace fastgen {

typedef float AttendLanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t kAttendLanes = 16;

struct AttendHeads {
  int64_t heads, dk, dv;
};

// scores[h·stride + j] = q[h] · k[j, h] for `count` neighbours.
FG_VECTOR_CLONES inline void attend_scores(const AttendHeads of, const float* q, const float* k, int64_t k_stride,
                                           int64_t count, float* scores, int64_t stride) {
  for (int64_t j = 0; j < count; ++j, k += k_stride)
    for (int64_t h = 0; h < of.heads; ++h) {
      const float *a = q + h * of.dk, *b = k + h * of.dk;
      int64_t c = 0;
      float sum = 0;
      if (of.dk >= kAttendLanes) {
        AttendLanes sums = {};
        for (; c + kAttendLanes <= of.dk; c += kAttendLanes)
          sums += *reinterpret_cast<const AttendLanes*>(a + c) * *reinterpret_cast<const AttendLanes*>(b + c);
        float parts[kAttendLanes];
        *reinterpret_cast<AttendLanes*>(parts) = sums;
        for (int half = kAttendLanes / 2; half > 0; half /= 2)
          for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
        sum = parts[0];
      }
      for (; c < of.dk; ++c) sum += a[c] * b[c];
      scores[h * stride + j] = sum;
    }
}

// y[h] += Σ_j p[h·stride + j] · v[j, h], four neighbours at a time.
FG_VECTOR_CLONES inline void attend_values(const AttendHeads of, const float* p, int64_t stride, const float* v,
                                           int64_t v_stride, int64_t count, float* __restrict y) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4, v += 4 * v_stride)
    for (int64_t h = 0; h < of.heads; ++h) {
      const float *w = p + h * stride + j, *b = v + h * of.dv;
      float* to = y + h * of.dv;
#pragma GCC ivdep
      for (int64_t c = 0; c < of.dv; ++c)
        to[c] += w[0] * b[c] + w[1] * b[v_stride + c] + (w[2] * b[2 * v_stride + c] + w[3] * b[3 * v_stride + c]);
    }
  for (; j < count; ++j, v += v_stride)
    for (int64_t h = 0; h < of.heads; ++h) {
      const float w = p[h * stride + j], *b = v + h * of.dv;
      float* to = y + h * of.dv;
#pragma GCC ivdep
      for (int64_t c = 0; c < of.dv; ++c) to[c] += w * b[c];
    }
}

// x = exp(scale · x + bias − their largest) for `count` scores; answers with the sum. NaN if the largest is not far
// above `floor`: then what is masked with that number would count.
FG_VECTOR_CLONES inline float attend_softmax(int64_t count, float scale, const float* bias, float floor, float* x) {
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    x[j] = scale * x[j] + (bias ? bias[j] : 0.0f);
    largest = x[j] > largest ? x[j] : largest;
  }
  if (!(largest > floor + 104.0f)) return std::numeric_limits<float>::quiet_NaN();
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) x[j] = exp(x[j] - largest);
  float parts[kAttendLanes] = {};
  for (int64_t j = 0; j < count; ++j) parts[j % kAttendLanes] += x[j];
  for (const float part : parts) sum += part;
  return sum;
}

// Where the keys and values of one image lie: position after position.
struct AttendImage {
  const float *keys, *values;
  int64_t keys_stride, values_stride;
};

// `runs`: of neighbours [begin, end), `run_count` of them. `bias`: of this query, a row of `keys` for each head, or for
// all, bias_stride = 0; or null.
struct AttendQuery {
  const int64_t* runs;
  int64_t run_count;
  float scale, floor;
  const float* bias;
  int64_t bias_stride;
};

inline void attend(const AttendHeads of, const AttendQuery& query, const float* q, const AttendImage& image,
                   std::vector<float>& scores, float* y) {
  int64_t keys = 0;
  for (int64_t r = 0; r < query.run_count; ++r) keys += query.runs[2 * r + 1] - query.runs[2 * r];
  std::fill_n(y, of.heads * of.dv, 0.0f);
  if (keys == 0) return;
  const int64_t stride = keys;
  scores.resize(size_t(of.heads * stride + of.heads + (query.bias ? keys : 0)));  // then the sums, and a head's bias
  int64_t at = 0;
  for (int64_t r = 0; r < query.run_count; ++r) {
    const int64_t begin = query.runs[2 * r], count = query.runs[2 * r + 1] - begin;
    attend_scores(of, q, image.keys + begin * image.keys_stride, image.keys_stride, count, scores.data() + at, stride);
    at += count;
  }
  for (int64_t h = 0; h < of.heads; ++h) {
    float *row = scores.data() + h * stride, *bias = nullptr;
    if (query.bias) {
      bias = scores.data() + of.heads * stride + of.heads;
      float* to = bias;
      for (int64_t r = 0; r < query.run_count; ++r)
        to = std::copy(query.bias + h * query.bias_stride + query.runs[2 * r],
                       query.bias + h * query.bias_stride + query.runs[2 * r + 1], to);
    }
    scores[size_t(of.heads * stride + h)] = attend_softmax(keys, query.scale, bias, query.floor, row);
  }
  at = 0;
  for (int64_t r = 0; r < query.run_count; ++r) {
    const int64_t begin = query.runs[2 * r], count = query.runs[2 * r + 1] - begin;
    attend_values(of, scores.data() + at, stride, image.values + begin * image.values_stride, image.values_stride,
                  count, y);
    at += count;
  }
  for (int64_t h = 0; h < of.heads; ++h)
    for (int64_t c = 0; c < of.dv; ++c) y[h * of.dv + c] /= scores[size_t(of.heads * stride + h)];
}

}  // namespace fastgen
