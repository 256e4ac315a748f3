// The tiles that products on the CPU are made of, for every instruction set: sums of a few rows and vectors that stay
// in registers. Of floats; of bfloat16 in pairs, both of whose products are added to one float; or of weights in
// float16, which are widened on their load, and floats that float16 has. No torch headers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "half.h"

namespace fastgen {

// Memory that is written before it is read.
template <typename T>
std::unique_ptr<T[]> unwritten(int64_t count) {
  return std::unique_ptr<T[]>(new T[size_t(count)]);
}

// ---- what a tile multiplies at once

template <typename T>
struct Word {  // of float: one
  using type = float;
  using Loaded = float;  // what registers have of it
  using Input = float;   // one of the numbers that it meets
  static constexpr int64_t kNumbers = 1;
};
template <>
struct Word<bfloat16> {  // two that lie beside each other, the first in the lower half
  using type = uint32_t;
  using Loaded = uint32_t;
  using Input = bfloat16;
  static constexpr int64_t kNumbers = 2;
};
template <>
struct Word<float16> {  // its bits; what it meets is a float, rounded once for all that it is multiplied by
  using type = uint16_t;
  using Loaded = float;
  using Input = float;
  static constexpr int64_t kNumbers = 1;
};
template <typename T>
using word_t = typename Word<T>::type;
template <typename T>
using input_t = typename Word<T>::Input;

// The i-th word of numbers that lie together.
template <typename T>
FG_HD word_t<T> load_word(const T* numbers, int64_t i) {
  word_t<T> word;
  memcpy(&word, numbers + i * Word<T>::kNumbers, sizeof word);
  return word;
}

// To the nearest number of type T, as an input.
template <typename T>
FG_HD input_t<T> rounded_input(float value) {
  if constexpr (std::is_same_v<T, input_t<T>>)
    return from_float<T>(value);
  else
    return to_float(from_float<T>(value));
}

template <typename T>
int64_t count_words(int64_t numbers) {
  return (numbers + Word<T>::kNumbers - 1) / Word<T>::kNumbers;
}

FG_HD uint32_t pair_of(bfloat16 first, bfloat16 second) { return uint32_t(first) | uint32_t(second) << 16; }

// Pairs of two runs of numbers; the second may be none.
FG_VECTOR_CLONES inline void pair_runs(int64_t count, const bfloat16* __restrict first,
                                       const bfloat16* __restrict second, uint32_t* __restrict y) {
  if (second)
    for (int64_t i = 0; i < count; ++i) y[i] = pair_of(first[i], second[i]);
  else
    for (int64_t i = 0; i < count; ++i) y[i] = pair_of(first[i], 0);
}

// ---- how it loads weights, once for all rows, and adds their products: V of floats, B of words

struct AsTheyLie {
  template <class B, class Stored>
  static FG_HD void load(B& w, const Stored* stored) {
    w = *stored;
  }
};

struct FloatProducts : AsTheyLie {
  using Number = float;
  template <class V, class B>
  static FG_HD void add(V& sum, const B& w, float x) {
    sum += w * x;
  }
};

struct PairProducts : AsTheyLie {  // in float, exact but for the sum
  using Number = bfloat16;
  template <class V, class B>
  static FG_HD void add(V& sum, const B& w, uint32_t x) {
    const B xs = B{} + x;
    sum += V(w << 16) * V(xs << 16);
    sum += V(w & 0xffff0000u) * V(xs & 0xffff0000u);
  }
};

struct HalfProducts : FloatProducts {  // exact but for the sum
  using Number = float16;
  template <class V, class Stored>
  static FG_HD void load(V& w, const Stored* stored) {
    for (size_t j = 0; j < sizeof(V) / sizeof(float); ++j) w[j] = float16_to_float((*stored)[j]);
  }
};

#if defined(__x86_64__) && defined(__GNUC__)
struct F16cProducts : FloatProducts {  // the same, by the instruction that widens
  using Number = float16;
  template <class V, class Stored>
  static FG_HD void load(V& w, const Stored* stored) {
    asm("vcvtph2ps %1, %0" : "=v"(w) : "m"(*stored));
  }
};

struct DotProducts : AsTheyLie {  // AVX512-BF16: rounded once, subnormal numbers are zero
  using Number = bfloat16;
  template <class V, class B>
  static FG_HD void add(V& sum, const B& w, uint32_t x) {
    const B xs = B{} + x;
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(xs));
  }
};
#endif

