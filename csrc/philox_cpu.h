// Many normals at once on the CPU. The words are made in 64-bit lanes: one multiplication gives both halves of a
// product, high halves are left dirty, and nothing is repacked between rounds. Compilers do not find that
// multiplication (a 32×32 one costs a third of a 64×64), hence the intrinsics; every version makes the same words.
#pragma once

#include "philox.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#include <immintrin.h>
#define FG_X86 1
#endif

namespace fastgen {

constexpr int64_t kPhiloxBatch = 32;  // blocks that philox_words makes at once

// Words of blocks [first, first + count), count a multiple of kPhiloxBatch. Block b has pairs 2b and 2b + 1: word x
// with angle y, and word z with angle w; so radius[b] holds x below z, and angle[b] holds y below w.
inline void philox_words_portable(int64_t first, int64_t count, PhiloxKey key, uint64_t* __restrict radius,
                                  uint64_t* __restrict angle) {
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t block = uint64_t(first + i);
    const PhiloxWords words = philox4x32({uint32_t(block), uint32_t(block >> 32), 0, 0}, key);
    radius[i] = words.x | uint64_t(words.z) << 32;
    angle[i] = words.y | uint64_t(words.w) << 32;
  }
}

#if defined(FG_X86)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own _mm512_undefined_epi32

__attribute__((target("avx2"))) inline void philox_words_avx2(int64_t first, int64_t count, PhiloxKey key,
                                                              uint64_t* __restrict radius, uint64_t* __restrict angle) {
  constexpr int kVectors = 4, kLanes = 4;  // independent chains hide the latency of the ten rounds
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
  for (int64_t i = 0; i < count; i += kVectors * kLanes) {
    __m256i x[kVectors], y[kVectors], z[kVectors], w[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      x[v] = _mm256_add_epi64(_mm256_set1_epi64x(first + i + v * kLanes), _mm256_setr_epi64x(0, 1, 2, 3));
      y[v] = _mm256_srli_epi64(x[v], 32);
      z[v] = w[v] = _mm256_setzero_si256();
    }
    PhiloxKey k = key;
    for (int round = 0; round < 10; ++round, k.advance()) {
      const __m256i k0 = _mm256_set1_epi64x(k.low), k1 = _mm256_set1_epi64x(k.high);
      for (int v = 0; v < kVectors; ++v) {
        const __m256i a = _mm256_mul_epu32(x[v], m0), b = _mm256_mul_epu32(z[v], m1);
        x[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(b, 32), y[v]), k0);
        z[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(a, 32), w[v]), k1);
        y[v] = b;
        w[v] = a;
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const __m256i xz = _mm256_blend_epi32(x[v], _mm256_slli_epi64(z[v], 32), 0xAA);
      const __m256i yw = _mm256_blend_epi32(y[v], _mm256_slli_epi64(w[v], 32), 0xAA);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(radius + i + v * kLanes), xz);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(angle + i + v * kLanes), yw);
    }
  }
}

__attribute__((target("avx512f"))) inline void philox_words_avx512(int64_t first, int64_t count, PhiloxKey key,
                                                                   uint64_t* __restrict radius,
                                                                   uint64_t* __restrict angle) {
  constexpr int kVectors = 4, kLanes = 8, kXor3 = 0x96;
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  for (int64_t i = 0; i < count; i += kVectors * kLanes) {
    __m512i x[kVectors], y[kVectors], z[kVectors], w[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      x[v] = _mm512_add_epi64(_mm512_set1_epi64(first + i + v * kLanes), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
      y[v] = _mm512_srli_epi64(x[v], 32);
      z[v] = w[v] = _mm512_setzero_si512();
    }
    PhiloxKey k = key;
    for (int round = 0; round < 10; ++round, k.advance()) {
      const __m512i k0 = _mm512_set1_epi64(k.low), k1 = _mm512_set1_epi64(k.high);
      for (int v = 0; v < kVectors; ++v) {
        const __m512i a = _mm512_mul_epu32(x[v], m0), b = _mm512_mul_epu32(z[v], m1);
        x[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(b, 32), y[v], k0, kXor3);
        z[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(a, 32), w[v], k1, kXor3);
        y[v] = b;
        w[v] = a;
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const __m512i xz = _mm512_mask_mov_epi32(x[v], 0xAAAA, _mm512_slli_epi64(z[v], 32));
      const __m512i yw = _mm512_mask_mov_epi32(y[v], 0xAAAA, _mm512_slli_epi64(w[v], 32));
      _mm512_storeu_si512(radius + i + v * kLanes, xz);
      _mm512_storeu_si512(angle + i + v * kLanes, yw);
    }
  }
}

#pragma GCC diagnostic pop
#endif

inline void philox_words(int64_t first, int64_t count, PhiloxKey key, uint64_t* radius, uint64_t* angle) {
#if defined(FG_X86)
  static const auto best = __builtin_cpu_supports("avx512f") ? philox_words_avx512
                           : __builtin_cpu_supports("avx2")  ? philox_words_avx2
                                                             : philox_words_portable;
  best(first, count, key, radius, angle);
#else
  philox_words_portable(first, count, key, radius, angle);
#endif
}

// out[2i], out[2i + 1]: the normals of pair i.
template <typename T>
FG_VECTOR_CLONES void normals_of_pairs(int64_t pairs, const uint32_t* __restrict radius,
                                       const uint32_t* __restrict angle, T* __restrict out) {
  for (int64_t i = 0; i < pairs; ++i) normal_pair(radius[i], angle[i], &out[2 * i], &out[2 * i + 1]);
}

// The normals of up to kElements consecutive elements, from wherever they begin.
template <typename T, int64_t kElements>
class NormalsBuffer {
 public:
  // A pointer to the normals of elements [begin, end). More are made, so that no remainder is left to scalar code.
  const T* fill(int64_t begin, int64_t end, PhiloxKey key) {
    const int64_t first = begin / 4, needed = (end + 3) / 4 - first;
    const int64_t count = (needed + kPhiloxBatch - 1) / kPhiloxBatch * kPhiloxBatch;
    philox_words(first, count, key, radius_, angle_);
    normals_of_pairs(2 * count, reinterpret_cast<const uint32_t*>(radius_), reinterpret_cast<const uint32_t*>(angle_),
                     normals_);
    return normals_ + (begin - 4 * first);
  }

 private:
  static constexpr int64_t kBlocks = kElements / 4 + 1 + kPhiloxBatch;
  alignas(64) uint64_t radius_[kBlocks];
  alignas(64) uint64_t angle_[kBlocks];
  alignas(64) T normals_[4 * kBlocks];
};

}  // namespace fastgen
