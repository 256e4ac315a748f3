// Kernels with a bug each, for one block of 64 threads: the shim must see them all. `good` has none.
#pragma once

#include "cuda_types.cuh"

namespace plants {

constexpr int kThreads = 64;

// y reversed, through shared memory. Without the barrier a thread reads what its partner may not have written.
template <bool kBarrier>
__global__ void reverse_kernel(const float* x, float* y) {
  __shared__ float tile[kThreads];
  const int i = int(threadIdx.x);
  tile[i] = x[i];
  if (kBarrier) __syncthreads();
  y[i] = tile[kThreads - 1 - i];
}
inline void good(const float* x, float* y) { reverse_kernel<true>(x, y); }
inline void missing_barrier(const float* x, float* y) { reverse_kernel<false>(x, y); }

inline void shared_overrun(const float* x, float* y) {
  __shared__ float tile[kThreads];
  float* next = tile + 1;
  next[threadIdx.x] = x[threadIdx.x];  // planted: shared_overrun
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

inline void shared_index(const float* x, float* y) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x + 1] = x[threadIdx.x];  // planted: shared_index
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

inline void global_read(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + 1];  // planted: global_read
}

inline void global_write(const float* x, float* y) {
  y[threadIdx.x + 1] = x[threadIdx.x];  // planted: global_write
}

inline void misaligned_vector(const float* x, float* y) {
  const auto pack = fastgen::load_pack<float, 4>(x + 1);  // planted: misaligned_vector
  y[threadIdx.x] = pack.at[threadIdx.x % 4];
}

inline void divergent_barrier(const float* x, float* y) {
  if (threadIdx.x < 16)
    __syncwarp();
  else
    __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

inline void lane_outside_mask(const float* x, float* y) {
  y[threadIdx.x] = threadIdx.x % 32 < 16 ? __shfl_xor_sync(0xffffu, x[threadIdx.x], 16) : 0.0f;
}

// Reads what no thread of this block has written.
inline void unwritten_shared(const float* x, float* y) {
  __shared__ float tile[kThreads];
  if (threadIdx.x > 0) tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

inline void overflow(const float* x, float* y) {
  const int offset = int(threadIdx.x) * 100'000'000;  // planted: overflow
  y[threadIdx.x] = x[threadIdx.x] + float(offset % 2);
}

}  // namespace plants
