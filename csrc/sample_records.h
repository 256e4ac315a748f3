// What a GPU reads of a sampling plan: records of 32-bit numbers, one after the other. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

// ---- the shape of a product's tile: what one warp sums at once

constexpr int kTileOutputs = 16, kTileRows = 8;  // of m16n8: weights are its larger operand, images and pixels its rows
constexpr int kSampleWarps = 8;                  // of a block
constexpr int kSampleParts = kSampleWarps;       // of a product's sum, added in order: whoever sums them, the same bits
constexpr int kFloatStep = 4, kPairStep = 16;    // numbers of a row that one step of a sum takes
constexpr int kPairWords = 128;                  // of the weights of a step that rounds

// ---- the records

struct ProgramAxis {
  int32_t count, every, at;
};

// `base`, in floats of the state; strides in floats. ring: columns that are kept, 0 for all, between `left` zeros and
// others.
struct ProgramBuffer {
  int32_t base, rows, columns, keep, ring, left, width, position_stride, image_stride;
};

// Rows and columns of a map whose numbers are known beforehand: `constant` its place among the constants, or −1 and
// `given` the number of what comes with each batch.
struct ProgramFill {
  int32_t buffer, channels, constant, given;
};

struct ProgramRef {
  int32_t buffer, channel, channels, row, column, row_step, column_step;
};

struct ProgramStep {
  int32_t op, function, parameters, operand, vector;  // −1: none; operand: a ref
};

// A run of `steps` steps of a sum along one source, from its channel `first`; `packed`: which step of the weights.
struct ProgramSegment {
  int32_t source, first, steps, packed;
};

struct ProgramAttend {
  int32_t heads, dk, dv, keys, values, parameters, bias, bias_stride, key_count, starts, runs;
  int32_t scores;  // the most keys of a query
};

struct ProgramInstruction {
  ProgramAxis rows, columns;
  int32_t waits;                  // whether it reads or writes what an earlier one of its turn wrote or read
  int32_t out, source, channels;  // refs; channels before the first step
  int32_t outputs, tiles, sum_steps, rounds, gate, weight, bias;  // rounds: to that SamplePrecision
  int32_t segments, parts[kSampleParts + 1];                      // the first segment of each part, from `segments`
  int32_t steps, step_count, direct;  // direct: what comes out needs no row of memory on its way
  ProgramAttend attend;
};

struct ProgramHeader {
  int32_t magic, constants, packed, rounds, words,
      hot;  // kProgramMagic; of all records, and of those before the keys' runs
  int32_t C, H, W, slope, tail, left, top, P, inputs, images;
  int32_t buffers, buffer_count, refs, params, segments, steps, instructions, turns, fills, fill_count;  // in words
  int32_t state, scratch, scratch_channels, largest_scores;  // floats: of a chunk's state, and of one row of scratch
  int32_t scratch_rows, waits;                               // waits of a pixel's turns, within them
};

constexpr int kArrivalsApart = 32;  // words from the counter of a team to the next: lines of their own
constexpr int32_t kProgramMagic = 0x66617374;
constexpr int kProgramWords = 10496;  // so many are read from shared memory

// Floats of a team's memory: its chunk's maps, rows on their way, and of each block the scores of one query.
FG_HD int64_t sample_team_state(const ProgramHeader& header, int64_t blocks) {
  return (int64_t(header.state) + header.scratch + blocks * header.largest_scores + 15) / 16 * 16;
}

template <typename T>
constexpr int kWordsOf = int(sizeof(T) / sizeof(int32_t));

}  // namespace fastgen
