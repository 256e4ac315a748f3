// sample: executes a sampling plan on the GPU, from the uniforms to the values, one launch for any number of rows.
// Layout   a chunk's maps as sample_layout.h has them, beside those of other chunks; records from shared memory
// Launch   a team of blocks for each chunk; alone, a block needs no barrier but its own; else all blocks run at once
//          (a cooperative launch), and a team waits at a counter in memory wherever an instruction has to
// Traffic  the weights of an instruction once for each team and eight images; from the L2 cache, as a rule
// Numerics an image's bits depend on no other image, nor on how many blocks a team has
// No torch headers.
#pragma once

#include "sample_attend_cuda.cuh"
#include "sample_draws_cuda.cuh"
#include "sample_products_cuda.cuh"

namespace fastgen {

// The walk of a team; see SampleChunk of sample.h, which walks so on a CPU.
template <typename T, bool kAlone>
struct SampleWalk {
  const SampleArguments& a;
  const SampleContext& s;
  SampleTeam<kAlone>& team;
  bool busy = false;  // whether anything was done since the team last waited

  __device__ SampleWalk(const SampleArguments& a, const SampleContext& s, SampleTeam<kAlone>& team)
      : a(a), s(s), team(team) {}

  // A row is its own turn, then pixel by pixel those of each colour; a wavefront has those of each colour.
  __device__ __forceinline__ void run() {
    const ProgramHeader& h = *s.header;
    if (a.first == 0) start();
    const bool raster = h.slope < 0;
    const int turns = raster ? 1 + (h.left + h.W + h.tail) * h.C : h.C;
    for (int t = int(a.first); t < int(a.last); ++t)
      for (int at = 0; at < turns; ++at) {
        const SampleClock clock = !raster ? SampleClock::kFront : at ? SampleClock::kPixel : SampleClock::kRow;
        const int k = !raster ? at : at ? (at - 1) % h.C : -1;
        const SampleMoment now = {clock, t - h.top, raster ? (at - 1) / h.C - h.left : t};
        turn(k, now);
        if (k >= 0) draw(k, now);
      }
  }

  __device__ __forceinline__ void wait() {
    if (busy) team.sync();
    busy = false;
  }

  // Everything zero, and the maps that are known beforehand.
  __device__ __forceinline__ void start() {
    const ProgramHeader& h = *s.header;
    for (int64_t at = team.thread(); at < h.state; at += team.threads()) s.state[at] = 0.0f;
    team.sync();
    for (int f = 0; f < h.fill_count; ++f) {
      const ProgramFill& fill = s.records<ProgramFill>(h.fills)[f];
      const ProgramBuffer& b = s.buffer(fill.buffer);
      const int size = b.rows * b.columns * fill.channels, images = fill.given < 0 ? 1 : s.n;
      const float* data =
          fill.given < 0 ? s.constants + fill.constant : a.given[fill.given] + int64_t(team.index) * h.images * size;
      for (int64_t at = team.thread(); at < int64_t(images) * size; at += team.threads()) {
        const int image = int(at / size), place = int(at % size) / fill.channels, channel = int(at % fill.channels);
        *s.address({fill.buffer, channel, 1, 0, 0, 1, 1}, place / b.columns, place % b.columns, image) = data[at];
      }
    }
    busy = true;
  }

  // What is due at one moment: instructions of colour k, or with k = −1 those of a row.
  __device__ __forceinline__ void turn(int k, const SampleMoment& now) {
    const int32_t* firsts = s.hot + s.header->turns + k + 1;
    const ProgramInstruction* instructions = s.records<ProgramInstruction>(s.header->instructions);
    wait();
    for (int at = firsts[0]; at < firsts[1]; ++at) {
      const ProgramInstruction& i = instructions[at];
      if (i.waits) wait();
      const SamplePositions positions(*s.header, i.rows, i.columns, now);
      if (positions.count == 0) continue;
      const bool load = !i.outputs && !i.attend.heads;
      busy = true;
      if (i.outputs) product<T>(team, s, i, positions);
      if (i.attend.heads) attention(team, s, i, positions);
      if (load || !i.direct) {
        if (!load) wait();
        finish_rows(team, s, i, positions, load);
        busy = true;
      }
    }
  }

  __device__ __forceinline__ void draw(int k, const SampleMoment& now) {
    const ProgramHeader& h = *s.header;
    const ProgramAxis rows = {h.H, 1, 0}, columns = {h.W, 1, 0};
    const SamplePositions positions(h, rows, columns, now);
    if (positions.count == 0) return;
    wait();
    for (int m = team.warp(); m < positions.count * s.n; m += team.warps()) {
      const SamplePosition at = positions.at(h, rows, columns, m / s.n);
      if (at.u >= 0) draw_value(a, s, team.index, k, at.u, at.v, m % s.n);
    }
    busy = true;
  }
};

// sample_kernel
// Shapes   SampleArguments
// Launch   grid teams · blocks of a team, block 256; not alone: cooperative
// Ragged   a chunk may have fewer images than the others
template <typename T, bool kAlone>
__global__ void __launch_bounds__(kSampleThreads, 2) sample_kernel(const __grid_constant__ SampleArguments a) {
  __shared__ int32_t records[kProgramWords];
  const ProgramHeader& whole = *reinterpret_cast<const ProgramHeader*>(a.program);
  const bool fits = whole.hot <= kProgramWords;
  if (fits)
    for (int at = int(threadIdx.x); at < whole.hot; at += kSampleThreads) records[at] = a.program[at];
  __shared__ SampleTeam<kAlone> team;
  __shared__ SampleContext s;
  if (threadIdx.x == 0) {
    team.begin(a);
    s.hot = fits ? records : a.program;
    s.words = a.program;
    s.header = reinterpret_cast<const ProgramHeader*>(s.hot);
    s.constants = a.constants;
    s.packed = a.packed;
    s.state = a.state + team.index * sample_team_state(whole, a.blocks);
    s.scratch = s.state + whole.state;
    s.scores = s.scratch + whole.scratch + int64_t(team.rank) * whole.largest_scores;
    s.n = int(min(int64_t(whole.images), a.N - int64_t(team.index) * whole.images));
  }
  __syncthreads();
  SampleWalk<T, kAlone>(a, s, team).run();
}

// T: what the plan rounds to, or float. images: of a team.
template <typename T, typename Launch>
void sample_launch(const Launch& launch, const SampleArguments& a, int64_t images) {
  const int64_t teams = (a.N + images - 1) / images;
  if (a.blocks == 1)
    launch(sample_kernel<T, true>, Grid{teams}, kSampleThreads, a);
  else
    launch.cooperative(sample_kernel<T, false>, Grid{teams * a.blocks}, kSampleThreads, a);
}

}  // namespace fastgen
