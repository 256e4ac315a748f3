// sample on the GPU: y[h] = softmax(scale · q[h] · K[:, h]ᵀ + bias[h]) · V[:, h] of one position of one image, over its
// keys alone
// Shapes   q (heads, dk), K (keys, heads, dk), V (keys, heads, dv), y (heads, dv); keys in runs of neighbours
// Traffic  each key and each value once: 4·heads·(dk + dv) bytes
// Launch   a block for each head of each row; its warps share the keys out, each with a softmax of its own, and the
//          block adds what they leave, rescaled
// Numerics f32; how keys are shared out depends on their number alone
// No torch headers.
#pragma once

#include "sample_team_cuda.cuh"

namespace fastgen {

// The keys of one query, one after the other: numbers of its runs.
struct SampleKeys {
  const int32_t *run, *end;
  int before = 0;  // keys of the runs before this one

  __device__ SampleKeys(const int32_t* runs, int first, int last) : run(runs + 2 * first), end(runs + 2 * last) {}

  __device__ int count() const {
    int keys = 0;
    for (const int32_t* r = run; r < end; r += 2) keys += r[1] - r[0];
    return keys;
  }

  // Of key number j, which is not below those that were asked for before.
  __device__ __forceinline__ int at(int j) {
    while (j - before >= run[1] - run[0]) {
      before += run[1] - run[0];
      run += 2;
    }
    return run[0] + j - before;
  }
};

// One head's attention by one warp over keys [from, to) of a query.
struct SampleHead {
  const float *q, *keys, *values, *bias;
  int dk, dv, keys_stride, values_stride;
  float scale;

  // A key for each eight lanes, which read it side by side: its score in `scores`. kWhole: by 16 bytes.
  template <bool kWhole>
  __device__ __forceinline__ void score(SampleKeys at, int from, int to, float* scores) const {
    const int lane = int(threadIdx.x) % 32, first = lane % 8 * 4;
#pragma unroll 1
    for (int base = from; base < to; base += 4) {
      const int j = base + lane / 8, key = j < to ? at.at(j) : 0;
      const float* k = keys + int64_t(key) * keys_stride;
      float product = 0;
      if (j < to)
#pragma unroll 1
        for (int c = first; c < dk; c += 32)
          product = kWhole ? dot(whole_four(q + c), whole_four(k + c), product)
                           : dot(ragged_four(q, c, dk), ragged_four(k, c, dk), product);
      for (int offset = 4; offset > 0; offset /= 2) product += __shfl_xor_sync(0xffffffffu, product, offset);
      if (j < to && lane % 8 == 0) scores[j] = fmaf(scale, product, bias ? bias[key] : 0.0f);
    }
  }

  // Leaves exp(score − largest) in `scores`, the values' sum in `y`.
  __device__ __forceinline__ void attend(SampleKeys at, int from, int to, float* scores, float* y, float* largest,
                                         float* sum) const {
    const int lane = int(threadIdx.x) % 32;
    const auto wholly = [](const float* p, int stride) {
      return (reinterpret_cast<uintptr_t>(p) | uintptr_t(stride) * sizeof(float)) % 16 == 0;
    };
    if (dk % 4 == 0 && wholly(q, 0) && wholly(keys, keys_stride))
      score<true>(at, from, to, scores);
    else
      score<false>(at, from, to, scores);
    __syncwarp();
    float most = -INFINITY, total = 0;
    int nan = 0;
    for (int j = from + lane; j < to; j += 32) {
      most = fmaxf(most, scores[j]);
      nan |= scores[j] != scores[j];
    }
    most = largest_of_warp(most);
    for (int j = from + lane; j < to; j += 32) total += scores[j] = exp(scores[j] - most);
    total = sum_of_warp(total);
    nan = sum_of_warp(nan);
    if (lane == 0) *largest = nan ? NAN : most, *sum = total;  // NaN is no largest, and makes a NaN of the sum
    __syncwarp();
    for (int c = lane; c < dv; c += 32) {
      SampleKeys each = at;
      float value = 0;
      for (int j = from, count; j < to; j += count) {  // neighbours
        const int key = each.at(j);
        count = min(to - j, each.run[1] - key);
        const float* v = values + int64_t(key) * values_stride + c;
#pragma unroll 4
        for (int n = 0; n < count; ++n) value = fmaf(scores[j + n], v[int64_t(n) * values_stride], value);
      }
      y[c] = value;
    }
  }
};

template <bool kAlone>
__device__ __noinline__ void attention(const SampleTeam<kAlone>& team, const SampleContext& s,
                                       const ProgramInstruction& i, const SamplePositions positions) {
  __shared__ float largest[kSampleWarps], sums[kSampleWarps];
  const ProgramAttend& a = i.attend;
  const ProgramRef &keys = s.ref(a.keys), &values = s.ref(a.values);
  const int units = positions.count * s.n * a.heads, warp = int(threadIdx.x) / 32;
  float* parts = s.scores + a.scores;  // of each warp, dv numbers
  for (int unit = team.rank; unit < units; unit += team.blocks) {
    const int m = unit / a.heads, h = unit % a.heads;
    const SampleRow row = s.row(i, positions, m);
    if (!row.due()) continue;
    const int query = row.u * i.columns.count + row.v;
    const int32_t* starts = s.words + a.starts + query;
    const SampleKeys at(s.words + a.runs, starts[0], starts[1]);
    const int count = at.count();
    const SampleHead head = {
        s.address(s.ref(i.source), row) + h * a.dk,
        s.address(keys, 0, 0, row.image) + h * a.dk,
        s.address(values, 0, 0, row.image) + h * a.dv,
        a.bias < 0 ? nullptr : s.constants + a.bias + int64_t(h) * a.bias_stride + int64_t(query) * a.key_count,
        a.dk,
        a.dv,
        s.buffer(keys.buffer).position_stride,
        s.buffer(values.buffer).position_stride,
        s.constants[a.parameters]};
    head.attend(at, int(int64_t(count) * warp / kSampleWarps), int(int64_t(count) * (warp + 1) / kSampleWarps),
                s.scores, parts + warp * a.dv, largest + warp, sums + warp);
    __syncthreads();
    float most = -INFINITY, sum = 0;
    for (int w = 0; w < kSampleWarps; ++w) most = fmaxf(most, largest[w]);
    const bool masked = !(most > s.constants[a.parameters + 1] + 104.0f);  // what is masked would count
    for (int w = 0; w < kSampleWarps; ++w) sum += largest[w] == -INFINITY ? 0.0f : sums[w] * exp(largest[w] - most);
    float* y = i.direct ? s.address(s.ref(i.out), row) : s.scratch + int64_t(m) * s.header->scratch_channels;
    for (int c = int(threadIdx.x); c < a.dv; c += kSampleThreads) {
      float value = 0;
      for (int w = 0; w < kSampleWarps; ++w)
        if (largest[w] != -INFINITY) value += parts[w * a.dv + c] * exp(largest[w] - most);
      y[h * a.dv + c] = count == 0 ? 0.0f : masked ? NAN : value / sum;
    }
    __syncthreads();
  }
}

}  // namespace fastgen
