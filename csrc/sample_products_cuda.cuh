// sample on the GPU: products of an instruction's rows and weights, tile by tile, and the steps on what they leave.
// Shapes   rows (positions · images, K) gathered from their sources; weights packed by SampleProgram; sums (16, 8)
// Numerics f32 sums in kSampleParts parts, added in order: the same bits whether one warp sums them or a block
// No torch headers.
#pragma once

#include <type_traits>

#include "sample_steps.h"
#include "sample_team_cuda.cuh"

namespace fastgen {

// ---- sums of a tile: lane g·4 + q has outputs g and g + 8 of rows 2q and 2q + 1, in the order of mma's result

__device__ __forceinline__ void add_floats(const float* w, const Pack<float, 4>& a, const Pack<float, 4>& b,
                                           float sums[4]) {
  const auto wa = load_pack<float, 4>(w), wb = load_pack<float, 4>(w + 8 * kFloatStep);
  sums[0] = dot(wa, a, sums[0]), sums[1] = dot(wa, b, sums[1]);
  sums[2] = dot(wb, a, sums[2]), sums[3] = dot(wb, b, sums[3]);
}

template <typename T>
__device__ __forceinline__ void add_pairs(const uint32_t* w, const Pack<float, 4>& x, float sums[4]) {
  const auto a = load_pack<uint32_t, 4>(w);
  if constexpr (std::is_same_v<T, __half>) {
    const uint32_t pairs[2] = {float16_pair(x.at[0], x.at[1]), float16_pair(x.at[2], x.at[3])};
    mma_float16(sums, a.at, pairs);
  } else {
    const uint32_t pairs[2] = {bfloat16_pair(x.at[0], x.at[1]), bfloat16_pair(x.at[2], x.at[3])};
    mma_bfloat16(sums, a.at, pairs);
  }
}

// What one source adds: `steps` steps from its channel `first`. Those that 16 bytes can be loaded of come first, with
// nothing to decide between them, so that many loads are on their way at once.
struct SampleRun {
  int first, channels, steps, whole;

