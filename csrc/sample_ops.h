// The steps of a sampling plan by name: what its codes say, for whoever executes it. No torch headers.
#pragma once

#include <cstddef>

#include "math.h"

namespace fastgen {

// STEPS of fastgen/sampling/plan.py, in its order: name, its name there, parameters.
#define FG_SAMPLE_STEPS(STEP)        \
  STEP(kRelu, "relu", 0)             \
  STEP(kTanh, "tanh", 0)             \
  STEP(kSigmoid, "sigmoid", 0)       \
  STEP(kSilu, "silu", 0)             \
  STEP(kGelu, "gelu", 0)             \
  STEP(kGeluTanh, "gelu_tanh", 0)    \
  STEP(kExp, "exp", 0)               \
  STEP(kLog, "log", 0)               \
  STEP(kNeg, "neg", 0)               \
  STEP(kAbs, "abs", 0)               \
  STEP(kSqrt, "sqrt", 0)             \
  STEP(kRsqrt, "rsqrt", 0)           \
  STEP(kReciprocal, "reciprocal", 0) \
  STEP(kSin, "sin", 0)               \
  STEP(kCos, "cos", 0)               \
  STEP(kErf, "erf", 0)               \
  STEP(kLog1p, "log1p", 0)           \
  STEP(kExpm1, "expm1", 0)           \
  STEP(kFloor, "floor", 0)           \
  STEP(kCeil, "ceil", 0)             \
  STEP(kTrunc, "trunc", 0)           \
  STEP(kSign, "sign", 0)             \
  STEP(kElu, "elu", 1)               \
  STEP(kLeakyRelu, "leaky_relu", 1)  \
  STEP(kPow, "pow", 1)               \
  STEP(kClamp, "clamp", 2)           \
  STEP(kSoftplus, "softplus", 2)     \
  STEP(kAdd, "add", 0)               \
  STEP(kSub, "sub", 0)               \
  STEP(kRsub, "rsub", 0)             \
  STEP(kMul, "mul", 0)               \
  STEP(kDiv, "div", 0)               \
  STEP(kRdiv, "rdiv", 0)             \
  STEP(kMax, "max", 0)               \
  STEP(kMin, "min", 0)               \
  STEP(kEq, "eq", 0)                 \
  STEP(kLt, "lt", 0)                 \
  STEP(kLe, "le", 0)                 \
  STEP(kGt, "gt", 0)                 \
  STEP(kGe, "ge", 0)                 \
  STEP(kGate, "gate", 0)             \
  STEP(kConcatElu, "concat_elu", 0)  \
  STEP(kNorm, "norm", 2)

enum class SampleOp : int64_t {
#define FG_ENUMERATOR(op, name, parameters) op,
  FG_SAMPLE_STEPS(FG_ENUMERATOR)
#undef FG_ENUMERATOR
      kCount
};

// What codes mean, as a number: FORMAT of fastgen/sampling/plan.py. The text begins with LAYOUT there, which changes
// with the records or with the arguments of the ops. FNV-1a.
constexpr uint64_t plan_format() {
#define FG_TEXT(op, name, parameters) " " name " " #parameters
  const char text[] = "5" FG_SAMPLE_STEPS(FG_TEXT);
#undef FG_TEXT
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char* c = text; *c; ++c) hash = (hash ^ uint64_t(*c)) * 0x100000001b3u;
  return hash >> 1;  // an int64 that is not negative
}

FG_HD bool is_unary(SampleOp op) { return op <= SampleOp::kSoftplus; }
FG_HD bool is_binary(SampleOp op) { return op >= SampleOp::kAdd && op <= SampleOp::kGe; }

// Parameters that an operation takes.
inline int64_t parameter_count(SampleOp op) {
#define FG_COUNT(op, name, parameters) parameters,
  constexpr int64_t counts[] = {FG_SAMPLE_STEPS(FG_COUNT)};
#undef FG_COUNT
  return counts[size_t(op)];
}

// Channels that an operation leaves of `channels`.
FG_HD int64_t channels_after(SampleOp op, int64_t channels) {
  return op == SampleOp::kGate ? channels / 2 : op == SampleOp::kConcatElu ? 2 * channels : channels;
}

}  // namespace fastgen
