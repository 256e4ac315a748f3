// sample on the GPU: draws from the parameters of a pixel, a warp for each. No torch headers.
#pragma once

#include "sample_attend_cuda.cuh"
#include "sample_draws.h"

namespace fastgen {

// Levels are shared out in runs of neighbours; sums in double, of which nothing hangs on the order.
__device__ __forceinline__ int64_t draw_categorical_warp(int levels, const float* logits, double uniform,
                                                         float temperature) {
  const int lane = int(threadIdx.x) % 32, each = (levels + 31) / 32;
  const int from = min(levels, lane * each), to = min(levels, from + each);
  float highest = -INFINITY;
  for (int l = from; l < to; ++l) highest = fmaxf(highest, logits[l] / temperature);
  highest = largest_of_warp(highest);
  const auto numerator = [&](int l) {
    const float x = logits[l] / temperature - highest;
    return x < -104.0f ? 0.0f : exp(x);  // so small is zero in float: never drawn, even with u = 0
  };
  double total = 0, mine = 0;
  for (int l = from; l < to; ++l) total += double(numerator(l));
  const float scale = float(sum_of_warp(total));
  for (int l = from; l < to; ++l) mine += double(numerator(l) / scale);
  double below = mine;  // of all levels up to this lane's last
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, below, unsigned(offset));
    if (lane >= offset) below += other;
  }
  below = __shfl_up_sync(0xffffffffu, below, 1u);
  if (lane == 0) below = 0;
  int drawn = levels - 1;
  for (int l = from; l < to; ++l) {
    const float mass = numerator(l) / scale;
    below += double(mass);
    if (mass > 0 && double(float(below)) > uniform) {  // a lane's sum may begin a rounding above its neighbour's last
      drawn = min(drawn, l);
      break;
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) drawn = min(drawn, __shfl_xor_sync(0xffffffffu, drawn, offset));
  return drawn;
}

// Colour k of one pixel of image `image` of the chunk: the value, and what the model reads for it.
__device__ __noinline__ void draw_value(const SampleArguments& a, const SampleContext& s, int team, int k, int r, int c,
                                        int image) {
  const ProgramHeader& h = *s.header;
  const ProgramRef& ref = s.ref(h.params + k);
  const float* params = s.address(ref, r, c, image);
  const bool coupled = a.components > 0;
  int channel = 0;  // of the parameters of all colours
  for (int earlier = 0; earlier < k && !coupled; ++earlier) channel += s.ref(h.params + earlier).channels;
  const int lane = int(threadIdx.x) % 32;
  const int64_t plane = int64_t(h.H) * h.W, P = coupled ? ref.channels : h.P;
  const int64_t of_batch = int64_t(team) * h.images + image, here = int64_t(r) * h.W + c;
  const int64_t pixel = of_batch * h.C * plane + here, at = pixel + k * plane;
  for (int l = lane; l < ref.channels; l += 32) {
    if (!(fabsf(params[l]) <= 3.402823466e38f)) atomicMin(a.bad_rows + team, r);
    if (a.params) a.params[(of_batch * P + channel + l) * plane + here] = params[l];
  }
  const double* uniforms = a.uniforms + (coupled ? of_batch * h.C * plane + pixel : at);
  int64_t value = 0;
  if (a.keep && a.keep[at])
    value = a.known[at];
  else if (coupled)
    value = draw_mixture(a.components, h.C, k, a.levels, params, uniforms, plane, a.values + pixel, a.temperature);
  else if (ref.channels == 1)
    value = draw_bernoulli(params[0], *uniforms, float(a.temperature));
  else
    value = draw_categorical_warp(ref.channels, params, *uniforms, float(a.temperature));
  if (lane == 0) a.values[at] = value;
  const float* entry = a.table + (int64_t(k) * a.levels + clamp<int64_t>(value, 0, a.levels - 1)) * h.inputs;
  float* input = s.address({0, k * h.inputs, h.inputs, 0, 0, 1, 1}, r, c, image);
  for (int j = lane; j < h.inputs; j += 32) input[j] = entry[j];
}

}  // namespace fastgen