// ---- one tile: Rows × Vectors·Lanes sums, all in registers

template <typename T>
using Tile = void (*)(int64_t runs, const int64_t* lengths, const input_t<T>* const* x, const word_t<T>* w, float* sums,
                      int64_t columns, int64_t skipped);

template <typename T, int Lanes>
struct TileVectors {
  typedef float V __attribute__((vector_size(4 * Lanes)));
  typedef float UnalignedV __attribute__((vector_size(4 * Lanes), aligned(4), may_alias));
  typedef int32_t Bits __attribute__((vector_size(4 * Lanes)));
  typedef typename Word<T>::Loaded B __attribute__((vector_size(4 * Lanes)));
  typedef word_t<T> UnalignedB __attribute__((vector_size(sizeof(word_t<T>) * Lanes), aligned(4), may_alias));
};

// x[run·Rows + r] → lengths[run] words that lie together; w (K, Vectors·Lanes), of which `skipped` words are between
// those of a run and of the next; sums (Rows, Vectors·Lanes), rows `columns` apart
template <class Products, int Lanes, int Rows, int Vectors>
FG_HD void product_tile(int64_t runs, const int64_t* lengths, const input_t<typename Products::Number>* const* x,
                        const word_t<typename Products::Number>* w, float* sums, int64_t columns, int64_t skipped) {
  using T = typename Products::Number;
  using V = typename TileVectors<T, Lanes>::V;
  using B = typename TileVectors<T, Lanes>::B;
  using UnalignedV = typename TileVectors<T, Lanes>::UnalignedV;
  using UnalignedB = typename TileVectors<T, Lanes>::UnalignedB;
  V sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sum[r][v] = V{};
  for (int64_t run = 0; run < runs; ++run, x += Rows, w += skipped) {
    const input_t<T>* row[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) row[r] = x[r];
    for (int64_t k = 0; k < lengths[run]; ++k, w += Vectors * Lanes) {
      B b[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) Products::load(b[v], reinterpret_cast<const UnalignedB*>(w + v * Lanes));
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) Products::add(sum[r][v], b[v], load_word(row[r], k));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) *reinterpret_cast<UnalignedV*>(sums + r * columns + v * Lanes) = sum[r][v];
}

// ---- one tile of the other product: sums over k of outer products

template <typename T>
using OuterTile = void (*)(int64_t runs, int64_t length, const T* const* x, int64_t run, int64_t step,
                           const word_t<T>* w, int64_t pitch, float* sums, int64_t columns);

