// rsample_kl on the GPU. No torch headers.
#pragma once

#include <algorithm>

#include "cuda_types.cuh"
#include "rsample_kl.h"

namespace fastgen {

constexpr int kRsampleThreads = 256;

// Elements of one thread and step: whole Philox blocks of four, 16 bytes (32 of double).
template <typename T>
constexpr int kRsamplePack = sizeof(T) < 4 ? 8 : 4;

// Elements `first` to first + V of the flat tensor, of which those in [begin, end) exist; the others read as zero.
// `vector`: every pointer is aligned to V elements, so a whole pack moves as one transaction.
template <int V, typename T>
__device__ __forceinline__ Pack<T, V> load_inside(const T* __restrict__ values, int64_t first, int64_t begin,
                                                  int64_t end, bool vector) {
  if (vector && first >= begin && first + V <= end) return load_pack<T, V>(values + first);
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.at[v] = first + v >= begin && first + v < end ? values[first + v] : T(0.0f);
  return pack;
}

template <int V, typename T>
__device__ __forceinline__ void store_inside(T* __restrict__ values, int64_t first, int64_t begin, int64_t end,
                                             bool vector, const Pack<T, V>& pack) {
  if (vector && first >= begin && first + V <= end) return store_pack<T, V>(values + first, pack);
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (first + v >= begin && first + v < end) values[first + v] = pack.at[v];
}

// Normals of elements `first` to first + V, both multiples of four.
template <int V, typename acc_t>
__device__ __forceinline__ void normal_pack(int64_t first, PhiloxKey key, acc_t normals[V]) {
#pragma unroll
  for (int v = 0; v < V; v += 4) normal_block((first + v) / 4, key, normals + v);
}

// Sum over the kRowThreads threads of a row, for its first thread. One fixed order: a tree in each warp, then the warps
// in turn. Every thread of the block calls it.
template <int kRowThreads, typename acc_t>
__device__ __forceinline__ acc_t sum_of_row(acc_t sum) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if constexpr (kRowThreads > 32) {  // the block is one row
    __shared__ acc_t warp_sum[kRowThreads / 32];
    if (threadIdx.x % 32 == 0) warp_sum[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0)
      for (int warp = 1; warp < kRowThreads / 32; ++warp) sum += warp_sum[warp];
  }
  return sum;
}

// Threads of a long row that has few others beside it. A thread of double has twice the bytes in flight, and spills
// where it has to share registers with more.
template <typename T>
constexpr int kRsampleWide = sizeof(T) == 8 ? kRsampleThreads : 1024;

template <int kRowThreads>
constexpr int kRsampleBlock = kRowThreads > kRsampleThreads ? kRowThreads : kRsampleThreads;

// rsample_kl_kernel: forward
// Math     z = μ + exp(½λ)·ε, KL[n] = ½ Σ (μ² + expm1(λ) − λ)                     arXiv:1312.6114 §2.4, appendix B
// Shapes   mu, logvar, z (N, R), kl (N, parts), seed (1), contiguous; 64-bit offsets
// Traffic  2 reads, 1 write per element, 1 write per row: memory bound, 12 B per element in f32
// Launch   grid (⌈N·kRowThreads / block⌉, parts), block 256 or kRowThreads; V elements (32 B) a thread and step
// Numerics f32 inside for half types; a row is summed in one fixed order: thread, warp tree, warps in turn, parts
// Ragged   rows may begin inside a pack: its foreign elements are masked; unaligned pointers load singly
template <typename T, int kRowThreads>
__global__ void __launch_bounds__(kRsampleBlock<kRowThreads>)
    rsample_kl_kernel(int64_t N, int64_t R, int64_t part, bool vector, const T* __restrict__ mu,
                      const T* __restrict__ logvar, const int64_t* __restrict__ seed, T* __restrict__ z,
                      accumulation_t<T>* __restrict__ kl) {
  using acc_t = accumulation_t<T>;
  constexpr int V = kRsamplePack<T>, kRows = kRsampleBlock<kRowThreads> / kRowThreads;
  const int64_t n = int64_t(blockIdx.x) * kRows + threadIdx.x / kRowThreads;  // row
  const int lane = threadIdx.x % kRowThreads;
  const PhiloxKey key(*seed);
  acc_t sum = 0;
  if (n < N) {
    const int64_t begin = n * R, end = begin + R;                          // elements of the row
    const int64_t from = begin / V + blockIdx.y * part, to = from + part;  // packs of this part of it
    for (int64_t pack = from + lane; pack < to && pack * V < end; pack += kRowThreads) {
      const int64_t first = pack * V;
      const auto m = load_inside<V>(mu, first, begin, end, vector),
                 lv = load_inside<V>(logvar, first, begin, end, vector);
      acc_t noise[V];
      normal_pack<V>(first, key, noise);
      Pack<T, V> out;
#pragma unroll
      for (int v = 0; v < V; ++v) {  // a masked element has μ = λ = 0 and adds nothing to the KL
        acc_t sample, term;
        rsample_kl(acc_t(m.at[v]), acc_t(lv.at[v]), noise[v], &sample, &term);
        out.at[v] = T(sample);
        sum += term;
      }
      store_inside<V>(z, first, begin, end, vector, out);
    }
  }
  sum = sum_of_row<kRowThreads>(sum);
  if (lane == 0 && n < N) kl[n * gridDim.y + blockIdx.y] = sum;
}

