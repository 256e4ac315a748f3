// The steps of a sampling plan on accumulators in memory: what no epilogue of a matrix product covers. No torch
// headers.
#pragma once

#include "sample_epilogue_cpu.h"
#include "sample_steps.h"

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

// `p` are the operation's parameters.
inline void apply_unary(SampleOp op, const float* p, int64_t count, float* x) {
  with_unary(op, p, [&](auto f) { unary_run(count, x, f); });
}

inline void apply_binary(SampleOp op, int64_t count, const float* operand, float* x) {
  with_binary(op, [&](auto f) { binary_run(count, x, operand, f); });
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
