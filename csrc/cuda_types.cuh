// Element types and vectors of kernels: loads of up to 16 bytes, arithmetic in float (double for double). No torch
// headers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

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
  *reinterpret_cast<Pack<T, V>*>(pointer) = pack;
}

}  // namespace fastgen
