// sample on the GPU: who works on what. A team of blocks draws a chunk of images; its barrier, the positions at which
// an instruction is due, and where in memory they lie. No torch headers.
#pragma once

#include "cuda_ptx.cuh"
#include "cuda_types.cuh"
#include "sample_records.h"

namespace fastgen {

constexpr int kSampleThreads = 32 * kSampleWarps;
constexpr int kMaxGiven = 16;  // maps that come with a batch

// Tensors as sample_draws_cpu.h has them, of the whole batch.
struct SampleArguments {
  const int32_t* program;
  const float* constants;
  const uint32_t* packed;
  float* state;        // of every team, see sample_team_state
  unsigned* arrivals;  // of every team, zero at the launch
  int32_t* bad_rows;   // of every team: the first row whose parameters are not finite, or H
  const float* given[kMaxGiven];
  const double* uniforms;
  const float* table;
  const int64_t* known;
  const bool* keep;
  int64_t* values;
  float* params;
  int64_t N, levels, components, first, last;
  double temperature;
  int blocks;  // of a team
};

// The blocks that draw one chunk, as each of them knows it, in shared memory. kAlone: one block, whose barrier is its
// own.
template <bool kAlone>
struct SampleTeam {
  int index, rank, blocks;
  unsigned* arrivals;
  unsigned expected;

  __device__ void begin(const SampleArguments& a) {
    blocks = a.blocks;
    index = int(blockIdx.x) / blocks, rank = int(blockIdx.x) % blocks;
    arrivals = a.arrivals + index * kArrivalsApart;
    expected = 0;
  }

  __device__ __forceinline__ int warps() const { return blocks * kSampleWarps; }
  __device__ __forceinline__ int warp() const { return rank * kSampleWarps + int(threadIdx.x) / 32; }
  __device__ __forceinline__ int threads() const { return blocks * kSampleThreads; }
  __device__ __forceinline__ int thread() const { return rank * kSampleThreads + int(threadIdx.x); }

