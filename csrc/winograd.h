// winograd: a convolution of kernel 4, stride 2 and padding 1, and its transpose, in 9/16 of their multiplications
// Phases   rows of one parity of the large image meet every other row of the kernel: four convolutions of 2×2 taps and
//          stride 1, whose sum is the small image
// Tiles    two results of two taps in three products, not four, each way:
//            y₀ = d₀g₀ + d₁g₁ = (d₀ − d₁)g₀ + d₁(g₀ + g₁),    y₁ = d₁g₀ + d₂g₁ = d₁(g₀ + g₁) + (d₂ − d₁)g₁
//          so that a tile of 2×2 pixels takes 9 products of channels, the components, where 16 are written down
// Source   Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, arXiv:1509.09308: F(2×2, 2×2)
// Numerics additions alone, no factors: a sum is rounded as if a few of its terms were larger than they are
// No torch headers.
#pragma once

#include "checked.h"

namespace fastgen {

constexpr int64_t kPhases = 4, kComponents = 9, kKernelTaps = 16;

// Small images (N, S, h, w) of large ones (N, L, 2h, 2w); weight (S, L, 4, 4).
struct Halving {
  int64_t N, S, L, h, w;

  int64_t tile_rows() const { return ceil_div(h, 2); }
  int64_t tile_columns() const { return ceil_div(w, 2); }
  int64_t image_tiles() const { return tile_rows() * tile_columns(); }
  int64_t tiles() const { return N * image_tiles(); }
};

// Where a tile's first pixel is, in the small image.
struct TilePlace {
  int64_t image, row, column;

  TilePlace(const Halving& shape, int64_t tile)
      : image(tile / shape.image_tiles()),
        row(2 * (tile % shape.image_tiles() / shape.tile_columns())),
        column(2 * (tile % shape.tile_columns())) {}
};

// Of an axis of the large image, position 2·place + 1 − parity: the products whose sum it is. In components of one
// phase, of tiles that overlap by one: d₀ = m₀, d₁ = −m₀ + m₁ − m₂, d₂ = m₂.
struct AxisTerms {
  int64_t tile[3];
  int component[3];
  float sign[3];
  int count = 0;

  AxisTerms(int64_t position, int64_t tiles) {
    const int64_t shifted = position % 2 ? position / 2 + 1 : position / 2;  // 2·tile + which of d
    if (shifted % 2) {
      for (int k = 0; k < 3; ++k) add(shifted / 2, k, k == 1 ? 1.0f : -1.0f);
      return;
    }
    if (shifted / 2 < tiles) add(shifted / 2, 0, 1.0f);
    if (shifted > 0) add(shifted / 2 - 1, 2, 1.0f);
  }

 private:
  void add(int64_t t, int k, float s) {
    tile[count] = t;
    component[count] = k;
    sign[count++] = s;
  }
};

}  // namespace fastgen