// sums[r, j] += Σ_k x[r](k)·w[k, j]; k-th of `length` in run i: x[r][i·run + k·step]; w (runs·length, Vectors·Lanes),
// rows `pitch` apart; rows of sums `columns` apart; run, step and pitch in words
template <class Products, int Lanes, int Rows, int Vectors>
FG_HD void outer_tile(int64_t runs, int64_t length, const typename Products::Number* const* x, int64_t run,
                      int64_t step, const word_t<typename Products::Number>* w, int64_t pitch, float* sums,
                      int64_t columns) {
  using T = typename Products::Number;
  using V = typename TileVectors<T, Lanes>::V;
  using B = typename TileVectors<T, Lanes>::B;
  using UnalignedV = typename TileVectors<T, Lanes>::UnalignedV;
  using UnalignedB = typename TileVectors<T, Lanes>::UnalignedB;
  V sum[Rows][Vectors];
  const T* row[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    row[r] = x[r];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sum[r][v] = V{};
  }
  for (int64_t i = 0; i < runs; ++i) {
    int64_t at = i * run;
    for (int64_t k = 0; k < length; ++k, at += step, w += pitch) {
      B b[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) b[v] = *reinterpret_cast<const UnalignedB*>(w + v * Lanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) Products::add(sum[r][v], b[v], load_word(row[r], at));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) *reinterpret_cast<UnalignedV*>(sums + r * columns + v * Lanes) += sum[r][v];
}

// ---- one tile of the product of rows by rows, whose vectors lie along what is summed

using DotTile = void (*)(int64_t length, const float* x, int64_t x_pitch, const float* w, int64_t w_pitch, float* sums,
                         int64_t columns);

// sum[i] ← numbers 0 and 2, or 1 and 3, of each four in a vector, added: of `first`, `second`, `first`, `second`; or,
// `Pairs`, 0 and 2, 1 and 3 of `first`, then those of `second`
template <bool Pairs, class V, int... I>
FG_HD void add_halves(const V& first, const V& second, std::integer_sequence<int, I...>, V& sum) {
  constexpr int kLanes = sizeof...(I);
  sum = __builtin_shufflevector(first, second,
                                (I / 4 * 4 + (Pairs ? I % 2 : I % 4 / 2) + kLanes * (Pairs ? I % 4 / 2 : I % 2))...) +
        __builtin_shufflevector(
            first, second, (I / 4 * 4 + 2 + (Pairs ? I % 2 : I % 4 / 2) + kLanes * (Pairs ? I % 4 / 2 : I % 2))...);
}

// The sums of four vectors' numbers.
template <int Lanes, class V>
FG_HD void sums_of_four(const V& a, const V& b, const V& c, const V& d, float* sums) {
  typedef float Quad __attribute__((vector_size(16)));
  const std::make_integer_sequence<int, Lanes> lanes{};
  V first, last, both;
  add_halves<false>(a, b, lanes, first);
  add_halves<false>(c, d, lanes, last);
  add_halves<true>(first, last, lanes, both);
  Quad parts[Lanes / 4];
  memcpy(parts, &both, sizeof parts);
  for (int part = 1; part < Lanes / 4; ++part) parts[0] += parts[part];
  memcpy(sums, parts, sizeof parts[0]);
}

// sums[r, c] = Σ_k x[r, k]·w[c, k], k < length; rows of x, w and sums so many numbers apart
template <int Lanes, int Rows, int Columns>
FG_HD void dot_tile(int64_t length, const float* x, int64_t x_pitch, const float* w, int64_t w_pitch, float* sums,
                    int64_t columns) {
  using V = typename TileVectors<float, Lanes>::V;
  using UnalignedV = typename TileVectors<float, Lanes>::UnalignedV;
  using Bits = typename TileVectors<float, Lanes>::Bits;
  V sum[Rows][Columns];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) sum[r][c] = V{};
  int64_t k = 0;
  for (; k + Lanes <= length; k += Lanes) {
    V b[Columns];
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) b[c] = *reinterpret_cast<const UnalignedV*>(w + c * w_pitch + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const V at = *reinterpret_cast<const UnalignedV*>(x + r * x_pitch + k);
#pragma GCC unroll 8
      for (int c = 0; c < Columns; ++c) sum[r][c] += b[c] * at;
    }
  }
  if (k < length && k > 0) {  // the last vector, of which the first numbers have been added
    Bits rest;
    for (int j = 0; j < Lanes; ++j) rest[j] = j >= Lanes - (length - k) ? -1 : 0;
    const int64_t last = length - Lanes;
    V b[Columns];
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c)
      b[c] = V(Bits(*reinterpret_cast<const UnalignedV*>(w + c * w_pitch + last)) & rest);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const V at = V(Bits(*reinterpret_cast<const UnalignedV*>(x + r * x_pitch + last)) & rest);
#pragma GCC unroll 8
      for (int c = 0; c < Columns; ++c) sum[r][c] += b[c] * at;
    }
  }
  constexpr int kFours = (Columns + 3) / 4 * 4;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    float found[kFours];
