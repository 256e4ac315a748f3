// The steps of a sampling plan on accumulators in memory: what no epilogue of a matrix product covers. No torch
// headers.
#pragma once

#include "sampler_epilogue.h"

namespace fastgen {

enum class SamplerOp : int64_t {  // STEPS of fastgen/sampling/plan.py, in its order
  kRelu,
  kTanh,
  kSigmoid,
  kSilu,
  kGelu,
  kGeluTanh,
  kExp,
  kLog,
  kNeg,
  kAbs,
  kSqrt,
  kRsqrt,
  kReciprocal,
  kSin,
  kCos,
  kErf,
  kLog1p,
  kExpm1,
  kFloor,
  kCeil,
  kTrunc,
  kSign,
  kElu,
  kLeakyRelu,
  kPow,
  kClamp,
  kSoftplus,
  kAdd,
  kSub,
  kRsub,
  kMul,
  kDiv,
  kRdiv,
  kMax,
  kMin,
  kEq,
  kLt,
  kLe,
  kGt,
  kGe,
  kGate,
  kConcatElu,
  kNorm,
  kCount
};

inline bool is_unary(SamplerOp op) { return op <= SamplerOp::kSoftplus; }
inline bool is_binary(SamplerOp op) { return op >= SamplerOp::kAdd && op <= SamplerOp::kGe; }

// Parameters that an operation takes.
inline int64_t parameter_count(SamplerOp op) {
  switch (op) {
    case SamplerOp::kElu:
    case SamplerOp::kLeakyRelu:
    case SamplerOp::kPow:
      return 1;
    case SamplerOp::kClamp:
    case SamplerOp::kSoftplus:
    case SamplerOp::kNorm:
      return 2;
    default:
      return 0;
  }
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
