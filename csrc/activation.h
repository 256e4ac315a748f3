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

}  // namespace fastgen