#pragma GCC unroll 2
    for (int c = 0; c < kFours; c += 4)
      sums_of_four<Lanes>(sum[r][c], c + 1 < Columns ? sum[r][c + 1] : V{}, c + 2 < Columns ? sum[r][c + 2] : V{},
                          c + 3 < Columns ? sum[r][c + 3] : V{}, found + c);
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) sums[r * columns + c] = found[c];
  }
  if (k > 0) return;
  for (int r = 0; r < Rows; ++r)  // fewer numbers than a vector
    for (int c = 0; c < Columns; ++c)
      for (int64_t j = 0; j < length; ++j) sums[r * columns + c] += x[r * x_pitch + j] * w[c * w_pitch + j];
}

// ---- what becomes of sums: + what lies in memory, which may be nothing, a ReLU if asked, and rounded

template <typename T>
using Finish = void (*)(int64_t count, const float* sums, const input_t<T>* more, bool relu, input_t<T>* y);

template <typename T, bool Adds, bool Relus>
FG_VECTOR_CLONES void finish_sums(int64_t count, const float* __restrict sums, const input_t<T>* __restrict more,
                                  input_t<T>* __restrict y) {
  for (int64_t i = 0; i < count; ++i) {
    const float sum = Adds ? sums[i] + to_float(more[i]) : sums[i];
    y[i] = rounded_input<T>(Relus && sum < 0.0f ? 0.0f : sum);
  }
}

template <typename T>
void finish_any(int64_t count, const float* sums, const input_t<T>* more, bool relu, input_t<T>* y) {
  if (more)
    relu ? finish_sums<T, true, true>(count, sums, more, y) : finish_sums<T, true, false>(count, sums, more, y);
  else
    relu ? finish_sums<T, false, true>(count, sums, more, y) : finish_sums<T, false, false>(count, sums, more, y);
}

#if defined(__x86_64__) && defined(__GNUC__)
// By the instruction that rounds; subnormal numbers are zero.
__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16"))) inline void finish_by_avx512bf16(
    int64_t count, const float* sums, const bfloat16* more, bool relu, bfloat16* y) {
  typedef float V __attribute__((vector_size(64)));
  typedef uint32_t B __attribute__((vector_size(64)));
  typedef bfloat16 Half __attribute__((vector_size(32)));
  if (count < 16) return finish_any<bfloat16>(count, sums, more, relu, y);
  for (int64_t next = 0; next < count; next += 16) {
    const int64_t i = std::min(next, count - 16);  // the last ones overlap with those before
    V sum;
    memcpy(&sum, sums + i, sizeof sum);
    if (more) {
      Half half;
      memcpy(&half, more + i, sizeof half);
      sum += V(__builtin_convertvector(half, B) << 16);
    }
    if (relu) sum = sum < V{} ? V{} : sum;
    Half rounded;
    asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(sum));
    memcpy(y + i, &rounded, sizeof rounded);
  }
}

// By the instructions that round and widen.
__attribute__((target("avx,f16c"))) inline void finish_by_f16c(int64_t count, const float* sums, const float* more,
                                                               bool relu, float* y) {
  typedef float V __attribute__((vector_size(32)));
  typedef uint16_t Half __attribute__((vector_size(16)));
  if (count < 8 || more || relu) return finish_any<float16>(count, sums, more, relu, y);
  for (int64_t next = 0; next < count; next += 8) {
    const int64_t i = std::min(next, count - 8);  // the last ones overlap with those before
    V number;
    Half rounded;
    memcpy(&number, sums + i, sizeof number);
    asm("vcvtps2ph $0, %1, %0" : "=x"(rounded) : "x"(number));  // to nearest, ties to even, whatever the thread's mode
    asm("vcvtph2ps %1, %0" : "=x"(number) : "x"(rounded));
    memcpy(y + i, &number, sizeof number);
  }
}
#endif

}  // namespace fastgen
