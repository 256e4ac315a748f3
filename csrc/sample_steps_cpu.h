// The steps of a sampling plan on accumulators in memory: what no epilogue of a matrix product covers. No torch
// headers.
#pragma once

#include "sample_epilogue_cpu.h"
#include "sample_ops.h"

namespace fastgen {

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
inline void apply_unary(SampleOp op, const float* p, int64_t count, float* x) {
  const auto run = [&](auto f) { unary_run(count, x, f); };
  switch (op) {
    case SampleOp::kRelu:
      return run([](float v) { return Relu::forward(v); });
    case SampleOp::kTanh:
      return run([](float v) { return tanh(v); });
    case SampleOp::kSigmoid:
      return run([](float v) { return sigmoid(v); });
    case SampleOp::kSilu:
      return run([](float v) { return Silu::forward(v); });
    case SampleOp::kGelu:
      return run([](float v) { return Gelu::forward(v); });
    case SampleOp::kGeluTanh:
      return run([](float v) { return 0.5f * v * (1.0f + tanh(0.79788456f * (v + 0.044715f * v * v * v))); });
    case SampleOp::kExp:
      return run([](float v) { return ::expf(v); });
    case SampleOp::kLog:
      return run([](float v) { return ::logf(v); });
    case SampleOp::kNeg:
      return run([](float v) { return -v; });
    case SampleOp::kAbs:
      return run([](float v) { return ::fabsf(v); });
    case SampleOp::kSqrt:
      return run([](float v) { return ::sqrtf(v); });
    case SampleOp::kRsqrt:
      return run([](float v) { return 1.0f / ::sqrtf(v); });
    case SampleOp::kReciprocal:
      return run([](float v) { return 1.0f / v; });
    case SampleOp::kSin:
      return run([](float v) { return ::sinf(v); });
    case SampleOp::kCos:
      return run([](float v) { return ::cosf(v); });
    case SampleOp::kErf:
      return run([](float v) { return ::erff(v); });
    case SampleOp::kLog1p:
      return run([](float v) { return ::log1pf(v); });
    case SampleOp::kExpm1:
      return run([](float v) { return ::expm1f(v); });
    case SampleOp::kFloor:
      return run([](float v) { return ::floorf(v); });
    case SampleOp::kCeil:
      return run([](float v) { return ::ceilf(v); });
    case SampleOp::kTrunc:
      return run([](float v) { return ::truncf(v); });
    case SampleOp::kSign:
      return run([](float v) { return v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v == v ? 0.0f : v; });
    case SampleOp::kElu:
      return run([alpha = p[0]](float v) { return v > 0.0f ? v : alpha * expm1(v); });
    case SampleOp::kLeakyRelu:
      return run([slope = p[0]](float v) { return v > 0.0f ? v : slope * v; });
    case SampleOp::kPow:
      return run([power = p[0]](float v) { return ::powf(v, power); });
    case SampleOp::kClamp:
      return run([low = p[0], high = p[1]](float v) { return clamp(v, low, high); });
    case SampleOp::kSoftplus:
      return run([beta = p[0], threshold = p[1]](float v) {
        return v * beta > threshold ? v : ::log1pf(::expf(v * beta)) / beta;
      });
    default:
      return;
  }
}

inline void apply_binary(SampleOp op, int64_t count, const float* operand, float* x) {
  const auto run = [&](auto f) { binary_run(count, x, operand, f); };
  switch (op) {
    case SampleOp::kAdd:
      return run([](float a, float b) { return a + b; });
    case SampleOp::kSub:
      return run([](float a, float b) { return a - b; });
    case SampleOp::kRsub:
      return run([](float a, float b) { return b - a; });
    case SampleOp::kMul:
      return run([](float a, float b) { return a * b; });
    case SampleOp::kDiv:
      return run([](float a, float b) { return a / b; });
    case SampleOp::kRdiv:
      return run([](float a, float b) { return b / a; });
    case SampleOp::kMax:  // NaN passes through, as in torch
      return run([](float a, float b) { return a >= b || a != a ? a : b; });
    case SampleOp::kMin:
      return run([](float a, float b) { return a <= b || a != a ? a : b; });
    case SampleOp::kEq:
      return run([](float a, float b) { return a == b ? 1.0f : 0.0f; });
    case SampleOp::kLt:
      return run([](float a, float b) { return a < b ? 1.0f : 0.0f; });
    case SampleOp::kLe:
      return run([](float a, float b) { return a <= b ? 1.0f : 0.0f; });
    case SampleOp::kGt:
      return run([](float a, float b) { return a > b ? 1.0f : 0.0f; });
    case SampleOp::kGe:
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
