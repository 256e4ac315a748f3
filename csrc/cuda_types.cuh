// What kernels and their launches share: element types, vectors of up to 16 bytes, the arithmetic of grids. No torch
// headers.
//
// A `<op>_launch` function picks the grid, the block and the template of a kernel and hands them to a launcher,
//   launch(kernel, grid, threads, arguments...)
// which is Launcher in the .cu files and the host machine of tests/simt in tests: both run the same choices.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "math.h"

namespace fastgen {

// V elements moved as one transaction.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <typename T>
constexpr int kPackOf16Bytes = 16 / sizeof(T);

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> load_pack(const T* __restrict__ pointer) {
  return *reinterpret_cast<const Pack<T, V>*>(pointer);
}

template <typename T, int V>
__device__ __forceinline__ void store_pack(T* __restrict__ pointer, const Pack<T, V>& pack) {
  if constexpr (sizeof(pack) == 16) {  // said outright: compilers take a plain store apart, in some kernels
    uint4 words;
    memcpy(&words, &pack, sizeof words);
    __stwb(reinterpret_cast<uint4*>(pointer), words);
  } else {
    *reinterpret_cast<Pack<T, V>*>(pointer) = pack;
  }
}

// a / b for a ≥ 0, b > 0. GPUs divide 64-bit integers in software, several times slower than 32-bit ones.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? int64_t(uint32_t(a) / uint32_t(b)) : a / b;
}

// Whether every pointer allows packs of V elements.
template <int V, typename... T>
bool aligned_for(const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % (V * sizeof(T)) == 0) && ...);
}

// A grid. x may exceed what CUDA allows, which the launcher refuses, or be 0, for which it launches nothing.
struct Grid {
  int64_t x;
  unsigned y = 1;
};

// As many blocks as `work` needs when each does `per_block` of it.
inline Grid grid_for(int64_t work, int64_t per_block) { return {(work + per_block - 1) / per_block}; }

}  // namespace fastgen
