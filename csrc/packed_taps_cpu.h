// The weights of a convolution as its products' tiles read them: of each tap and word of inputs a row of results. No
// torch headers.
#pragma once

#include <vector>

#include "conv_transpose2d_weight_cpu.h"
#include "tile_sets_cpu.h"

namespace fastgen {

// Where a kernel's weights lie: how far an input, a result, a row and a column are from the next.
struct KernelLayout {
  int64_t KH, KW, input, result, row, column;

  int64_t taps() const { return KH * KW; }
  int64_t at(int64_t tap) const { return tap / KW * row + tap % KW * column; }
};

// Words of two rows of weights: of float, which takes one, of bfloat16, or of float that is rounded to it.
template <typename T, typename W>
FG_VECTOR_CLONES void pack_row(int64_t count, const W* __restrict first, const W* __restrict second,
                               word_t<T>* __restrict y) {
  if constexpr (std::is_same_v<T, float>)
    for (int64_t i = 0; i < count; ++i) y[i] = first[i];
  else
    for (int64_t i = 0; i < count; ++i)
      y[i] = pair_of(from_float<T>(to_float(first[i])), from_float<T>(to_float(second[i])));
}

// Of `inputs` inputs and `count` results: to (inputs, taps, wide).
template <typename W>
void gather_taps(const KernelLayout& kernel, int64_t inputs, int64_t count, int64_t wide, const W* from, W* to) {
  constexpr int64_t kSide = 16 / int64_t(sizeof(W));
  const int64_t taps = kernel.taps(), whole = count / kSide * kSide;
  int64_t squares = 0;  // results that are in squares: of taps that lie together, or of inputs
  if (kernel.column == 1 && kernel.row == kernel.KW && taps % kSide == 0) {
    squares = whole;
    for (int64_t i = 0; i < inputs; ++i)
      for (int64_t o = 0; o < squares; o += kSide)
        for (int64_t t = 0; t < taps; t += kSide)
          transpose_square(from + i * kernel.input + o * kernel.result + t, kernel.result,
                           to + (i * taps + t) * wide + o, wide);
  } else if (kernel.input == 1 && inputs == kSide) {
    squares = whole;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t o = 0; o < squares; o += kSide)
        transpose_square(from + o * kernel.result + kernel.at(t), kernel.result, to + t * wide + o, taps * wide);
  }
  for (int64_t i = 0; i < inputs; ++i)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t o = squares; o < count; ++o)
        to[(i * taps + t) * wide + o] = from[i * kernel.input + o * kernel.result + kernel.at(t)];
}

// w, whose inputs lie together, by words: rounded before they are transposed, so many that they stay in the first
// cache.
template <typename W>
void pack_inputs(const KernelLayout& kernel, const std::vector<int64_t>& order, int64_t words, int64_t count,
                 int64_t wide, const W* w, uint32_t* packed) {
  constexpr int64_t kMost = 64, kNumbers = Word<bfloat16>::kNumbers, kSide = 16 / int64_t(sizeof(uint32_t));
  alignas(64) uint32_t rounded[kGemmVectors * 16 * kMost] = {};  // a row for each result
  const auto round = tile_sets<bfloat16>().back().finish;
  for (size_t t = 0; t < order.size(); ++t)
    for (int64_t first = 0; first < words; first += kMost) {
      const int64_t together = std::min(kMost, words - first), squares = together / kSide * kSide;
      for (int64_t o = 0; o < count; ++o) {
        const W* const from = w + o * kernel.result + kernel.at(order[t]) + first * kNumbers;
        if constexpr (std::is_same_v<W, float>)
          round(together * kNumbers, from, nullptr, false, reinterpret_cast<bfloat16*>(rounded + o * kMost));
        else
          memcpy(rounded + o * kMost, from, size_t(together) * sizeof(uint32_t));
      }
      uint32_t* const to = packed + (int64_t(t) * words + first) * wide;
      for (int64_t o = 0; o < wide; o += kSide)
        for (int64_t k = 0; k < squares; k += kSide)
          transpose_square(rounded + o * kMost + k, kMost, to + k * wide + o, wide);
      for (int64_t k = squares; k < together; ++k)
        for (int64_t o = 0; o < wide; ++o) to[k * wide + o] = rounded[o * kMost + k];
    }
}

// w: of the first input and the first of `count` results → (order, words of inputs, wide), zeros beyond `count`. order:
// of the taps, which are numbered row by row
template <typename T, typename W>
void pack_taps(const KernelLayout& kernel, const std::vector<int64_t>& order, int64_t words, int64_t count,
               int64_t wide, const W* w, word_t<T>* packed) {
  constexpr int64_t kNumbers = Word<T>::kNumbers, kBlock = 16 / int64_t(sizeof(W)) / kNumbers;  // words
  if constexpr (std::is_same_v<T, bfloat16>)
    if (kernel.input == 1) return pack_inputs(kernel, order, words, count, wide, w, packed);
  const int64_t taps = kernel.taps();
  const bool lie = kernel.result == 1 && count == wide;  // in rows, as they are packed
  std::vector<W> block(size_t(lie ? 0 : kBlock * kNumbers * taps * wide), W(0));
  for (int64_t first = 0; first < words; first += kBlock) {
    const int64_t last = std::min(words, first + kBlock), inputs = (last - first) * kNumbers;
    if (!lie) gather_taps(kernel, inputs, count, wide, w + first * kNumbers * kernel.input, block.data());
    for (size_t t = 0; t < order.size(); ++t) {
      const int64_t tap = order[t], at = kernel.at(tap);
      for (int64_t i = first; i < last; ++i) {
        const W* const row =
            lie ? w + i * kNumbers * kernel.input + at : &block[size_t(((i - first) * kNumbers * taps + tap) * wide)];
        const int64_t apart = kNumbers == 1 ? 0 : lie ? kernel.input : taps * wide;
        pack_row<T, W>(wide, row, row + apart, packed + (int64_t(t) * words + i) * wide);
      }
    }
  }
}

}  // namespace fastgen
