// The steps of a sampling plan on accumulators in memory: what no epilogue of a matrix product covers. No torch
// headers.
#pragma once

#include "sampler_epilogue.h"

namespace fastgen {

// STEPS of fastgen/sampling/plan.py, in its order: name, its name there, parameters.
#define FG_SAMPLER_STEPS(STEP)       \
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

enum class SamplerOp : int64_t {
#define FG_ENUMERATOR(op, name, parameters) op,
  FG_SAMPLER_STEPS(FG_ENUMERATOR)
#undef FG_ENUMERATOR
      kCount
};

// What codes mean, as a number: FORMAT of fastgen/sampling/plan.py. The text begins with LAYOUT there, which changes
// with the records or with the arguments of the ops. FNV-1a.
constexpr uint64_t plan_format() {
#define FG_TEXT(op, name, parameters) " " name " " #parameters
  const char text[] = "2" FG_SAMPLER_STEPS(FG_TEXT);
#undef FG_TEXT
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char* c = text; *c; ++c) hash = (hash ^ uint64_t(*c)) * 0x100000001b3u;
  return hash >> 1;  // an int64 that is not negative
}

inline bool is_unary(SamplerOp op) { return op <= SamplerOp::kSoftplus; }
inline bool is_binary(SamplerOp op) { return op >= SamplerOp::kAdd && op <= SamplerOp::kGe; }

// Parameters that an operation takes.
inline int64_t parameter_count(SamplerOp op) {
#define FG_COUNT(op, name, parameters) parameters,
  constexpr int64_t counts[] = {FG_SAMPLER_STEPS(FG_COUNT)};
#undef FG_COUNT
  return counts[size_t(op)];
}

// Channels that an operation leaves of `channels`.
inline int64_t channels_after(SamplerOp op, int64_t channels) {
  return op == SamplerOp::kGate ? channels / 2 : op == SamplerOp::kConcatElu ? 2 * channels : channels;
}

// ---- vector loops over one row of accumulators, in place

template <class F>
FG_VECTOR_CLONES void unary_run(int64_t count, float* __restrict x, const F f) {
  for (int64_t i = 0; i < count; ++i) x[i] = f(x[i]);
}

template <class F>
FG_VECTOR_CLONES void binary_run(int64_t count, float* __restrict x, const float* __restrict operand, const F f) {
  for (int64_t i = 0; i < count; ++i) x[i] = f(x[i], operand[i]);
}

// `p` are the operation's parameters; exp, log and the like are the library's, which are right at the ends of the
// range.
inline void apply_unary(SamplerOp op, const float* p, int64_t count, float* x) {
  const auto run = [&](auto f) { unary_run(count, x, f); };
  switch (op) {
    case SamplerOp::kRelu:
      return run([](float v) { return Relu::forward(v); });
    case SamplerOp::kTanh:
      return run([](float v) { return tanh(v); });
    case SamplerOp::kSigmoid:
      return run([](float v) { return sigmoid(v); });
    case SamplerOp::kSilu:
      return run([](float v) { return Silu::forward(v); });
    case SamplerOp::kGelu:
      return run([](float v) { return Gelu::forward(v); });
    case SamplerOp::kGeluTanh:
      return run([](float v) { return 0.5f * v * (1.0f + tanh(0.79788456f * (v + 0.044715f * v * v * v))); });
    case SamplerOp::kExp:
      return run([](float v) { return ::expf(v); });
    case SamplerOp::kLog:
      return run([](float v) { return ::logf(v); });
    case SamplerOp::kNeg:
      return run([](float v) { return -v; });
    case SamplerOp::kAbs:
      return run([](float v) { return ::fabsf(v); });
    case SamplerOp::kSqrt:
      return run([](float v) { return ::sqrtf(v); });
    case SamplerOp::kRsqrt:
      return run([](float v) { return 1.0f / ::sqrtf(v); });
    case SamplerOp::kReciprocal:
      return run([](float v) { return 1.0f / v; });
    case SamplerOp::kSin:
      return run([](float v) { return ::sinf(v); });
    case SamplerOp::kCos:
      return run([](float v) { return ::cosf(v); });
    case SamplerOp::kErf:
      return run([](float v) { return ::erff(v); });
    case SamplerOp::kLog1p:
      return run([](float v) { return ::log1pf(v); });
    case SamplerOp::kExpm1:
      return run([](float v) { return ::expm1f(v); });
    case SamplerOp::kFloor:
      return run([](float v) { return ::floorf(v); });
    case SamplerOp::kCeil:
      return run([](float v) { return ::ceilf(v); });
    case SamplerOp::kTrunc:
      return run([](float v) { return ::truncf(v); });
    case SamplerOp::kSign:
      return run([](float v) { return v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v == v ? 0.0f : v; });
    case SamplerOp::kElu:
      return run([alpha = p[0]](float v) { return v > 0.0f ? v : alpha * expm1(v); });
    case SamplerOp::kLeakyRelu:
      return run([slope = p[0]](float v) { return v > 0.0f ? v : slope * v; });
    case SamplerOp::kPow:
      return run([power = p[0]](float v) { return ::powf(v, power); });
    case SamplerOp::kClamp:
      return run([low = p[0], high = p[1]](float v) { return clamp(v, low, high); });
    case SamplerOp::kSoftplus:
      return run([beta = p[0], threshold = p[1]](float v) {
        return v * beta > threshold ? v : ::log1pf(::expf(v * beta)) / beta;
      });
    default:
      return;
  }
}

