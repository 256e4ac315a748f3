// Philox4x32-10 and the normals made from it; the twin of fastgen/_philox.py. No torch headers.
// Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
#pragma once

#include <cstdint>

#include "math.h"

namespace fastgen {

struct PhiloxKey {
  uint32_t low, high;
  FG_HD explicit PhiloxKey(int64_t seed) : low(uint32_t(uint64_t(seed))), high(uint32_t(uint64_t(seed) >> 32)) {}
  FG_HD void advance() {  // to the key of the next round
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
};

struct PhiloxWords {
  uint32_t x, y, z, w;
};

FG_HD PhiloxWords philox4x32(PhiloxWords c, PhiloxKey key) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round, key.advance()) {
    const uint64_t a = uint64_t(0xD2511F53u) * c.x, b = uint64_t(0xCD9E8D57u) * c.z;
    c = {uint32_t(b >> 32) ^ c.y ^ key.low, uint32_t(b), uint32_t(a >> 32) ^ c.w ^ key.high, uint32_t(a)};
  }
  return c;
}

// Box and Muller: two words → two standard normals. The words become (0, 1] and [-1, 1) exactly as in the reference.
template <typename T>
FG_HD void normal_pair(uint32_t radius_word, uint32_t angle_word, T* first, T* second) {
  const T radius = sqrt(T(-2) * log((T(int32_t(radius_word >> 1)) + T(0.5)) * T(0x1p-31)));
  T sine, cosine;
  sincospi(T(int32_t(angle_word)) * T(0x1p-31), &sine, &cosine);
  *first = radius * cosine;
  *second = radius * sine;
}

// Normals of elements 4·block to 4·block + 3.
template <typename T>
FG_HD void normal_block(int64_t block, PhiloxKey key, T normals[4]) {
  const PhiloxWords words = philox4x32({uint32_t(block), uint32_t(uint64_t(block) >> 32), 0, 0}, key);
  normal_pair(words.x, words.y, &normals[0], &normals[1]);
  normal_pair(words.z, words.w, &normals[2], &normals[3]);
}

}  // namespace fastgen
