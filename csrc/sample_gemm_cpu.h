// sample_gemm: y[m] = activation(Σ_k x[m, k]·W[k] + bias + addends[m]) + residuals[m], one thread, any M
// Shapes   W (K, N); the K inputs of a row are runs anywhere, so that taps are read where they lie; packed W: panels of
//          (K, panel), the panel as wide as the registers, in words: K counts pairs of bfloat16
// Traffic  W once per 60 rows from the last cache it fits; x from the first
// Numerics f32 sums; k in one order whatever M, so that an image's bits do not depend on the images beside it
// Ragged   N padded with zeros to whole vectors in W alone; y, addends and residuals are touched up to N
// No torch headers.
#pragma once

#include <array>

#include "sample_epilogue_cpu.h"
#include "tile_sets_cpu.h"

namespace fastgen {

// ---- packed weights

// How the N columns of W are spread over panels. A gate's panels hold as many columns of the one half as of the other,
// vectors of a before vectors of b, so that both factors of an output are sums of one tile: of an even number.
struct GemmLayout {
  int64_t K, N, columns;  // columns: outputs of one tile's half of a gate, or of a tile
  bool gate;
  int lanes, vectors;

  template <typename T>
  GemmLayout(const TileSet<T>& isa, int64_t K, int64_t N, bool gate)
      : K(K),
        N(N),
        columns(gate ? N / 2 : N),
        gate(gate),
        lanes(isa.lanes),
        vectors(gate ? isa.vectors / 2 * 2 : isa.vectors) {}

  int64_t per_panel() const { return int64_t(lanes) * vectors / (gate ? 2 : 1); }
  int64_t panels() const { return (columns + per_panel() - 1) / per_panel(); }
  int64_t first(int64_t panel) const { return panel * per_panel(); }
  int64_t count(int64_t panel) const { return std::min(per_panel(), columns - first(panel)); }
  int vectors_of(int64_t panel) const { return int((count(panel) + lanes - 1) / lanes) * (gate ? 2 : 1); }
  int64_t offset(int64_t panel) const { return panel * K * lanes * vectors; }  // all panels but the last are full
  int64_t size() const { return panels() ? offset(panels() - 1) + K * lanes * vectors_of(panels() - 1) : 0; }

  // packed: at(k, n), of column n, in the order of the panels; nothing where a panel is wider than there are columns
  template <typename W, typename F>
  void pack(W* packed, const F& at) const {
    for (int64_t p = 0; p < panels(); ++p) {
      const int64_t half = int64_t(lanes) * vectors_of(p) / (gate ? 2 : 1);
      for (int64_t k = 0; k < K; ++k)
        for (int part = 0; part < (gate ? 2 : 1); ++part)
          for (int64_t j = 0; j < half; ++j) *packed++ = j < count(p) ? at(k, part * columns + first(p) + j) : W(0);
    }
  }
  void pack(const float* w, float* packed) const {  // w (K, N), contiguous
    pack(packed, [&](int64_t k, int64_t n) { return w[k * N + n]; });
  }
};

// Of w (K words, N), contiguous, whose numbers of a word are rows, one below the other.
template <typename T>
void pack_words(const GemmLayout& layout, const float* w, word_t<T>* packed) {
  if constexpr (std::is_same_v<T, float>)
    layout.pack(w, packed);
  else
    layout.pack(packed, [&](int64_t k, int64_t n) {
      const float* at = w + 2 * k * layout.N + n;
      return pair_of(float_to_bfloat16(at[0]), float_to_bfloat16(at[layout.N]));
    });
}

// ---- the product

// Rows of a block: as many as keep their inputs beside a panel in the second-level cache, a multiple of 4 and of 6.
constexpr int64_t kGemmBlock = 60;

// What the rows of a block read: runs of words, together K.
template <typename T>
struct GemmInputs {
  std::vector<int64_t> lengths;
  std::vector<const input_t<T>*> x;  // (tile, run, row of the tile)
  std::vector<input_t<T>> rounded;   // numbers that lie nowhere else
};

// What they add and write: one address a row.
struct GemmBlock {
  int64_t rows = 0;
  std::vector<std::array<const float*, kGemmBlock>> addends;
  std::array<const float*, kGemmBlock> residual;
  std::array<float*, kGemmBlock> y;
  bool has_residual = false;
};

template <typename T>
void sample_gemm(const TileSet<T>& isa, const GemmLayout& layout, const word_t<T>* packed, const float* bias,
                 SampleActivation activation, const GemmInputs<T>& inputs, const GemmBlock& block) {
  alignas(64) float sums[kGemmRows * kTileColumns];
  const int64_t runs = int64_t(inputs.lengths.size());
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
      isa.tile[tile.rows][vectors](runs, inputs.lengths.data(), inputs.x.data() + runs * m, packed + layout.offset(p),
                                   sums, tile.width, 0);
      for (size_t a = 1; a < block.addends.size(); ++a) add_to_tile(tile, &block.addends[a][size_t(m)], layout.gate);
      tile.addend = block.addends.empty() ? nullptr : &block.addends[0][size_t(m)];
      tile.residual = block.has_residual ? &block.residual[size_t(m)] : nullptr;
      tile.y = &block.y[size_t(m)];
      finish_tile(activation, tile);
    }
  }
}

}  // namespace fastgen