  __device__ SampleRun(const SampleContext& s, const ProgramSegment& segment, const ProgramRef& ref, int step)
      : first(segment.first), channels(ref.channels), steps(segment.steps) {
    const ProgramBuffer& b = s.buffer(ref.buffer);
    const bool aligned = (ref.channel | b.position_stride | b.image_stride) % 4 == 0;
    whole = aligned ? min(steps, (channels - first) / step) : 0;
  }
};

__device__ __forceinline__ void sum_floats(const SampleRun& run, const float* w, const float* x0, const float* x1,
                                           float sums[4]) {
  constexpr int kStep = kTileOutputs * kFloatStep;
  w += int(threadIdx.x) % 32 / 4 * kFloatStep;
  __builtin_assume(__isGlobal(w));
  __builtin_assume(__isGlobal(x0));
  __builtin_assume(__isGlobal(x1));
#pragma unroll 2
  for (int step = 0; step < run.whole; ++step) {
    const int k = run.first + step * kFloatStep;
    add_floats(w + step * kStep, whole_four(x0 + k), whole_four(x1 + k), sums);
  }
#pragma unroll 1
  for (int step = run.whole; step < run.steps; ++step) {
    const int k = run.first + step * kFloatStep;
    add_floats(w + step * kStep, ragged_four(x0, k, run.channels), ragged_four(x1, k, run.channels), sums);
  }
}

template <typename T>
__device__ __forceinline__ void sum_pairs(const SampleRun& run, const uint32_t* w, const float* x, float sums[4]) {
  const int lane = int(threadIdx.x) % 32, first = run.first + lane % 4 * 4;
  w += 4 * lane;
  __builtin_assume(__isGlobal(w));
  __builtin_assume(__isGlobal(x));
#pragma unroll 4
  for (int step = 0; step < run.whole; ++step)
    add_pairs<T>(w + step * kPairWords, whole_four(x + first + step * kPairStep), sums);
#pragma unroll 1
  for (int step = run.whole; step < run.steps; ++step)
    add_pairs<T>(w + step * kPairWords, ragged_four(x, first + step * kPairStep, run.channels), sums);
}

// Where a row reads a source. Of what is not due the sums are nobody's, so that any numbers do.
__device__ __forceinline__ const float* source_of(const SampleContext& s, const ProgramRef& ref, const SampleRow& row) {
  return row.due() ? s.address(ref, row) : s.state;
}

// One part of the sums of the tile (outputs from 16·tile, rows from 8·group). T: what plans may round to.
template <typename T>
__device__ __forceinline__ void sum_part(const SampleContext& s, const ProgramInstruction& i,
                                         const SamplePositions& positions, int tile, int group, int part,
                                         float sums[4]) {
  const int lane = int(threadIdx.x) % 32;
  const ProgramSegment* segments = s.records<ProgramSegment>(s.header->segments) + i.segments;
  const int64_t first_step = int64_t(tile) * i.sum_steps;
  if (!std::is_same_v<T, float> && i.rounds) {
    const SampleRow row = s.row(i, positions, group * kTileRows + lane / 4);
    for (int at = i.parts[part]; at < i.parts[part + 1]; ++at) {
      const ProgramSegment segment = segments[at];
      const ProgramRef& ref = s.ref(segment.source);
      const uint32_t* w = s.packed + i.weight + (first_step + segment.packed) * kPairWords;
      sum_pairs<T>(SampleRun(s, segment, ref, kPairStep), w, source_of(s, ref, row), sums);
    }
  } else {
    const int m = group * kTileRows + lane % 4 * 2;
    const SampleRow first = s.row(i, positions, m), second = s.row(i, positions, m + 1);
    for (int at = i.parts[part]; at < i.parts[part + 1]; ++at) {
      const ProgramSegment segment = segments[at];
      const ProgramRef& ref = s.ref(segment.source);
      const float* w = reinterpret_cast<const float*>(s.packed) + i.weight +
                       (first_step + segment.packed) * (kTileOutputs * kFloatStep);
      sum_floats(SampleRun(s, segment, ref, kFloatStep), w, source_of(s, ref, first), source_of(s, ref, second), sums);
    }
  }
}

// ---- the steps, number by number

__device__ __forceinline__ float unary(SampleOp op, const float* parameters, float x) {
  with_unary(op, parameters, [&](auto f) { x = f(x); });
  return x;
}

__device__ __forceinline__ float binary(SampleOp op, float x, float operand) {
  with_binary(op, [&](auto f) { x = f(x, operand); });
  return x;
}

__device__ __forceinline__ const float* parameters_of(const SampleContext& s, const ProgramStep& step) {
  return step.parameters < 0 ? nullptr : s.constants + step.parameters;
}

// The operand of a step for a row: a map's channels or a vector.
__device__ __forceinline__ const float* operand_of(const SampleContext& s, const ProgramStep& step,
                                                   const SampleRow& row) {
  return step.operand < 0 ? s.constants + step.vector : s.address(s.ref(step.operand), row);
}

__device__ __forceinline__ float operand_at(const ProgramStep& step, const float* operand, int channel) {
  return step.function < 0 ? operand[channel] : unary(SampleOp(step.function), nullptr, operand[channel]);
}

// All steps on one number, or on two of one row whose channels become one (gate) or come of one (concat_elu); `x` and
// `y` of channels c and d. Two numbers where d ≥ 0.
__device__ __noinline__ void finish_numbers(const SampleContext& s, const ProgramInstruction& i, const SampleRow row,
                                            float x, int c, float y, int d) {
  const ProgramStep* steps = s.records<ProgramStep>(s.header->steps) + i.steps;
  int channels = i.channels;
  for (int at = 0; at < i.step_count; ++at) {
    const ProgramStep step = steps[at];
    const SampleOp op = SampleOp(step.op);
    if (is_unary(op) || is_binary(op)) {
      const float* operand = is_binary(op) ? operand_of(s, step, row) : nullptr;
#pragma unroll 1
      for (int number = 0; number < (d < 0 ? 1 : 2); ++number) {
        float value = number ? y : x;
        value = operand ? binary(op, value, operand_at(step, operand, number ? d : c))
                        : unary(op, parameters_of(s, step), value);
        number ? y = value : x = value;
      }
    } else if (op == SampleOp::kGate) {
      x = gated_activation(x, y);
      d = -1;
      channels /= 2;
    } else {
      d = c + channels;
      y = Elu::forward(-x);
      x = Elu::forward(x);
      channels *= 2;
    }
  }
  float* out = s.address(s.ref(i.out), row);
  out[c] = x;
  if (d >= 0) out[d] = y;
}

// Two sums of one row on their way out: outputs `row` and row + 8 of a tile.
__device__ __forceinline__ void finish_sums(const SampleContext& s, const ProgramInstruction& i,
                                            const SamplePositions& positions, int tile, int m, float x, float y) {
  const SampleRow row = s.row(i, positions, m);
  if (!row.due()) return;
  const int g = int(threadIdx.x) % 32 / 4, halves = i.gate ? i.outputs / 2 : i.outputs;
  const int c = tile * (i.gate ? kTileOutputs / 2 : kTileOutputs) + g, d = i.gate ? halves + c : c + 8;
  if (c >= halves) return;
  const bool second = i.gate || d < halves;
  if (i.bias >= 0) {
    x += s.constants[i.bias + c];
    if (second) y += s.constants[i.bias + d];
  }
  if (!i.direct) {
    float* scratch = s.scratch + int64_t(m) * s.header->scratch_channels;
    scratch[c] = x;
    if (second) scratch[d] = y;
    return;
  }
#pragma unroll 1
  for (int number = 0; number < (i.gate || !second ? 1 : 2); ++number)
    finish_numbers(s, i, row, number ? y : x, number ? d : c, y, i.gate ? d : -1);
}

// ---- the product: each warp whole tiles, where there are enough for all; else each block, a part for each warp

template <typename T, bool kAlone>
__device__ __noinline__ void product(const SampleTeam<kAlone>& team, const SampleContext& s,
                                     const ProgramInstruction& i, const SamplePositions positions) {
  const int groups = (positions.count * s.n + kTileRows - 1) / kTileRows, units = groups * i.tiles;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  if (units >= team.warps()) {
    for (int unit = team.warp(); unit < units; unit += team.warps()) {
      const int tile = unit / groups, group = unit % groups, m = group * kTileRows + lane % 4 * 2;
      float sums[4] = {};
#pragma unroll 1
      for (int part = 0; part < kSampleParts; ++part) {
        float terms[4] = {};
        sum_part<T>(s, i, positions, tile, group, part, terms);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += terms[j];
      }
#pragma unroll 1
      for (int second = 0; second < 2; ++second)
        finish_sums(s, i, positions, tile, m + second, second ? sums[1] : sums[0], second ? sums[3] : sums[2]);
    }
    return;
  }
  __shared__ float partial[kSampleParts][4][32];
  for (int unit = team.rank; unit < units; unit += team.blocks) {
    const int tile = unit / groups, group = unit % groups;
    float terms[4] = {};
    sum_part<T>(s, i, positions, tile, group, warp, terms);
#pragma unroll
    for (int j = 0; j < 4; ++j) partial[warp][j][lane] = terms[j];
    __syncthreads();
    if (warp < 2) {  // of the tile's rows 2q + warp
      float x = 0, y = 0;
#pragma unroll
      for (int part = 0; part < kSampleParts; ++part) {
        x += partial[part][warp][lane];
        y += partial[part][warp + 2][lane];
      }
      finish_sums(s, i, positions, tile, group * kTileRows + lane % 4 * 2 + warp, x, y);
    }
    __syncthreads();
  }
}

// ---- rows on their way: a warp for each

// Zero mean and unit variance within each of p[0] equal parts; p[1] is ε.
__device__ __forceinline__ void norm_row(const float* p, int channels, float* x) {
  const int lane = int(threadIdx.x) % 32, groups = int(p[0]), size = channels / groups;
  for (int group = 0; group < groups; ++group, x += size) {
    double sum = 0, squares = 0;
    for (int c = lane; c < size; c += 32) sum += double(x[c]);
    const double mean = sum_of_warp(sum) / size;
    for (int c = lane; c < size; c += 32) squares += (x[c] - mean) * (x[c] - mean);
    const double scale = 1 / sqrt(sum_of_warp(squares) / size + double(p[1]));
    for (int c = lane; c < size; c += 32) x[c] = float((x[c] - mean) * scale);
  }
}

// One step on a row in memory; answers with the channels it leaves.
__device__ __forceinline__ int step_on_row(const SampleContext& s, const ProgramStep& step, const SampleRow& row,
                                           int channels, float* x) {
  const int lane = int(threadIdx.x) % 32;
  const SampleOp op = SampleOp(step.op);
  if (is_unary(op)) {
    for (int c = lane; c < channels; c += 32) x[c] = unary(op, parameters_of(s, step), x[c]);
  } else if (is_binary(op)) {
    const float* operand = operand_of(s, step, row);
    for (int c = lane; c < channels; c += 32) x[c] = binary(op, x[c], operand_at(step, operand, c));
  } else if (op == SampleOp::kGate) {
    for (int c = lane; c < channels / 2; c += 32) x[c] = gated_activation(x[c], x[channels / 2 + c]);
  } else if (op == SampleOp::kConcatElu) {
    for (int c = lane; c < channels; c += 32) {
      const float value = x[c];
      x[c] = Elu::forward(value);
      x[channels + c] = Elu::forward(-value);
    }
  } else {
    norm_row(parameters_of(s, step), channels, x);
  }
  return int(channels_after(op, channels));
}

// Rows that a product, or attention, has left in scratch; or, of a load, rows of its source.
template <bool kAlone>
__device__ __noinline__ void finish_rows(const SampleTeam<kAlone>& team, const SampleContext& s,
                                         const ProgramInstruction& i, const SamplePositions positions, bool load) {
  const int rows = positions.count * s.n, lane = int(threadIdx.x) % 32;
  const ProgramStep* steps = s.records<ProgramStep>(s.header->steps) + i.steps;
  if (load && i.direct) {  // 32 channels of a row for each warp
    const int half = i.gate ? i.channels / 2 : i.channels, parts = (half + 31) / 32;
    for (int unit = team.warp(); unit < rows * parts; unit += team.warps()) {
      const SampleRow row = s.row(i, positions, unit / parts);
      const int c = unit % parts * 32 + lane;
      if (!row.due() || c >= half) continue;
      const float* source = s.address(s.ref(i.source), row);
      finish_numbers(s, i, row, source[c], c, i.gate ? source[half + c] : 0.0f, i.gate ? half + c : -1);
    }
    return;
  }
  for (int m = team.warp(); m < rows; m += team.warps()) {
    const SampleRow row = s.row(i, positions, m);
    if (!row.due()) continue;
    float* x = s.scratch + int64_t(m) * s.header->scratch_channels;
    int channels = i.channels;
    if (load) {
      const float* source = s.address(s.ref(i.source), row);
      for (int c = lane; c < channels; c += 32) x[c] = source[c];
    }
    __syncwarp();
    for (int at = 0; at < i.step_count; ++at) {
      channels = step_on_row(s, steps[at], row, channels, x);
      __syncwarp();
    }
    float* out = s.address(s.ref(i.out), row);
    for (int c = lane; c < channels; c += 32) out[c] = x[c];
  }
}

}  // namespace fastgen