// rsample_kl_sum_kernel: sum of the parts of a row
// Math     kl[n] = Σ_p partial[n, p]
// Shapes   partial (N, P), kl (N), contiguous
// Traffic  P reads, 1 write per row, a few hundred KB at most: latency bound
// Launch   grid N, block 256
// Numerics one fixed order: thread, warp tree, warps in turn
// Ragged   any P
template <typename acc_t>
__global__ void __launch_bounds__(kRsampleThreads)
    rsample_kl_sum_kernel(int64_t P, const acc_t* __restrict__ partial, acc_t* __restrict__ kl) {
  acc_t sum = 0;
  for (int64_t p = threadIdx.x; p < P; p += kRsampleThreads) sum += partial[blockIdx.x * P + p];
  sum = sum_of_row<kRsampleThreads>(sum);
  if (threadIdx.x == 0) kl[blockIdx.x] = sum;
}

// How rows are shared out; by (N, R) alone, so that a shape gives the same bits on every GPU. What decides is the
// number of bytes in flight: 4.3 TB/s at 0.7 µs is 3 MB, two thirds of them loads: 15 KB for each of 132 SMs, and twice
// that to be safe. A thread has 32 B in flight, so an SM wants 1024 threads.
struct RsampleRows {
  enum Threads { kWarp, kBlock, kWide } threads = kBlock;  // of a row, or of a part of one
  int64_t parts = 1;                                       // of a row; more than one cost a second launch, to add them

  RsampleRows(int64_t N, int64_t R) {
    constexpr int64_t kPart = 4096, kParts = 1024;  // elements worth a block; blocks that fill a GPU
    if (R <= 512)
      threads = kWarp;  // needs no barrier; eight rows share a block
    else if (N < 64 && R >= 16 * kPart)
      parts = std::min(R / kPart, (kParts + N - 1) / N);
    else if (N < 512 && R > kPart)
      threads = kWide;
  }
};

// Forward. `partial` holds N·parts values where RsampleRows asks for more than one part, and is not read otherwise.
template <typename T, typename Launch>
void rsample_kl_launch(const Launch& launch, int64_t N, int64_t R, const T* mu, const T* logvar, const int64_t* seed,
                       T* z, accumulation_t<T>* kl, accumulation_t<T>* partial) {
  constexpr int V = kRsamplePack<T>;
  const bool vector = aligned_for<V>(mu, logvar, z);
  const RsampleRows rows(N, R);
  const int64_t packs = R / V + 2;  // of a row, wherever in a pack it begins
  const int64_t part = grid_for(packs, rows.parts).x;
  const Grid whole = {N, unsigned(rows.parts)};
  accumulation_t<T>* sums = rows.parts > 1 ? partial : kl;
  if (rows.threads == RsampleRows::kWarp)
    launch(rsample_kl_kernel<T, 32>, grid_for(N * 32, kRsampleThreads), kRsampleThreads, N, R, part, vector, mu, logvar,
           seed, z, sums);
  else if (rows.threads == RsampleRows::kBlock)
    launch(rsample_kl_kernel<T, kRsampleThreads>, whole, kRsampleThreads, N, R, part, vector, mu, logvar, seed, z,
           sums);
  else
    launch(rsample_kl_kernel<T, kRsampleWide<T>>, whole, kRsampleWide<T>, N, R, part, vector, mu, logvar, seed, z,
           sums);
  if (rows.parts > 1)
    launch(rsample_kl_sum_kernel<accumulation_t<T>>, Grid{N}, kRsampleThreads, rows.parts, partial, kl);
}

