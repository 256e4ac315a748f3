// sample_gemm: y[m] = activation(Σ_k x[m, k]·W[k] + bias + addends[m]) + residuals[m], one thread, any M
// Shapes   W (K, N); the K inputs of a row are runs of floats anywhere, so that taps are read where they lie; packed W:
//          panels of (K, panel), the panel as wide as the registers
// Traffic  W once per 60 rows from the last cache it fits; x from the first
// Numerics f32; k in one order whatever M, so that an image's bits do not depend on the images beside it
// Ragged   N padded with zeros to whole vectors in W alone; y, addends and residuals are touched up to N
// No torch headers.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "sample_epilogue_cpu.h"

namespace fastgen {

// ---- one tile: Rows × Vectors·Lanes sums, all in registers

using GemmTile = void (*)(int64_t runs, const int64_t* lengths, const float* const* x, const float* w, float* sums,
                          int64_t columns);

// x[run·Rows + r] → lengths[run] floats; w (K, Vectors·Lanes); sums (Rows, Vectors·Lanes), rows `columns` apart
template <int Lanes, int Rows, int Vectors>
FG_HD void sample_gemm_tile(int64_t runs, const int64_t* lengths, const float* const* x, const float* w, float* sums,
                            int64_t columns) {
  typedef float V __attribute__((vector_size(4 * Lanes)));
  typedef float Unaligned __attribute__((vector_size(4 * Lanes), aligned(4), may_alias));
  V sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sum[r][v] = V{};
  for (int64_t run = 0; run < runs; ++run, x += Rows) {
    const float* row[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) row[r] = x[r];
    for (int64_t k = 0; k < lengths[run]; ++k, w += Vectors * Lanes) {
      V b[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) b[v] = *reinterpret_cast<const Unaligned*>(w + v * Lanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[r][v] += b[v] * row[r][k];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) *reinterpret_cast<Unaligned*>(sums + r * columns + v * Lanes) = sum[r][v];
}

// ---- one tile of the other product: sums over k of outer products

using OuterTile = void (*)(int64_t runs, int64_t length, const float* const* x, int64_t run, int64_t step,
                           const float* w, int64_t pitch, float* sums, int64_t columns);

// sums[r, j] += Σ_k x[r](k)·w[k, j]; k-th of `length` in run i: x[r][i·run + k·step]; w (runs·length, Vectors·Lanes),
// rows `pitch` apart; rows of sums `columns` apart
template <int Lanes, int Rows, int Vectors>
FG_HD void sample_gemm_outer(int64_t runs, int64_t length, const float* const* x, int64_t run, int64_t step,
                             const float* w, int64_t pitch, float* sums, int64_t columns) {
  typedef float V __attribute__((vector_size(4 * Lanes)));
  typedef float Unaligned __attribute__((vector_size(4 * Lanes), aligned(4), may_alias));
  V sum[Rows][Vectors];
  const float* row[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    row[r] = x[r];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sum[r][v] = V{};
  }
  for (int64_t i = 0; i < runs; ++i) {
    int64_t at = i * run;
    for (int64_t k = 0; k < length; ++k, at += step, w += pitch) {
      V b[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) b[v] = *reinterpret_cast<const Unaligned*>(w + v * Lanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[r][v] += b[v] * row[r][at];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) *reinterpret_cast<Unaligned*>(sums + r * columns + v * Lanes) += sum[r][v];
}

constexpr int kGemmRows = 6, kGemmVectors = 4;  // the most of any instruction set

// The tiles of one instruction set, [rows][vectors]; a whole panel is `vectors` wide.
struct GemmIsa {
  const char* name;
  int lanes, rows, vectors;
  GemmTile tile[kGemmRows + 1][kGemmVectors + 1];
  OuterTile outer[kGemmRows + 1][kGemmVectors + 1];

  int panel() const { return lanes * vectors; }
};

// A class whose tiles are compiled for `target`; the generic body is inlined into each.
#define FG_GEMM_ISA(Class, target, Lanes, Rows, Vectors)                                                           \
  struct Class {                                                                                                   \
    template <int R, int V>                                                                                        \
    target static void tile(int64_t runs, const int64_t* lengths, const float* const* x, const float* w, float* s, \
                            int64_t columns) {                                                                     \
      sample_gemm_tile<Lanes, R, V>(runs, lengths, x, w, s, columns);                                              \
    }                                                                                                              \
    template <int R, int V>                                                                                        \
    target static void outer(int64_t runs, int64_t length, const float* const* x, int64_t run, int64_t step,       \
                             const float* w, int64_t pitch, float* s, int64_t columns) {                           \
      sample_gemm_outer<Lanes, R, V>(runs, length, x, run, step, w, pitch, s, columns);                            \
    }                                                                                                              \
    template <int R, int V>                                                                                        \
    static void fill(GemmIsa* isa) {                                                                               \
      isa->tile[R][V] = tile<R, V>;                                                                                \
      isa->outer[R][V] = outer<R, V>;                                                                              \
      if constexpr (V > 1)                                                                                         \
        fill<R, V - 1>(isa);                                                                                       \
      else if constexpr (R > 1)                                                                                    \
        fill<R - 1, Vectors>(isa);                                                                                 \
    }                                                                                                              \
    static GemmIsa make(const char* name) {                                                                        \
      GemmIsa isa{name, Lanes, Rows, Vectors, {}, {}};                                                             \
      fill<Rows, Vectors>(&isa);                                                                                   \
      return isa;                                                                                                  \
    }                                                                                                              \
  }

FG_GEMM_ISA(PortableGemm, , 4, 4, 2);
#if defined(__x86_64__) && defined(__GNUC__)
FG_GEMM_ISA(Avx2Gemm, __attribute__((target("avx2,fma"))), 8, 6, 2);
FG_GEMM_ISA(Avx512Gemm, __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma"))), 16, 6, 4);
#endif
#undef FG_GEMM_ISA

// What this machine can run, the best last.
inline const std::vector<GemmIsa>& gemm_isas() {
  static const std::vector<GemmIsa> isas = [] {
    std::vector<GemmIsa> found = {PortableGemm::make("portable")};
#if defined(__x86_64__) && defined(__GNUC__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2) found.push_back(Avx2Gemm::make("avx2"));
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
      found.push_back(Avx512Gemm::make("avx512"));
#endif
    return found;
  }();
  return isas;
}

// ---- packed weights

// How the N columns of W are spread over panels. A gate's panels hold as many columns of the one half as of the other,
// vectors of a before vectors of b, so that both factors of an output are sums of one tile.
struct GemmLayout {
  int64_t K, N, columns;  // columns: outputs of one tile's half of a gate, or of a tile
  bool gate;
  int lanes, vectors;

  GemmLayout(const GemmIsa& isa, int64_t K, int64_t N, bool gate)
      : K(K), N(N), columns(gate ? N / 2 : N), gate(gate), lanes(isa.lanes), vectors(isa.vectors) {}

  int64_t per_panel() const { return int64_t(lanes) * vectors / (gate ? 2 : 1); }
  int64_t panels() const { return (columns + per_panel() - 1) / per_panel(); }
  int64_t first(int64_t panel) const { return panel * per_panel(); }
  int64_t count(int64_t panel) const { return std::min(per_panel(), columns - first(panel)); }
  int vectors_of(int64_t panel) const { return int((count(panel) + lanes - 1) / lanes) * (gate ? 2 : 1); }
  int64_t offset(int64_t panel) const { return panel * K * lanes * vectors; }  // all panels but the last are full
  int64_t size() const { return panels() ? offset(panels() - 1) + K * lanes * vectors_of(panels() - 1) : 0; }

  void pack(const float* w, float* packed) const {  // w (K, N), contiguous
    for (int64_t p = 0; p < panels(); ++p) {
      const int64_t half = int64_t(lanes) * vectors_of(p) / (gate ? 2 : 1);
      for (int64_t k = 0; k < K; ++k)
        for (int part = 0; part < (gate ? 2 : 1); ++part)
          for (int64_t j = 0; j < half; ++j) *packed++ = j < count(p) ? w[k * N + part * columns + first(p) + j] : 0.0f;
    }
  }
};

// ---- the product

// Rows of a block: as many as keep their inputs beside a panel in the second-level cache, a multiple of 4 and of 6.
constexpr int64_t kGemmBlock = 60;

// What a block of rows reads and writes: one address a row.
struct GemmBlock {
  int64_t rows = 0;
  std::vector<int64_t> lengths;  // of the runs; together K
  std::vector<const float*> x;   // (tile, run, row of the tile)
  std::vector<std::array<const float*, kGemmBlock>> addends;
  std::array<const float*, kGemmBlock> residual;
  std::array<float*, kGemmBlock> y;
  bool has_residual = false;
};

inline void sample_gemm(const GemmIsa& isa, const GemmLayout& layout, const float* packed, const float* bias,
                        SampleActivation activation, const GemmBlock& block) {
  alignas(64) float sums[kGemmRows * kTileColumns];
  const int64_t runs = int64_t(block.lengths.size());
  SampleTile tile;
  tile.columns = layout.columns;
  tile.sums = sums;
  tile.bias = bias;
  for (int64_t p = 0; p < layout.panels(); ++p) {
    const int vectors = layout.vectors_of(p);
    tile.width = vectors * isa.lanes;
    tile.first = layout.first(p);
    tile.count = layout.count(p);
    for (int64_t m = 0; m < block.rows; m += isa.rows) {
      tile.rows = int(std::min<int64_t>(isa.rows, block.rows - m));
      isa.tile[tile.rows][vectors](runs, block.lengths.data(), block.x.data() + runs * m, packed + layout.offset(p),
                                   sums, tile.width);
      for (size_t a = 1; a < block.addends.size(); ++a) add_to_tile(tile, &block.addends[a][size_t(m)], layout.gate);
      tile.addend = block.addends.empty() ? nullptr : &block.addends[0][size_t(m)];
      tile.residual = block.has_residual ? &block.residual[size_t(m)] : nullptr;
      tile.y = &block.y[size_t(m)];
      finish_tile(activation, tile);
    }
  }
}

}  // namespace fastgen
