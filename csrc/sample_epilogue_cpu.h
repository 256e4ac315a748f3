// What a row of sums becomes on its way to memory: + bias + addends, activation, + residuals. No torch headers.
#pragma once

#include <cstdint>

#include "sample_steps.h"

namespace fastgen {

enum class SampleActivation : int64_t {
  kNone,
  kRelu,
  kElu,
  kTanh,
  kSigmoid,
  kGelu,
  kSilu,
  kGate,       // tanh(a)·σ(b): halves the channels
  kConcatElu,  // [elu(p), elu(−p)]: doubles them
  kCount
};

// Channels of y for N sums.
inline int64_t sample_channels(SampleActivation activation, int64_t N) {
  return activation == SampleActivation::kGate ? N / 2 : activation == SampleActivation::kConcatElu ? 2 * N : N;
}

constexpr int64_t kTileColumns = 64;  // the most that a tile has
alignas(64) inline const float kTileZeros[kTileColumns] = {};

// A tile of sums and the rows of memory that it meets. Columns [first, first + count) of `columns`; a gate's tile holds
// as many of its second half from width/2 on, and that half lies `columns` further in bias, addend and residual.
struct SampleTile {
  int rows, width;
  int64_t first, count, columns;
  float* sums;                   // (rows, width)
  const float* bias;             // or null
  const float* const* addend;    // one pointer a row, or null
  const float* const* residual;  // one pointer a row, or null
  float* const* y;

  const float* bias_at(int64_t column) const { return bias ? bias + column : kTileZeros; }
  static const float* at(const float* const* of, int row, int64_t column) { return of ? of[row] + column : kTileZeros; }
};

template <typename T>
FG_VECTOR_CLONES void add_run(int64_t count, const T* __restrict x, T* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] += x[i];
}

inline void add_to_tile(const SampleTile& tile, const float* const* addend, bool gate) {
  for (int r = 0; r < tile.rows; ++r) {
    float* sums = tile.sums + r * tile.width;
    add_run(tile.count, addend[r] + tile.first, sums);
    if (gate) add_run(tile.count, addend[r] + tile.columns + tile.first, sums + tile.width / 2);
  }
}

template <class F>
FG_VECTOR_CLONES void finish_tile(const SampleTile tile) {
  for (int r = 0; r < tile.rows; ++r) {
    const float *sums = tile.sums + r * tile.width, *bias = tile.bias_at(tile.first),
                *addend = tile.at(tile.addend, r, tile.first), *residual = tile.at(tile.residual, r, tile.first);
    float* y = tile.y[r] + tile.first;
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.count; ++i) y[i] = F::forward(sums[i] + bias[i] + addend[i]) + residual[i];
  }
}

template <class>
FG_VECTOR_CLONES void finish_gate_tile(const SampleTile tile) {
  const int64_t second = tile.columns + tile.first;
  for (int r = 0; r < tile.rows; ++r) {
    const float *a = tile.sums + r * tile.width, *b = a + tile.width / 2;
    const float *bias_a = tile.bias_at(tile.first), *bias_b = tile.bias_at(second);
    const float *addend_a = tile.at(tile.addend, r, tile.first), *addend_b = tile.at(tile.addend, r, second);
    const float* residual = tile.at(tile.residual, r, tile.first);
    float* y = tile.y[r] + tile.first;
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.count; ++i)
      y[i] = gated_activation(a[i] + bias_a[i] + addend_a[i], b[i] + bias_b[i] + addend_b[i]) + residual[i];
  }
}

template <class>
FG_VECTOR_CLONES void finish_concat_elu_tile(const SampleTile tile) {
  const int64_t second = tile.columns + tile.first;
  for (int r = 0; r < tile.rows; ++r) {
    const float *sums = tile.sums + r * tile.width, *bias = tile.bias_at(tile.first),
                *addend = tile.at(tile.addend, r, tile.first);
    const float *plus = tile.at(tile.residual, r, tile.first), *minus = tile.at(tile.residual, r, second);
    float *y = tile.y[r] + tile.first, *z = tile.y[r] + second;
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.count; ++i) {
      const float p = sums[i] + bias[i] + addend[i];
      y[i] = Elu::forward(p) + plus[i];
      z[i] = Elu::forward(-p) + minus[i];
    }
  }
}

inline void finish_tile(SampleActivation activation, const SampleTile& tile) {
  switch (activation) {
    case SampleActivation::kRelu:
      return finish_tile<Relu>(tile);
    case SampleActivation::kElu:
      return finish_tile<Elu>(tile);
    case SampleActivation::kTanh:
      return finish_tile<Tanh>(tile);
    case SampleActivation::kSigmoid:
      return finish_tile<Sigmoid>(tile);
    case SampleActivation::kGelu:
      return finish_tile<Gelu>(tile);
    case SampleActivation::kSilu:
      return finish_tile<Silu>(tile);
    case SampleActivation::kGate:
      return finish_gate_tile<void>(tile);
    case SampleActivation::kConcatElu:
      return finish_concat_elu_tile<void>(tile);
    default:
      return finish_tile<Identity>(tile);
  }
}

}  // namespace fastgen
