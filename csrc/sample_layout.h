// Where the buffers of a sampling plan lie: rings of rows, rings of columns where nobody looks back further, and one
// place for rows that are never needed at the same time. No torch headers.
#pragma once

#include <map>

#include "sample_plan.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fastgen {

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGuard = 64;  // floats behind every buffer, which AddressSanitizer watches
#else
constexpr int64_t kGuard = 0;
#endif

// Memory of a buffer for n images: (rows, columns, n, channels), or (n, rows, columns, channels) of keys and values.
// Rows are a ring of `keep`, and one of zeros where someone reads rows outside of the map. Columns are all, between
// margins of zeros; or a ring, and one of zeros. A constant map is laid out for one image and read by all.
class SampleLayout {
 public:
  explicit SampleLayout(const SamplePlan& plan)
      : plan_(plan), ring_(plan.buffers.size(), 0), block_(plan.buffers.size(), 0), accesses_(plan.buffers.size()) {
    int64_t at = 0;
    for (const PlanInstruction& i : plan.instructions) {
      for (const PlanRef& source : i.sources) add({source, i.rows, i.columns, i.pixel_clock, false, at});
      for (const PlanStep& step : i.steps)
        if (step.has_operand) add({step.operand, i.rows, i.columns, i.pixel_clock, false, at});
      add({i.out, i.rows, i.columns, i.pixel_clock, true, at++});
    }
    for (const PlanRef& param : plan.params) add({param, {plan.H, 1, 0}, {plan.W, 1, 0}, true, false, at});
    for (size_t b = 0; b < ring_.size(); ++b) ring_[b] = ring_of(b);
    place();
  }

  int64_t state_size(int64_t n) const {
    int64_t size = 0;
    for (const int64_t block : block_sizes(n)) size = checked_add(size, block);
    return size;
  }

  // Where in the state each buffer begins.
  std::vector<int64_t> offsets(int64_t n) const {
    std::vector<int64_t> blocks, offsets;
    int64_t at = 0;
    for (const int64_t size : block_sizes(n)) {
      blocks.push_back(at);
      at += size;
    }
    for (const size_t block : block_) offsets.push_back(blocks[block]);
    return offsets;
  }

  std::vector<float*> addresses(float* state, int64_t n) const {
    std::vector<float*> addresses;
    for (const int64_t offset : offsets(n)) addresses.push_back(state + offset);
    return addresses;
  }

  // Everything zero; the guards behind the buffers are out of bounds from now on.
  void clear(float* state, int64_t n) const {
    for (const int64_t size : block_sizes(n)) {
      std::fill_n(state, size - kGuard, 0.0f);
      state += size;
#if defined(__SANITIZE_ADDRESS__)
      ASAN_POISON_MEMORY_REGION(state - kGuard, kGuard * sizeof(float));
#endif
    }
  }

  size_t block(size_t b) const { return block_[b]; }  // buffers of one block take turns
  int64_t ring(size_t b) const { return ring_[b]; }   // columns that are kept; 0: all of them

  // In columns of the buffer's memory: how many there are, and where column c of the map lies.
  int64_t width(size_t b) const {
    const PlanBuffer& buffer = plan_.buffers[b];
    return ring_[b] ? ring_[b] + 1 : buffer.left + buffer.columns + buffer.right;
  }
  int64_t column(size_t b, int64_t c) const {
    if (!ring_[b]) return plan_.buffers[b].left + c;
    return c < 0 || c >= plan_.buffers[b].columns ? ring_[b] : c % ring_[b];
  }
  int64_t images(size_t b, int64_t n) const { return plan_.buffers[b].kind == PlanKind::kConstant ? 1 : n; }

  // In floats, from a position to the next, and from an image to the next.
  int64_t position_stride(size_t b, int64_t n) const {
    const PlanBuffer& buffer = plan_.buffers[b];
    return buffer.attended ? buffer.channels : images(b, n) * buffer.channels;
  }
  int64_t image_stride(size_t b) const {
    const PlanBuffer& buffer = plan_.buffers[b];
    if (buffer.kind == PlanKind::kConstant) return 0;
    return buffer.attended ? buffer.keep * width(b) * buffer.channels : buffer.channels;
  }

 private:
  struct Access {
    PlanRef ref;
    PlanAxis rows, columns;
    bool pixel_clock, write;
    int64_t instruction;

    // At step t it reaches row (t + row_phase) / every, and likewise for columns.
    int64_t row_phase() const { return phase(ref.row, rows); }
    int64_t column_phase() const { return phase(ref.column, columns); }
    static int64_t phase(int64_t position, const PlanAxis& axis) {
      return checked_subtract(checked_multiply(position, axis.every), axis.at);
    }
  };

  void add(const Access& access) { accesses_[size_t(access.ref.buffer)].push_back(access); }

  // Whether whatever is read of the buffer was written in the same row of the raster walk.
  bool within_row(size_t b) const {
    if (plan_.slope >= 0 || !one_pace(b)) return false;
    for (const Access& a : accesses_[b])
      if (a.row_phase() != accesses_[b][0].row_phase()) return false;
    return true;
  }