inline void apply_binary(SamplerOp op, int64_t count, const float* operand, float* x) {
  const auto run = [&](auto f) { binary_run(count, x, operand, f); };
  switch (op) {
    case SamplerOp::kAdd:
      return run([](float a, float b) { return a + b; });
    case SamplerOp::kSub:
      return run([](float a, float b) { return a - b; });
    case SamplerOp::kRsub:
      return run([](float a, float b) { return b - a; });
    case SamplerOp::kMul:
      return run([](float a, float b) { return a * b; });
    case SamplerOp::kDiv:
      return run([](float a, float b) { return a / b; });
    case SamplerOp::kRdiv:
      return run([](float a, float b) { return b / a; });
    case SamplerOp::kMax:  // NaN passes through, as in torch
      return run([](float a, float b) { return a >= b || a != a ? a : b; });
    case SamplerOp::kMin:
      return run([](float a, float b) { return a <= b || a != a ? a : b; });
    case SamplerOp::kEq:
      return run([](float a, float b) { return a == b ? 1.0f : 0.0f; });
    case SamplerOp::kLt:
      return run([](float a, float b) { return a < b ? 1.0f : 0.0f; });
    case SamplerOp::kLe:
      return run([](float a, float b) { return a <= b ? 1.0f : 0.0f; });
    case SamplerOp::kGt:
      return run([](float a, float b) { return a > b ? 1.0f : 0.0f; });
    case SamplerOp::kGe:
      return run([](float a, float b) { return a >= b ? 1.0f : 0.0f; });
    default:
      return;
  }
}

template <typename T>
FG_VECTOR_CLONES void gate_run_in_place(int64_t half, T* x) {
#pragma GCC ivdep
  for (int64_t i = 0; i < half; ++i) x[i] = gated_activation(x[i], x[half + i]);
}

template <typename T>
FG_VECTOR_CLONES void concat_elu_run_in_place(int64_t count, T* x) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T p = x[i];
    x[i] = Elu::forward(p);
    x[count + i] = Elu::forward(-p);
  }
}

// Zero mean and unit variance within each of p[0] equal parts; p[1] is ε.
inline void norm_in_place(const float* p, int64_t count, float* x) {
  const int64_t groups = int64_t(p[0]), size = count / groups;
  for (int64_t g = 0; g < groups; ++g, x += size) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; ++i) sum += x[i];
    const double mean = sum / double(size);
    for (int64_t i = 0; i < size; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double scale = 1 / ::sqrt(squares / double(size) + p[1]);
    for (int64_t i = 0; i < size; ++i) x[i] = float((x[i] - mean) * scale);
  }
}

}  // namespace fastgen
