// Rows of numbers in tiles that stay in L1, and sums of rows that are the same bits on every instruction set and of
// however many threads. No torch headers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "checked.h"
#include "math.h"

namespace fastgen {

constexpr int64_t kTile = 1024;  // elements at a time
constexpr int64_t kLanes = 16;   // partial sums of a row, added in a fixed order on every instruction set

// A tile is several whole rows where they are short, or a part of one row where it is long.
struct Tiling {
  int64_t N, row, rows_per_tile, tiles_per_row, count;

  Tiling(int64_t N, int64_t row)
      : N(N),
        row(row),
        rows_per_tile(std::max<int64_t>(1, kTile / std::max<int64_t>(row, 1))),
        tiles_per_row(std::max<int64_t>(1, ceil_div(row, kTile))),
        count(tiles_per_row > 1 ? N * tiles_per_row : ceil_div(N, rows_per_tile)) {}

  int64_t begin(int64_t tile) const {
    return tiles_per_row > 1 ? tile / tiles_per_row * row + tile % tiles_per_row * kTile : tile * rows_per_tile * row;
  }
  int64_t end(int64_t tile) const {
    return tiles_per_row > 1 ? std::min(begin(tile) + kTile, (tile / tiles_per_row + 1) * row)
                             : std::min((tile + 1) * rows_per_tile, N) * row;
  }
};

// sums[r] = sum of the r-th `row` values: sixteen partial sums, then a tree; the same order on every instruction set.
template <typename acc_t>
FG_VECTOR_CLONES void sum_rows(int64_t rows, int64_t row, const acc_t* __restrict values, acc_t* __restrict sums) {
  typedef acc_t Lanes __attribute__((vector_size(kLanes * sizeof(acc_t))));
  typedef acc_t Unaligned __attribute__((vector_size(kLanes * sizeof(acc_t)), aligned(alignof(acc_t)), may_alias));
  for (int64_t r = 0; r < rows; ++r, values += row) {
    Lanes v = {};
    int64_t i = 0;
    for (; i + kLanes <= row; i += kLanes) v += *reinterpret_cast<const Unaligned*>(values + i);
    if (i < row) {
      acc_t rest[kLanes] = {};
      std::copy(values + i, values + row, rest);
      v += *reinterpret_cast<const Unaligned*>(rest);
    }
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
    sums[r] = v[0] + v[1];
  }
}

// numbers[at − begin] ← what the row of element `at` has: short rows would be loops too short to vectorise.
template <typename acc_t>
void repeat_by_row(const Tiling& tiling, int64_t begin, int64_t end, const acc_t* of_row, int64_t stride,
                   acc_t* numbers) {
  for (int64_t at = begin; at < end;) {
    const int64_t n = at / tiling.row, next = std::min((n + 1) * tiling.row, end);
    std::fill(numbers + (at - begin), numbers + (next - begin), of_row[n * stride]);
    at = next;
  }
}

}  // namespace fastgen
