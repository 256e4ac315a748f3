// The steps of a sampling plan on one number, and on two, for CPU and CUDA. No torch headers.
#pragma once

#include "masked_conv2d.h"
#include "sample_ops.h"

namespace fastgen {

struct Tanh {
  static FG_HD float forward(float p) { return tanh(p); }
};
struct Sigmoid {
  static FG_HD float forward(float p) { return sigmoid(p); }
};
struct Gelu {
  static FG_HD float forward(float p) { return 0.5f * p * (1.0f + ::erff(0.70710678f * p)); }
};
struct Silu {
  static FG_HD float forward(float p) { return p * sigmoid(p); }
};

// CUDA's own keep a table in local memory, for arguments that reach far; reduced in double there is none.
FG_HD float sine(float v) {
#if defined(__CUDA_ARCH__)
  double sine, cosine;
  sincospi(double(v) * 0.31830988618379067, &sine, &cosine);
  return float(sine);
#else
  return ::sinf(v);
#endif
}
FG_HD float cosine(float v) {
#if defined(__CUDA_ARCH__)
  double sine, cosine;
  sincospi(double(v) * 0.31830988618379067, &sine, &cosine);
  return float(cosine);
#else
  return ::cosf(v);
#endif
}

// Calls `run` with the function of a unary step, whose parameters are `p`: one of one number. exp, log and the like are
// the library's, which are right at the ends of the range.
template <class Run>
FG_HD void with_unary(SampleOp op, const float* p, const Run& run) {
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
      return run([](float v) { return sine(v); });
    case SampleOp::kCos:
      return run([](float v) { return cosine(v); });
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

// The same of a binary step: of the accumulator and the operand.
template <class Run>
FG_HD void with_binary(SampleOp op, const Run& run) {
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

}  // namespace fastgen