// rsample_kl_backward_kernel: gradients of mu and logvar
// Math     dμ = dz + dKL·μ, dλ = ½ (dz·ε·exp(½λ) + dKL·expm1(λ)), 0 where log σ² was clamped; ε drawn again
// Shapes   grad_z, mu, logvar, grad_mu, grad_logvar (N, R) contiguous, grad_kl (N) strided, seed (1); 64-bit offsets
// Traffic  3 reads, 2 writes per element: memory bound, 20 B per element in f32
// Launch   grid ⌈N·R / 256V⌉, block 256, V elements a thread
// Numerics f32 inside for half types, one rounding at the store
// Ragged   last block masked; unaligned pointers load singly
template <typename T>
__global__ void __launch_bounds__(kRsampleThreads)
    rsample_kl_backward_kernel(int64_t total, int64_t R, bool vector, const T* __restrict__ grad_z,
                               const accumulation_t<T>* __restrict__ grad_kl, int64_t grad_kl_stride,
                               const T* __restrict__ mu, const T* __restrict__ logvar, const int64_t* __restrict__ seed,
                               T* __restrict__ grad_mu, T* __restrict__ grad_logvar) {
  using acc_t = accumulation_t<T>;
  constexpr int V = kRsamplePack<T>;
  const int64_t first = (int64_t(blockIdx.x) * kRsampleThreads + threadIdx.x) * V;
  if (first >= total) return;
  const auto gz = load_inside<V>(grad_z, first, 0, total, vector), m = load_inside<V>(mu, first, 0, total, vector),
             lv = load_inside<V>(logvar, first, 0, total, vector);
  acc_t noise[V];
  normal_pack<V>(first, PhiloxKey(*seed), noise);
  int64_t n = quotient(first, R), row_end = (n + 1) * R;
  acc_t row_grad = grad_kl[n * grad_kl_stride];
  Pack<T, V> out_mu, out_logvar;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (first + v == row_end && first + v < total) {  // the next row begins
      row_grad = grad_kl[++n * grad_kl_stride];
      row_end += R;
    }
    acc_t dmu, dlogvar;
    rsample_kl_backward(acc_t(gz.at[v]), row_grad, acc_t(m.at[v]), acc_t(lv.at[v]), noise[v], &dmu, &dlogvar);
    out_mu.at[v] = T(dmu);
    out_logvar.at[v] = T(dlogvar);
  }
  store_inside<V>(grad_mu, first, 0, total, vector, out_mu);
  store_inside<V>(grad_logvar, first, 0, total, vector, out_logvar);
}

template <typename T, typename Launch>
void rsample_kl_backward_launch(const Launch& launch, int64_t N, int64_t R, const T* grad_z,
                                const accumulation_t<T>* grad_kl, int64_t grad_kl_stride, const T* mu, const T* logvar,
                                const int64_t* seed, T* grad_mu, T* grad_logvar) {
  constexpr int V = kRsamplePack<T>;
  const bool vector = aligned_for<V>(grad_z, mu, logvar, grad_mu, grad_logvar);
  launch(rsample_kl_backward_kernel<T>, grid_for(N * R, kRsampleThreads * V), kRsampleThreads, N * R, R, vector, grad_z,
         grad_kl, grad_kl_stride, mu, logvar, seed, grad_mu, grad_logvar);
}

}  // namespace fastgen
