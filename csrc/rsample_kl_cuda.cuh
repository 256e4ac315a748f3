// rsample_kl on the GPU. No torch headers.
#pragma once

#include "cuda_types.cuh"
#include "rsample_kl.h"

namespace fastgen {

constexpr int kRsampleThreads = 256;

// One Philox block: four elements of the flat tensor, of which those in [begin, end) exist. `vector`: all pointers are
// aligned to four elements, so a whole block moves as one transaction.
template <typename T>
__device__ __forceinline__ Pack<T, 4> load_block(const T* __restrict__ values, int64_t first, int64_t begin,
                                                 int64_t end, bool vector) {
  if (vector && first >= begin && first + 4 <= end) return load_pack<T, 4>(values + first);
  Pack<T, 4> pack;
#pragma unroll
  for (int v = 0; v < 4; ++v) pack.at[v] = first + v >= begin && first + v < end ? values[first + v] : T(0.0f);
  return pack;
}

template <typename T>
__device__ __forceinline__ void store_block(T* __restrict__ values, int64_t first, int64_t begin, int64_t end,
                                            bool vector, const Pack<T, 4>& pack) {
  if (vector && first >= begin && first + 4 <= end) return store_pack<T, 4>(values + first, pack);
#pragma unroll
  for (int v = 0; v < 4; ++v)
    if (first + v >= begin && first + v < end) values[first + v] = pack.at[v];
}

// rsample_kl_kernel: forward
// Math     z = μ + exp(½λ)·ε, KL[n] = ½ Σ (μ² + expm1(λ) − λ)                     arXiv:1312.6114 §2.4, appendix B
// Shapes   mu, logvar, z (N, R), kl (N), seed (1), contiguous; 64-bit offsets
// Traffic  2 reads, 1 write per element, 1 write per row: memory bound, 12 B per element in f32
// Launch   kRowThreads threads a row, block 256, grid ⌈N·kRowThreads / 256⌉; 4 elements a thread and step
// Numerics f32 inside for half types; a row is summed in one fixed order: thread, warp tree, warps in turn
// Ragged   rows may begin inside a Philox block: its foreign elements are masked; unaligned pointers load singly
template <typename T, int kRowThreads>
__global__ void __launch_bounds__(kRsampleThreads)
    rsample_kl_kernel(int64_t N, int64_t R, bool vector, const T* __restrict__ mu, const T* __restrict__ logvar,
                      const int64_t* __restrict__ seed, T* __restrict__ z, accumulation_t<T>* __restrict__ kl) {
  using acc_t = accumulation_t<T>;
  constexpr int kRows = kRsampleThreads / kRowThreads, kWarps = kRowThreads / 32;
  const int64_t n = int64_t(blockIdx.x) * kRows + threadIdx.x / kRowThreads;
  const int lane = threadIdx.x % kRowThreads;
  const PhiloxKey key(*seed);
  acc_t sum = 0;
  if (n < N) {
    const int64_t begin = n * R, end = begin + R;
    for (int64_t block = begin / 4 + lane; block * 4 < end; block += kRowThreads) {
      const int64_t first = block * 4;
      const auto m = load_block(mu, first, begin, end, vector), lv = load_block(logvar, first, begin, end, vector);
      acc_t noise[4];
      normal_block(block, key, noise);
      Pack<T, 4> out;
#pragma unroll
      for (int v = 0; v < 4; ++v) {  // a masked element has μ = λ = 0 and adds nothing to the KL
        acc_t sample, term;
        rsample_kl(acc_t(m.at[v]), acc_t(lv.at[v]), noise[v], &sample, &term);
        out.at[v] = T(sample);
        sum += term;
      }
      store_block(z, first, begin, end, vector, out);
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if constexpr (kWarps == 1) {
    if (lane == 0 && n < N) kl[n] = sum;
  } else {
    __shared__ acc_t warp_sum[kWarps];
    if (lane % 32 == 0) warp_sum[lane / 32] = sum;
    __syncthreads();
    if (lane == 0 && n < N) {
      acc_t row = 0;
      for (int warp = 0; warp < kWarps; ++warp) row += warp_sum[warp];
      kl[n] = row;
    }
  }
}

// rsample_kl_backward_kernel: gradients of mu and logvar
// Math     dμ = dz + dKL·μ, dλ = ½ (dz·ε·exp(½λ) + dKL·expm1(λ)), 0 where log σ² was clamped; ε drawn again
// Shapes   grad_z, mu, logvar, grad_mu, grad_logvar (N, R) contiguous, grad_kl (N) strided, seed (1); 64-bit offsets
// Traffic  3 reads, 2 writes per element: memory bound, 20 B per element in f32
// Launch   grid ⌈N·R / 1024⌉, block 256, 4 elements a thread
// Numerics f32 inside for half types, one rounding at the store
// Ragged   last block masked; unaligned pointers load singly
template <typename T>
__global__ void __launch_bounds__(kRsampleThreads)
    rsample_kl_backward_kernel(int64_t total, int64_t R, bool vector, const T* __restrict__ grad_z,
                               const accumulation_t<T>* __restrict__ grad_kl, int64_t grad_kl_stride,
                               const T* __restrict__ mu, const T* __restrict__ logvar, const int64_t* __restrict__ seed,
                               T* __restrict__ grad_mu, T* __restrict__ grad_logvar) {
  using acc_t = accumulation_t<T>;
  const int64_t block = int64_t(blockIdx.x) * kRsampleThreads + threadIdx.x, first = block * 4;
  if (first >= total) return;
  const auto gz = load_block(grad_z, first, 0, total, vector), m = load_block(mu, first, 0, total, vector),
             lv = load_block(logvar, first, 0, total, vector);
  acc_t noise[4];
  normal_block(block, PhiloxKey(*seed), noise);
  Pack<T, 4> out_mu, out_logvar;
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    const int64_t element = first + v < total ? first + v : total - 1;
    acc_t dmu, dlogvar;
    rsample_kl_backward(acc_t(gz.at[v]), grad_kl[element / R * grad_kl_stride], acc_t(m.at[v]), acc_t(lv.at[v]),
                        noise[v], &dmu, &dlogvar);
    out_mu.at[v] = T(dmu);
    out_logvar.at[v] = T(dlogvar);
  }
  store_block(grad_mu, first, 0, total, vector, out_mu);
  store_block(grad_logvar, first, 0, total, vector, out_logvar);
}

}  // namespace fastgen
