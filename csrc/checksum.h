// checksum: what tells whether the bytes of a tensor have changed, in their order
// Math     Σᵢ wᵢ·mᵢ mod 2⁶⁴ over 32-bit words of bytes, signed, m odd and random; over each block, then over the
//          sums of blocks as words, until one is left. Bytes that are no whole word are filled up with zeros.
// Numerics integers: the same on every processor whose low byte comes first, whoever takes which block
// No torch headers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "math.h"

namespace fastgen {

constexpr int64_t kWord = 4;  // bytes

FG_VECTOR_CLONES inline uint64_t sum_of_products(int64_t words, const char* __restrict bytes,
                                                 const uint64_t* __restrict multipliers) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < words; ++i) {
    int32_t word;
    memcpy(&word, bytes + kWord * i, kWord);
    sum += uint64_t(int64_t(word)) * multipliers[i];
  }
  return sum;
}

// Of at most as many words as there are multipliers.
inline uint64_t block_checksum(int64_t count, const char* bytes, const uint64_t* multipliers) {
  const int64_t words = count / kWord, rest = count % kWord;
  const uint64_t sum = sum_of_products(words, bytes, multipliers);
  if (rest == 0) return sum;
  char last[kWord] = {};
  std::copy_n(bytes + kWord * words, rest, last);
  return sum + sum_of_products(1, last, multipliers + words);
}

}  // namespace fastgen