  // Whether all accesses go down its rows one by one and equally often.
  bool one_pace(size_t b) const {
    const std::vector<Access>& accesses = accesses_[b];
    if (plan_.buffers[b].kind != PlanKind::kMap || plan_.buffers[b].attended || accesses.empty()) return false;
    for (const Access& a : accesses)
      if (a.ref.row_step != 1 || a.rows.every != accesses[0].rows.every) return false;
    return true;
  }

  // Columns from the newest back to the oldest that is read, if only pixels read and write; 0: keep them all. On a
  // wavefront a row is slope columns ahead of the row below it.
  int64_t ring_of(size_t b) const {
    if (plan_.slope < 0 ? !within_row(b) : !one_pace(b)) return 0;
    const std::vector<Access>& accesses = accesses_[b];
    const int64_t every = accesses[0].columns.every, slope = std::max<int64_t>(0, plan_.slope);
    int64_t newest = INT64_MIN, oldest = INT64_MAX;
    bool ahead = false;  // something is read that is not written yet
    for (const bool write : {true, false})
      for (const Access& a : accesses) {
        if (a.write != write) continue;
        if (!a.pixel_clock || a.ref.column_step != 1 || a.columns.every != every) return 0;
        const int64_t phase = checked_add(a.column_phase(), checked_multiply(slope, a.row_phase()));
        if (write)
          newest = std::max(newest, phase);
        else
          oldest = std::min(oldest, phase);
        ahead |= !write && phase > newest;
      }
    if (ahead || newest == INT64_MIN || oldest == INT64_MAX) return 0;
    const int64_t ring = checked_subtract(newest, oldest) / every + 1;
    return ring + 1 < plan_.buffers[b].columns ? ring : 0;
  }

  // Rows that are written and read for the last time within the row instructions of one row, zeros around them
  // excluded, share a block with others whose turn is over before theirs begins.
  void place() {
    std::map<int64_t, std::vector<size_t>> starting;  // by the instruction that writes first
    for (size_t b = 0; b < block_.size(); ++b) {
      if (temporary(b))
        starting[first_use(b)].push_back(b);
      else
        new_block(b);
    }
    std::vector<std::pair<size_t, int64_t>> shared;  // block, the instruction after which it is free
    for (const auto& [start, temporaries] : starting)
      for (const size_t b : temporaries) {
        auto free =
            std::find_if(shared.begin(), shared.end(), [&, start = start](auto& s) { return s.second < start; });
        if (free == shared.end()) {
          new_block(b);
          shared.push_back({block_[b], last_use(b)});
        } else {
          block_[b] = free->first;
          blocks_[free->first].push_back(b);
          free->second = last_use(b);
        }
      }
  }

  bool temporary(size_t b) const {
    const PlanBuffer& buffer = plan_.buffers[b];
    if (!within_row(b) || buffer.left || buffer.right || buffer.zero_row) return false;
    for (const Access& a : accesses_[b]) {
      if (a.pixel_clock) return false;
      if (a.write && (a.ref.column_step != 1 || a.columns.count != buffer.columns)) return false;
    }
    return accesses_[b][0].write;  // nothing is read that was not written before
  }
  int64_t first_use(size_t b) const { return accesses_[b].front().instruction; }
  int64_t last_use(size_t b) const { return accesses_[b].back().instruction; }

  void new_block(size_t b) {
    block_[b] = blocks_.size();
    blocks_.push_back({b});
  }

  std::vector<int64_t> block_sizes(int64_t n) const {  // in floats, whole cache lines
    std::vector<int64_t> sizes;
    for (const std::vector<size_t>& members : blocks_) {
      int64_t size = 0;
      for (const size_t b : members) {
        const PlanBuffer& buffer = plan_.buffers[b];
        const int64_t pixels =
            checked_multiply(checked_multiply(buffer.keep + buffer.zero_row, width(b)), images(b, n));
        size = std::max(size, checked_multiply(pixels, buffer.channels));
      }
      sizes.push_back(checked_add(checked_multiply(ceil_div(size, 16), 16), kGuard));
    }
    return sizes;
  }

  const SamplePlan& plan_;
  std::vector<int64_t> ring_;
  std::vector<size_t> block_;
  std::vector<std::vector<size_t>> blocks_;  // buffers that lie there
  std::vector<std::vector<Access>> accesses_;
};

// One address for each position, and the step from image to image.
struct SampleOperand {
  std::vector<float*> at;
  int64_t image_stride = 0, channels = 0;

  float* row(int64_t position, int64_t image) const { return at[size_t(position)] + image * image_stride; }
  bool ends_where(const SampleOperand& next) const {  // `next` begins, so that both are one run
    for (size_t p = 0; p < at.size(); ++p)
      if (at[p] + channels != next.at[p]) return false;
    return image_stride == next.image_stride;
  }
};

}  // namespace fastgen