  // What any thread of the team wrote before is seen by all of them after it.
  __device__ __forceinline__ void sync() {
    __syncthreads();
    if constexpr (!kAlone) {
      if (threadIdx.x == 0) {
        expected += unsigned(blocks);
        arrive(arrivals);
        await(arrivals, expected);
      }
      __syncthreads();
    }
  }
};

// ---- numbers of a warp, and four numbers of a lane

// The largest of all lanes, and their sum; one order.
__device__ __forceinline__ float largest_of_warp(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
template <typename T>
__device__ __forceinline__ T sum_of_warp(T x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Four neighbours of `channels` from number `first` on; zeros beyond.
__device__ __forceinline__ Pack<float, 4> ragged_four(const float* x, int first, int channels) {
  Pack<float, 4> result;
#pragma unroll
  for (int j = 0; j < 4; ++j) result.at[j] = first + j < channels ? x[first + j] : 0.0f;
  return result;
}

// No load of what never changes, as load_pack's may be: other blocks write here.
__device__ __forceinline__ Pack<float, 4> whole_four(const float* x) {
  return *reinterpret_cast<const Pack<float, 4>*>(x);
}

__device__ __forceinline__ float dot(const Pack<float, 4>& a, const Pack<float, 4>& b, float sum) {
#pragma unroll
  for (int j = 0; j < 4; ++j) sum = fmaf(a.at[j], b.at[j], sum);
  return sum;
}

// ---- when, and where

__device__ __forceinline__ int index_of(const ProgramAxis& axis, int t) {  // −1: not due
  if (t < axis.at) return -1;
  const int i = axis.every == 1 ? t - axis.at : (t - axis.at) % axis.every ? -1 : (t - axis.at) / axis.every;
  return i < axis.count ? i : -1;
}

enum class SampleClock { kRow, kPixel, kFront };

// A moment of the walk: row r; pixel (r, c); or wavefront c, whose pixels have (c' + left) + slope·(r' + top) = c.
struct SampleMoment {
  SampleClock clock;
  int r, c;
};

struct SamplePosition {
  int u, v;
};

// The positions of an instruction at a moment; of a front, those of neighbouring rows, some of which may not be due.
struct SamplePositions {
  SampleClock clock;
  int count, u, v;  // kRow: columns of u; kPixel: one, (u, v); kFront: rows from u on, wavefront v

  __device__ SamplePositions(const ProgramHeader& h, const ProgramAxis& rows, const ProgramAxis& columns,
                             const SampleMoment& now)
      : clock(now.clock), count(0), u(0), v(0) {
    if (clock == SampleClock::kRow) {
      u = index_of(rows, now.r);
      count = u < 0 ? 0 : columns.count;
    } else if (clock == SampleClock::kPixel) {
      u = index_of(rows, now.r), v = index_of(columns, now.c);
      count = u < 0 || v < 0 ? 0 : 1;
    } else {
      const int from = max(columns.at, -h.left);  // columns, of those that the walk goes through
      const int to = min(columns.at + (columns.count - 1) * columns.every, h.W + h.tail - 1);
      int first = max(rows.at, -h.top), last = min(rows.at + (rows.count - 1) * rows.every, h.H - 1);
      const int steps = now.c - h.left;  // c' = steps − slope·(r' + top)
      if (h.slope == 0) {
        if (steps < from || steps > to) last = first - 1;
      } else {
        const int most = steps - from, least = steps - to;  // of slope·(r' + top)
        last = most < 0 ? first - 1 : min(last, most / h.slope - h.top);
        if (least > 0) first = max(first, (least + h.slope - 1) / h.slope - h.top);
      }
      u = first, v = now.c;
      count = max(0, last - first + 1);
    }
  }

  // Of number p; u = −1 where it is not due.
  __device__ __forceinline__ SamplePosition at(const ProgramHeader& h, const ProgramAxis& rows,
                                               const ProgramAxis& columns, int p) const {
    if (clock == SampleClock::kRow) return {u, p};
    if (clock == SampleClock::kPixel) return {u, v};
    const SamplePosition due = {index_of(rows, u + p), index_of(columns, v - h.slope * (u + p + h.top) - h.left)};
    return due.v < 0 ? SamplePosition{-1, -1} : due;
  }
};

// One row of an instruction's matrix: a position of an image.
struct SampleRow {
  int u, v, image;  // u = −1: none

  __device__ __forceinline__ bool due() const { return u >= 0; }
};

// ---- what threads read to find their way; the records lie in shared memory where they fit

struct SampleContext {
  const ProgramHeader* header;
  const int32_t *hot, *words;  // the records, and all of them in global memory
  const float* constants;
  const uint32_t* packed;
  float *state, *scratch, *scores;
  int n;  // images of the chunk

  template <typename T>
  __device__ __forceinline__ const T* records(int at) const {
    return reinterpret_cast<const T*>(hot + at);
  }
  __device__ __forceinline__ const ProgramRef& ref(int at) const { return records<ProgramRef>(header->refs)[at]; }
  __device__ __forceinline__ const ProgramBuffer& buffer(int at) const {
    return records<ProgramBuffer>(header->buffers)[at];
  }

  // Where `r` lies for one image. Rows outside of the map are the row of zeros.
  __device__ __forceinline__ float* address(const ProgramRef& r, int u, int v, int image) const {
    const ProgramBuffer& b = buffer(r.buffer);
    const int row = u * r.row_step + r.row, column = v * r.column_step + r.column;
    const int slot = row < 0 || row >= b.rows ? b.keep : b.keep == 1 ? 0 : row % b.keep;
    const int place = b.ring == 0 ? b.left + column : column < 0 || column >= b.columns ? b.ring : column % b.ring;
    return state + b.base + int64_t(slot * b.width + place) * b.position_stride + int64_t(image) * b.image_stride +
           r.channel;
  }
  __device__ __forceinline__ float* address(const ProgramRef& r, const SampleRow& row) const {
    return address(r, row.u, row.v, row.image);
  }

  __device__ __forceinline__ SampleRow row(const ProgramInstruction& i, const SamplePositions& positions, int m) const {
    if (m >= positions.count * n) return {-1, -1, 0};
    const int p = positions.count == 1 ? 0 : m / n;
    const SamplePosition at = positions.at(*header, i.rows, i.columns, p);
    return {at.u, at.v, m - p * n};
  }
};

}  // namespace fastgen
