// Activations of one number, which a convolution or a batch norm takes along, and their gradients from the result. No
// torch headers.
#pragma once

#include <string>

#include "math.h"

namespace fastgen {

enum class Pointwise { kNone, kRelu, kLeakyRelu, kTanh, kUnknown };

inline Pointwise pointwise(const std::string& name) {
  const char* known[] = {"none", "relu", "leaky_relu", "tanh"};  // as the enumeration has them
  int i = 0;
  while (i < 4 && name != known[i]) ++i;
  return Pointwise(i);
}

// NaN stays NaN; slope: of a leaky relu
template <Pointwise kind, typename T>
FG_HD T activate(T value, T slope) {
  if (kind == Pointwise::kRelu) return value < T(0) ? T(0) : value;
  if (kind == Pointwise::kLeakyRelu) return value < T(0) ? slope * value : value;
  return kind == Pointwise::kTanh ? tanh(value) : value;
}

template <Pointwise kind, typename T>
FG_HD T activate_backward(T grad, T result, T slope) {
  if (kind == Pointwise::kRelu) return result <= T(0) ? T(0) : grad;
  if (kind == Pointwise::kLeakyRelu) return result > T(0) ? grad : slope * grad;
  return kind == Pointwise::kTanh ? grad * (T(1) - result * result) : grad;
}

// Run `...`, one call, with `kind` bound to the activation, a constant.
#define FG_DISPATCH_POINTWISE(activation, ...)          \
  switch (activation) {                                 \
    case Pointwise::kRelu: {                            \
      constexpr Pointwise kind = Pointwise::kRelu;      \
      __VA_ARGS__;                                      \
      break;                                            \
    }                                                   \
    case Pointwise::kLeakyRelu: {                       \
      constexpr Pointwise kind = Pointwise::kLeakyRelu; \
      __VA_ARGS__;                                      \
      break;                                            \
    }                                                   \
    case Pointwise::kTanh: {                            \
      constexpr Pointwise kind = Pointwise::kTanh;      \
      __VA_ARGS__;                                      \
      break;                                            \
    }                                                   \
    default: {                                          \
      constexpr Pointwise kind = Pointwise::kNone;      \
      __VA_ARGS__;                                      \
    }                                                   \
  }

// Of a layer: `slope` is that of a leaky relu.
struct LayerActivation {
  Pointwise kind = Pointwise::kNone;
  float slope = 0.0f;
};

// y[m] ← activation(y[m] + bias), of `count` numbers in each of M rows that lie `pitch` apart
template <Pointwise kind>
FG_VECTOR_CLONES void finish_layer(int64_t M, int64_t count, int64_t pitch, const float* __restrict bias, float slope,
                                   float* __restrict y) {
  for (int64_t m = 0; m < M; ++m, y += pitch)
    for (int64_t j = 0; j < count; ++j) y[j] = activate<kind>(bias ? y[j] + bias[j] : y[j], slope);
}

// The same of sums that have their bias.
inline void activate_rows(LayerActivation activation, int64_t M, int64_t count, int64_t pitch, float* y) {
  if (activation.kind == Pointwise::kNone) return;
  FG_DISPATCH_POINTWISE(activation.kind, finish_layer<kind>(M, count, pitch, nullptr, activation.slope, y));
}

}  // namespace fastgen
