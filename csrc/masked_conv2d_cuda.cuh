// masked_conv2d on the GPU: what stands around the convolution. No torch headers.
#pragma once

#include "cuda_types.cuh"
#include "masked_conv2d.h"

namespace fastgen {

constexpr int kEpilogueThreads = 256;

// crop_weight_kernel, uncrop_weight_kernel: the live taps of the kernel, and back with zeros in the dead ones
// Shapes   weight (O, I, KH, KW), cropped (O, I, crop.KH, crop.KW), contiguous
// Traffic  1 read, 1 write per tap; kilobytes
// Launch   grid ⌈taps written / 256⌉, block 256
// Ragged   last block masked
template <typename T>
__global__ void __launch_bounds__(kEpilogueThreads)
    crop_weight_kernel(TapMask taps, Crop crop, const T* __restrict__ weight, T* __restrict__ cropped) {
  const int64_t at = int64_t(blockIdx.x) * kEpilogueThreads + threadIdx.x;
  const int64_t kw = at % crop.KW, kh = at / crop.KW % crop.KH, filter = at / (crop.KW * crop.KH);  // filter: o·I + i
  if (filter >= taps.O * taps.I) return;
  const bool live = taps.live(filter / taps.I, filter % taps.I, kh, kw);
  cropped[at] = live ? weight[(filter * taps.KH + kh) * taps.KW + kw] : T(0.0f);
}

template <typename T>
__global__ void __launch_bounds__(kEpilogueThreads)
    uncrop_weight_kernel(TapMask taps, Crop crop, const T* __restrict__ cropped, T* __restrict__ weight) {
  const int64_t at = int64_t(blockIdx.x) * kEpilogueThreads + threadIdx.x;
  const int64_t kw = at % taps.KW, kh = at / taps.KW % taps.KH, filter = at / (taps.KW * taps.KH);
  if (filter >= taps.O * taps.I) return;
  const bool live = taps.live(filter / taps.I, filter % taps.I, kh, kw);
  weight[at] = live ? cropped[(filter * crop.KH + kh) * crop.KW + kw] : T(0.0f);
}

// Memory as rows of runs. Contiguous: a row is an image, a run C·S, and channels lie S apart; channels_last: a row is a
// pixel, a run C, and channels are neighbours (S = 1). The gate has two runs a row in `pre`, concat_elu two in y.
struct EpilogueShape {
  int64_t total;  // elements on the side with one run a row
  int64_t run;    // of them in a row
  int64_t S;      // distance between channels
};

// epilogue_kernel: y = activation(pre + bias) + residual
// Math     activation: identity, relu, elu (one to one), [elu(p), elu(−p)], tanh(a)·σ(b)
// Shapes   pre and y as EpilogueShape says, bias (O) or null, residual as y or null; 64-bit offsets
// Traffic  reads pre and residual, writes y, and pre where the bias is kept for backward: memory bound
// Launch   grid ⌈total / 256⌉, block 256, 1 element of the single-run side a thread
// Numerics f32 inside for half types, one rounding at the store; a kept pre is rounded once more
// Ragged   last block masked
template <Activation kind, typename T>
__global__ void __launch_bounds__(kEpilogueThreads)
    epilogue_kernel(EpilogueShape shape, bool keep_pre, const T* __restrict__ bias, const T* __restrict__ residual,
                    T* __restrict__ pre, T* __restrict__ y) {
  using acc_t = accumulation_t<T>;
  const int64_t one = int64_t(blockIdx.x) * kEpilogueThreads + threadIdx.x;
  if (one >= shape.total) return;
  const int64_t in_run = one % shape.run, two = one + one / shape.run * shape.run, channel = in_run / shape.S;
  const auto biased = [&](int64_t at, int64_t c) {
    const acc_t p = acc_t(pre[at]) + (bias ? acc_t(bias[c]) : acc_t(0));
    if (keep_pre && bias) pre[at] = T(p);
    return p;
  };
  const auto write = [&](int64_t at, acc_t value) { y[at] = T(value + (residual ? acc_t(residual[at]) : acc_t(0))); };
  if constexpr (kind == Activation::kGated) {
    const acc_t a = biased(two, channel), b = biased(two + shape.run, channel + shape.run / shape.S);
    write(one, gated_activation(a, b));
  } else {
    const acc_t p = biased(one, channel);
    if constexpr (kind == Activation::kConcatElu) {
      write(two, Elu::forward(p));
      write(two + shape.run, Elu::forward(-p));
    } else {
      write(one, kind == Activation::kRelu ? Relu::forward(p) : kind == Activation::kElu ? Elu::forward(p) : p);
    }
  }
}

// epilogue_backward_kernel: gradient of pre
// Math     the derivative of the activation at pre, times grad_y
// Shapes   as forward
// Traffic  reads grad_y and pre, writes grad_pre: memory bound
// Launch   as forward
// Numerics as forward
// Ragged   last block masked
template <Activation kind, typename T>
__global__ void __launch_bounds__(kEpilogueThreads)
    epilogue_backward_kernel(EpilogueShape shape, const T* __restrict__ grad_y, const T* __restrict__ pre,
                             T* __restrict__ grad_pre) {
  using acc_t = accumulation_t<T>;
  const int64_t one = int64_t(blockIdx.x) * kEpilogueThreads + threadIdx.x;
  if (one >= shape.total) return;
  const int64_t two = one + one / shape.run * shape.run;
  if constexpr (kind == Activation::kGated) {
    acc_t da, db;
    gated_activation_backward(acc_t(grad_y[one]), acc_t(pre[two]), acc_t(pre[two + shape.run]), &da, &db);
    grad_pre[two] = T(da);
    grad_pre[two + shape.run] = T(db);
  } else if constexpr (kind == Activation::kConcatElu) {
    grad_pre[one] = T(concat_elu_backward(acc_t(grad_y[two]), acc_t(grad_y[two + shape.run]), acc_t(pre[one])));
  } else {
    const acc_t g = acc_t(grad_y[one]), p = acc_t(pre[one]);
    grad_pre[one] = T(kind == Activation::kRelu ? Relu::backward(g, p) : Elu::backward(g, p));
  }
}

}  // namespace fastgen
