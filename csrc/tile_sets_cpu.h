// The tiles of every instruction set, and which of them this machine runs. No torch headers.
#pragma once

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tiles_cpu.h"

namespace fastgen {

constexpr int kGemmRows = 6, kGemmVectors = 4;  // the most of any instruction set

// Those of one, [rows][vectors]; a whole panel is `vectors` wide.
template <typename T>
struct TileSet {
  const char* name;
  int lanes, rows, vectors;
  Tile<T> tile[kGemmRows + 1][kGemmVectors + 1];
  OuterTile<T> outer[kGemmRows + 1][kGemmVectors + 1];  // none of float16, whose inputs are not stored in 16 bits
  DotTile dot[kGemmRows + 1][kGemmVectors + 1];         // [rows][rows of w]; of float alone
  Finish<T> finish;

  int panel() const { return lanes * vectors; }
};
using GemmIsa = TileSet<float>;

// A class whose tiles are compiled for `target`; the generic body is inlined into each.
#define FG_TILES(Class, target, Products, Lanes, Rows, Vectors)                                                        \
  struct Class {                                                                                                       \
    using T = typename Products::Number;                                                                               \
    template <int R, int V>                                                                                            \
    target static void tile(int64_t runs, const int64_t* lengths, const input_t<T>* const* x, const word_t<T>* w,      \
                            float* s, int64_t columns, int64_t skipped) {                                              \
      product_tile<Products, Lanes, R, V>(runs, lengths, x, w, s, columns, skipped);                                   \
    }                                                                                                                  \
    template <int R, int V>                                                                                            \
    target static void outer(int64_t runs, int64_t length, const T* const* x, int64_t run, int64_t step,               \
                             const word_t<T>* w, int64_t pitch, float* s, int64_t columns) {                           \
      outer_tile<Products, Lanes, R, V>(runs, length, x, run, step, w, pitch, s, columns);                             \
    }                                                                                                                  \
    template <int R, int V>                                                                                            \
    target static void dot(int64_t length, const float* x, int64_t x_pitch, const float* w, int64_t w_pitch, float* s, \
                           int64_t columns) {                                                                          \
      dot_tile<Lanes, R, V>(length, x, x_pitch, w, w_pitch, s, columns);                                               \
    }                                                                                                                  \
    template <int R, int V>                                                                                            \
    static void fill(TileSet<T>* isa) {                                                                                \
      isa->tile[R][V] = tile<R, V>;                                                                                    \
      if constexpr (!std::is_same_v<T, float16>) isa->outer[R][V] = outer<R, V>;                                       \
      if constexpr (std::is_same_v<T, float>) isa->dot[R][V] = dot<R, V>;                                              \
      if constexpr (V > 1)                                                                                             \
        fill<R, V - 1>(isa);                                                                                           \
      else if constexpr (R > 1)                                                                                        \
        fill<R - 1, Vectors>(isa);                                                                                     \
    }                                                                                                                  \
    static TileSet<T> make(const char* name) {                                                                         \
      TileSet<T> isa{name, Lanes, Rows, Vectors, {}, {}, {}, finish_any<T>};                                           \
      fill<Rows, Vectors>(&isa);                                                                                       \
      return isa;                                                                                                      \
    }                                                                                                                  \
  }

FG_TILES(PortableTiles, , FloatProducts, 4, 4, 2);
FG_TILES(PortablePairTiles, , PairProducts, 4, 4, 2);
FG_TILES(PortableHalfTiles, , HalfProducts, 4, 4, 2);
#if defined(__x86_64__) && defined(__GNUC__)
#define FG_AVX2 __attribute__((target("avx2,fma")))
#define FG_AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma")))
FG_TILES(Avx2Tiles, FG_AVX2, FloatProducts, 8, 6, 2);
FG_TILES(Avx2PairTiles, FG_AVX2, PairProducts, 8, 4, 2);
FG_TILES(Avx2HalfTiles, FG_AVX2, F16cProducts, 8, 6, 2);
FG_TILES(Avx512Tiles, FG_AVX512, FloatProducts, 16, 6, 4);
FG_TILES(Avx512PairTiles, FG_AVX512, PairProducts, 16, 6, 3);
FG_TILES(Avx512DotTiles, FG_AVX512, DotProducts, 16, 6, 4);
FG_TILES(Avx512HalfTiles, FG_AVX512, F16cProducts, 16, 6, 4);
#undef FG_AVX2
#undef FG_AVX512
#endif
#undef FG_TILES

#if defined(__x86_64__) && defined(__GNUC__)
// Whether the user lets kernels have more than what is named: by ATEN_CPU_CAPABILITY, which torch reads as well.
inline bool allows_more_than(const char* capability) {
  const char* most = std::getenv("ATEN_CPU_CAPABILITY");
  return !most || std::strcmp(most, capability) != 0;
}
inline bool runs_avx2() {
  return allows_more_than("default") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
inline bool runs_avx512() {
  return runs_avx2() && allows_more_than("avx2") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif

// What this machine can run, the best last.
template <typename T>
const std::vector<TileSet<T>>& tile_sets();

template <>
inline const std::vector<TileSet<float>>& tile_sets<float>() {
  static const std::vector<TileSet<float>> sets = [] {
    std::vector<TileSet<float>> found = {PortableTiles::make("portable")};
#if defined(__x86_64__) && defined(__GNUC__)
    if (runs_avx2()) found.push_back(Avx2Tiles::make("avx2"));
    if (runs_avx512()) found.push_back(Avx512Tiles::make("avx512"));
#endif
    return found;
  }();
  return sets;
}

template <>
inline const std::vector<TileSet<bfloat16>>& tile_sets<bfloat16>() {
  static const std::vector<TileSet<bfloat16>> sets = [] {
    std::vector<TileSet<bfloat16>> found = {PortablePairTiles::make("portable")};
#if defined(__x86_64__) && defined(__GNUC__)
    if (runs_avx2()) found.push_back(Avx2PairTiles::make("avx2"));
    if (runs_avx512()) found.push_back(Avx512PairTiles::make("avx512"));
    if (runs_avx512() && __builtin_cpu_supports("avx512bf16")) {
      found.push_back(Avx512DotTiles::make("avx512bf16"));
      found.back().finish = finish_by_avx512bf16;
    }
#endif
    return found;
  }();
  return sets;
}

template <>
inline const std::vector<TileSet<float16>>& tile_sets<float16>() {
  static const std::vector<TileSet<float16>> sets = [] {
    std::vector<TileSet<float16>> found = {PortableHalfTiles::make("portable")};
#if defined(__x86_64__) && defined(__GNUC__)
    if (runs_avx2() && __builtin_cpu_supports("f16c")) {
      found.push_back(Avx2HalfTiles::make("avx2"));
      if (runs_avx512()) found.push_back(Avx512HalfTiles::make("avx512"));
      for (size_t set = 1; set < found.size(); ++set) found[set].finish = finish_by_f16c;
    }
#endif
    return found;
  }();
  return sets;
}

inline const std::vector<GemmIsa>& gemm_isas() { return tile_sets<float>(); }

}  // namespace fastgen
