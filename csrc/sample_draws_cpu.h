// The draws of a sampling plan that the CPU makes with vectors, and what it draws. No torch headers.
#pragma once

#include <algorithm>
#include <vector>

#include "sample_draws.h"

namespace fastgen {

template <typename T>
FG_VECTOR_CLONES void softmax_numerators(int64_t levels, const T* __restrict logits, T temperature, T highest,
                                         T* __restrict numerators) {
  for (int64_t l = 0; l < levels; ++l) {
    const T x = logits[l] / temperature - highest;
    numerators[l] = x < T(-104) ? T(0) : exp(x);  // so small is zero in float: never drawn, even with u = 0
  }
}

inline int64_t draw_categorical(int64_t levels, const float* logits, double uniform, float temperature,
                                float* numerators) {
  const float highest = *std::max_element(logits, logits + levels) / temperature;
  softmax_numerators<float>(levels, logits, temperature, highest, numerators);
  double total = 0, below = 0;
  for (int64_t l = 0; l < levels; ++l) total += numerators[l];
  const float scale = float(total);
  for (int64_t l = 0; l < levels - 1; ++l) {
    below += numerators[l] / scale;
    if (double(float(below)) > uniform) return l;
  }
  return levels - 1;
}

// What all chunks of a batch share. Tensors are contiguous.
struct SampleBatch {
  std::vector<const float*> given;  // of each given buffer (N, rows, columns, channels)
  const double* uniforms;           // (N, C·m, H, W): m = 2 of each value for a mixture, else 1
  const float* table;               // (C, levels, inputs): what the model reads for a value
  int64_t levels;
  const int64_t* known;  // (N, C, H, W), or null
  const bool* keep;      // (N, C, H, W), or null: where `known` is kept
  double temperature;
  int64_t* values;  // (N, C, H, W)
  float* params;    // (N, P, H, W), or null: the parameters that were drawn from, before the temperature
  int64_t components =
      0;  // of a mixture of logistics, which couples colours: each reads all P; 0: a law of its own each
};

}  // namespace fastgen
