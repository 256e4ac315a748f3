// gated_activation on the GPU. No torch headers.
#pragma once

#include "cuda_types.cuh"
#include "gated_activation.h"

namespace fastgen {

constexpr int kGateThreads = 256;

// gated_activation_kernel: forward
// Math     y = tanh(a)·σ(b), x = [a, b] along channels                    arXiv:1606.05328 eq. 2
// Shapes   x (N, 2, R), y (N, R), R = C·S the run, contiguous; 64-bit offsets
// Traffic  2 reads, 1 write per output: memory bound, 12 B per output in f32
// Launch   grid ⌈N·R / (256·V)⌉, block 256, V elements per thread, no shared memory
// Numerics f32 inside for half types, one rounding at the store
// Ragged   V divides R and pointers are V-aligned, or V = 1; last block masked
template <typename T, int V>
__global__ void __launch_bounds__(kGateThreads)
    gated_activation_kernel(int64_t total, int64_t run, const T* __restrict__ x, T* __restrict__ y) {
  using acc_t = accumulation_t<T>;
  const int64_t i = (int64_t(blockIdx.x) * kGateThreads + threadIdx.x) * V;  // first output of this thread
  if (i >= total) return;
  const int64_t a = i + quotient(i, run) * run;  // its place in x: every earlier row has a second run
  const auto pack_a = load_pack<T, V>(x + a), pack_b = load_pack<T, V>(x + a + run);
  Pack<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) out.at[v] = T(gated_activation(acc_t(pack_a.at[v]), acc_t(pack_b.at[v])));
  store_pack<T, V>(y + i, out);
}

template <typename T, typename Launch>
void gated_activation_launch(const Launch& launch, int64_t N, int64_t run, const T* x, T* y) {
  constexpr int V = kPackOf16Bytes<T>;
  const int64_t total = N * run;
  if (run % V == 0 && aligned_for<V>(x, y))
    launch(gated_activation_kernel<T, V>, grid_for(total, kGateThreads * V), kGateThreads, total, run, x, y);
  else
    launch(gated_activation_kernel<T, 1>, grid_for(total, kGateThreads), kGateThreads, total, run, x, y);
}

// gated_activation_backward_kernel: gradient of x
// Math     da = dy·σ(b)·(1 − tanh²a), db = dy·tanh(a)·σ(b)·(1 − σ(b))
// Shapes   grad_y (N, R), x and grad_x (N, 2, R), contiguous; 64-bit offsets
// Traffic  3 reads, 2 writes per output: memory bound, 20 B per output in f32
// Launch   as forward
// Numerics f32 inside for half types, one rounding at the store
// Ragged   as forward
template <typename T, int V>
__global__ void __launch_bounds__(kGateThreads)
    gated_activation_backward_kernel(int64_t total, int64_t run, const T* __restrict__ grad_y, const T* __restrict__ x,
                                     T* __restrict__ grad_x) {
  using acc_t = accumulation_t<T>;
  const int64_t i = (int64_t(blockIdx.x) * kGateThreads + threadIdx.x) * V;
  if (i >= total) return;
  const int64_t a = i + quotient(i, run) * run;
  const auto pack_y = load_pack<T, V>(grad_y + i), pack_a = load_pack<T, V>(x + a),
             pack_b = load_pack<T, V>(x + a + run);
  Pack<T, V> out_a, out_b;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    acc_t da, db;
    gated_activation_backward(acc_t(pack_y.at[v]), acc_t(pack_a.at[v]), acc_t(pack_b.at[v]), &da, &db);
    out_a.at[v] = T(da);
    out_b.at[v] = T(db);
  }
  store_pack<T, V>(grad_x + a, out_a);
  store_pack<T, V>(grad_x + a + run, out_b);
}

template <typename T, typename Launch>
void gated_activation_backward_launch(const Launch& launch, int64_t N, int64_t run, const T* grad_y, const T* x,
                                      T* grad_x) {
  constexpr int V = kPackOf16Bytes<T>;
  const int64_t total = N * run;
  if (run % V == 0 && aligned_for<V>(grad_y, x, grad_x))
    launch(gated_activation_backward_kernel<T, V>, grid_for(total, kGateThreads * V), kGateThreads, total, run, grad_y,
           x, grad_x);
  else
    launch(gated_activation_backward_kernel<T, 1>, grid_for(total, kGateThreads), kGateThreads, total, run, grad_y, x,
           grad_x);
}

}  // namespace fastgen
