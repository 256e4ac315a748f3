// A sampling plan as a GPU reads it, made once on the host from a plan that was checked and its layout. Where anything
// lies is said here, so that a kernel follows and decides nothing. No torch headers.
#pragma once

#include <cstring>

#include "half.h"
#include "sample_layout.h"
#include "sample_records.h"

namespace fastgen {

// Builds the records of a plan for chunks of `images` images.
class SampleProgram {
 public:
  std::vector<int32_t> words;
  int64_t packed_size = 0;  // in words of 32 bits

  SampleProgram(const SamplePlan& plan, const SampleLayout& layout, int64_t images)
      : plan_(plan), layout_(layout), images_(images) {
    plan_check(images > 0 && images < kLimit, "expected images");
    header_ = {};
    header_.magic = kProgramMagic;
    header_.constants = narrow(plan.constants_size()), header_.rounds = int32_t(plan.precision);
    header_.C = narrow(plan.C), header_.H = narrow(plan.H), header_.W = narrow(plan.W);
    header_.slope = narrow(plan.slope), header_.tail = narrow(plan.tail);
    header_.left = narrow(plan.left), header_.top = narrow(plan.top);
    header_.P = narrow(plan.P), header_.inputs = narrow(plan.inputs()), header_.images = narrow(images);
    header_.state = narrow(layout.state_size(images));
    add_buffers();
    for (const PlanRef& param : plan.params) add_ref(param, {plan.H, 1, 0}, {plan.W, 1, 0});  // the first refs
    order();
    for (const PlanInstruction* i : turns_) add(*i);
    emit();
  }

  const ProgramHeader& header() const { return header_; }

  // Weights in the order in which lanes read them, a tile's steps one after the other, zeros where a source ends
  // within a step. float: (16 outputs, 4 numbers of the row); rounded: the fragments of m16n8k16, 8 numbers a lane.
  void pack(uint32_t* packed) const {
    for (size_t at = 0; at < turns_.size(); ++at) {
      const PlanInstruction& plan = *turns_[at];
      const ProgramInstruction& i = instructions_[at];
      uint32_t* to = packed + i.weight;
      for (int64_t tile = 0; tile < i.tiles; ++tile) {
        int64_t k = 0;
        for (const PlanRef& source : plan.sources) {
          const int64_t step = i.rounds ? kPairStep : kFloatStep;
          for (int64_t first = 0; first < source.channels; first += step) {
            const auto weight = [&](int64_t row, int64_t j) {
              const int64_t output = output_of(i, tile, row);
              return output < 0 || first + j >= source.channels
                         ? 0.0f
                         : plan_.constants[plan.weight + (k + first + j) * plan.O + output];
            };
            to = i.rounds ? pack_pairs(weight, to) : pack_floats(weight, to);
          }
          k += source.channels;
        }
      }
    }
  }

 private:
  const SamplePlan& plan_;
  const SampleLayout& layout_;
  const int64_t images_;
  ProgramHeader header_;
  std::vector<ProgramBuffer> buffers_;
  std::vector<ProgramFill> fills_;
  std::vector<ProgramRef> refs_;
  std::vector<ProgramSegment> segments_;
  std::vector<ProgramStep> steps_;
  std::vector<ProgramInstruction> instructions_;
  std::vector<const PlanInstruction*> turns_;  // those of a row first, then those of each colour
  std::vector<int32_t> firsts_;                // of each turn
  std::vector<int32_t> runs_;

  static int32_t narrow(int64_t value) {
    plan_check(value > -kLimit && value < kLimit, "expected sizes that a GPU's program can hold");
    return int32_t(value);
  }

  // Which output row `row` of a tile is; −1: none. A gate's tile has eight of its first half, and their partners.
  static int64_t output_of(const ProgramInstruction& i, int64_t tile, int64_t row) {
    const int64_t half = kTileOutputs / 2;
    const int64_t output = i.gate ? tile * half + row % half : tile * kTileOutputs + row;
    if (output >= (i.gate ? i.outputs / 2 : i.outputs)) return -1;
    return i.gate && row >= half ? i.outputs / 2 + output : output;
  }

  template <typename F>
  static uint32_t* pack_floats(const F& weight, uint32_t* to) {
    for (int row = 0; row < kTileOutputs; ++row)
      for (int j = 0; j < kFloatStep; ++j) *to++ = float_to_bits(weight(row, j));
    return to;
  }

  // A lane reads numbers 4q to 4q + 3 of a row of inputs, q = lane mod 4, so these are its columns of the weights too.
  template <typename F>
  uint32_t* pack_pairs(const F& weight, uint32_t* to) const {
    const auto rounded = [&](int64_t r, int64_t j) -> uint32_t {
      const float number = weight(r, j);
      return plan_.precision == SamplePrecision::kFloat16 ? float_to_float16(number) : float_to_bfloat16(number);
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, first = lane % 4 * 4;
      for (const int j : {first, first + 2})
        for (const int r : {row, row + 8}) *to++ = rounded(r, j) | rounded(r, j + 1) << 16;
    }
    return to;
  }

  void add_buffers() {
    const std::vector<int64_t> offsets = layout_.offsets(images_);
    int32_t given = 0;
    for (size_t b = 0; b < plan_.buffers.size(); ++b) {
      const PlanBuffer& buffer = plan_.buffers[b];
      buffers_.push_back({narrow(offsets[b]), narrow(buffer.rows), narrow(buffer.columns), narrow(buffer.keep),
                          narrow(layout_.ring(b)), narrow(buffer.left), narrow(layout_.width(b)),
                          narrow(layout_.position_stride(b, images_)), narrow(layout_.image_stride(b))});
      if (buffer.kind == PlanKind::kConstant)
        fills_.push_back({int32_t(b), narrow(buffer.channels), narrow(buffer.data), -1});
      if (buffer.kind == PlanKind::kGiven) fills_.push_back({int32_t(b), narrow(buffer.channels), -1, given++});
    }
  }

  // Rows and columns that it reads at `rows` and `columns` are counted in 32 bits.
  int32_t add_ref(const PlanRef& r, const PlanAxis& rows, const PlanAxis& columns) {
    narrow((rows.count - 1) * r.row_step + r.row), narrow((columns.count - 1) * r.column_step + r.column);
    refs_.push_back({narrow(r.buffer), narrow(r.channel), narrow(r.channels), narrow(r.row), narrow(r.column),
                     narrow(r.row_step), narrow(r.column_step)});
    return int32_t(refs_.size()) - 1;
  }

  void order() {
    for (int64_t color = -1; color < plan_.C; ++color) {
      firsts_.push_back(int32_t(turns_.size()));
      for (const PlanInstruction& i : plan_.instructions)
        if (i.pixel_clock ? i.color == color : color < 0) turns_.push_back(&i);
    }
    firsts_.push_back(int32_t(turns_.size()));
  }

  bool starts_turn(size_t at) const { return std::find(firsts_.begin(), firsts_.end(), int32_t(at)) != firsts_.end(); }

  // ---- one instruction

  void add(const PlanInstruction& plan) {
    ProgramInstruction i{};
    i.rows = {narrow(plan.rows.count), narrow(plan.rows.every), narrow(plan.rows.at)};
    i.columns = {narrow(plan.columns.count), narrow(plan.columns.every), narrow(plan.columns.at)};
    i.out = add_ref(plan.out, plan.rows, plan.columns);
    i.source = int32_t(refs_.size());
    for (const PlanRef& source : plan.sources) add_ref(source, plan.rows, plan.columns);
    i.channels = narrow(plan.product()      ? plan.O
                        : plan.attend.heads ? plan.attend.values.channels
                                            : plan.sources[0].channels);
    i.bias = narrow(plan.bias);
    i.steps = int32_t(steps_.size()), i.step_count = narrow(int64_t(plan.steps.size()));
    for (const PlanStep& step : plan.steps)
      steps_.push_back({int32_t(step.op), narrow(step.function), narrow(step.parameters),
                        step.has_operand ? add_ref(step.operand, plan.rows, plan.columns) : -1, narrow(step.vector)});
    i.direct = plan.attend.heads ? plan.steps.empty() : number_by_number(plan);
    i.gate = i.direct && has_gate(plan);
    if (plan.product()) add_product(plan, i);
    if (plan.attend.heads) add_attend(plan.attend, i);
    if (!i.direct) header_.scratch_channels = std::max(header_.scratch_channels, narrow(plan.scratch));
    instructions_.push_back(i);
    instructions_.back().waits = waits(instructions_.size() - 1);
    measure(plan, instructions_.back());
  }

  // Whether a number of the result is of one number before the steps, or of a gate's two: no norm, one gate at most,
  // or one pair of ELUs.
  static bool number_by_number(const PlanInstruction& plan) {
    int pairs = 0;
    for (const PlanStep& step : plan.steps) {
      if (step.op == SampleOp::kNorm) return false;
      pairs += step.op == SampleOp::kGate || step.op == SampleOp::kConcatElu;
    }
    return pairs <= 1;
  }

  static bool has_gate(const PlanInstruction& plan) {
    for (const PlanStep& step : plan.steps)
      if (step.op == SampleOp::kGate) return true;
    return false;
  }

  void add_product(const PlanInstruction& plan, ProgramInstruction& i) {
    i.rounds = int32_t(plan_.rounds(plan));
    i.outputs = narrow(plan.O);
    i.tiles = narrow(ceil_div(i.gate ? plan.O / 2 : plan.O, i.gate ? kTileOutputs / 2 : kTileOutputs));
    const int64_t step = i.rounds ? kPairStep : kFloatStep;
    for (const PlanRef& source : plan.sources) i.sum_steps += narrow(ceil_div(source.channels, step));
    i.segments = int32_t(segments_.size());
    for (int part = 0; part < kSampleParts; ++part) {
      i.parts[part] = int32_t(segments_.size()) - i.segments;
      const int64_t begin = int64_t(i.sum_steps) * part / kSampleParts,
                    end = int64_t(i.sum_steps) * (part + 1) / kSampleParts;
      int64_t at = 0;
      for (size_t s = 0; s < plan.sources.size(); ++s) {
        const int64_t steps = ceil_div(plan.sources[s].channels, step);
        const int64_t from = std::max(begin, at), to = std::min(end, at + steps);
        if (from < to)
          segments_.push_back({i.source + int32_t(s), narrow((from - at) * step), narrow(to - from), narrow(from)});
        at += steps;
      }
    }
    i.parts[kSampleParts] = int32_t(segments_.size()) - i.segments;
    i.weight = narrow(packed_size);
    packed_size = checked_add(packed_size, checked_multiply(checked_multiply(i.tiles, i.sum_steps),
                                                            i.rounds ? kPairWords : kTileOutputs * step));
  }

  void add_attend(const PlanAttend& a, ProgramInstruction& i) {
    const auto place = [&](const PlanRef& r) {
      return add_ref({r.buffer, r.channel, r.channels, 0, 0, 0, 0}, {1, 1, 0}, {1, 1, 0});
    };
    i.attend.heads = narrow(a.heads);
    i.attend.dk = narrow(a.keys.channels / a.heads), i.attend.dv = narrow(a.values.channels / a.heads);
    i.attend.keys = place(a.keys), i.attend.values = place(a.values);
    i.attend.parameters = narrow(a.parameters), i.attend.bias = narrow(a.bias);
    i.attend.bias_stride = narrow(a.bias_heads > 1 ? a.queries * a.key_count : 0);
    i.attend.key_count = narrow(a.key_count);
    i.attend.starts = int32_t(runs_.size());
    runs_.insert(runs_.end(), a.starts, a.starts + a.queries + 1);
    i.attend.runs = int32_t(runs_.size());
    runs_.insert(runs_.end(), a.runs, a.runs + 2 * a.starts[a.queries]);
    for (int64_t q = 0; q < a.queries; ++q) {
      int64_t keys = 0;
      for (int64_t r = a.starts[q]; r < a.starts[q + 1]; ++r) keys += a.runs[2 * r + 1] - a.runs[2 * r];
      i.attend.scores = std::max(i.attend.scores, narrow(keys));
    }
    header_.largest_scores =
        std::max(header_.largest_scores, narrow(i.attend.scores + int64_t(kSampleWarps) * i.attend.dv));
  }

  // ---- order in time

  struct Touch {
    size_t block, buffer;
    int64_t begin, end;  // channels
    bool writes;
  };

  // Everything an instruction reads or writes; what it keeps in scratch is written beyond all buffers.
  std::vector<Touch> touches(size_t at) const {
    const PlanInstruction& plan = *turns_[at];
    std::vector<Touch> found;
    const auto touch = [&](const PlanRef& r, bool writes) {
      const size_t b = size_t(r.buffer);
      found.push_back({layout_.block(b), b, r.channel, r.channel + r.channels, writes});
    };
    for (const PlanRef& source : plan.sources) touch(source, false);
    for (const PlanStep& step : plan.steps)
      if (step.has_operand) touch(step.operand, false);
    if (plan.attend.heads) touch(plan.attend.keys, false), touch(plan.attend.values, false);
    touch(plan.out, true);
    if (!instructions_[at].direct) found.push_back({plan_.buffers.size(), plan_.buffers.size(), 0, 1, true});
    return found;
  }

  // Whether it has to wait for those since the last that waited, within its turn.
  bool waits(size_t at) const {
    for (size_t before = at; before > 0 && !starts_turn(before);) {
      --before;
      for (const Touch& mine : touches(at))
        for (const Touch& other : touches(before))
          if (mine.block == other.block && (mine.writes || other.writes) &&
              (mine.buffer != other.buffer || (mine.begin < other.end && other.begin < mine.end)))
            return true;
      if (instructions_[before].waits) break;
    }
    return false;
  }

  // Rows of an image that a wavefront crosses.
  int64_t front() const { return std::min(plan_.top + plan_.H, (plan_.left + plan_.W + plan_.tail) / plan_.slope + 1); }

  // The most rows that an instruction leaves in memory on their way: of a wavefront, its pixels of all images.
  void measure(const PlanInstruction& plan, const ProgramInstruction& i) {
    const int64_t rows_of_image = !plan.pixel_clock  ? plan.columns.count
                                  : plan_.slope < 0  ? 1
                                  : plan_.slope == 0 ? plan_.top + plan_.H
                                                     : front();
    const int64_t rows = narrow(checked_multiply(rows_of_image, images_));
    if (!i.direct) header_.scratch_rows = std::max(header_.scratch_rows, int32_t(rows));
    const bool between = !i.direct && (plan.product() || plan.attend.heads);  // a product and the steps on its rows
    if (plan.pixel_clock) header_.waits += i.waits + between;
  }

  // ---- the words

  template <typename T>
  int32_t append(const std::vector<T>& records) {
    static_assert(sizeof(T) % sizeof(int32_t) == 0);
    const int32_t at = int32_t(words.size());
    words.resize(words.size() + records.size() * kWordsOf<T>);
    if (!records.empty()) std::memcpy(words.data() + at, records.data(), records.size() * sizeof(T));
    return at;
  }

  void emit() {
    words.assign(kWordsOf<ProgramHeader>, 0);
    header_.params = 0;
    header_.buffer_count = int32_t(buffers_.size());
    header_.buffers = append(buffers_);
    header_.refs = append(refs_);
    header_.segments = append(segments_);
    header_.steps = append(steps_);
    header_.instructions = append(instructions_);
    header_.turns = append(firsts_);
    header_.fill_count = int32_t(fills_.size());
    header_.fills = append(fills_);
    header_.hot = int32_t(words.size());
    const int32_t runs = append(runs_);
    header_.words = narrow(int64_t(words.size()));
    for (size_t at = 0; at < instructions_.size(); ++at)
      if (instructions_[at].attend.heads) {
        instructions_[at].attend.starts += runs;
        instructions_[at].attend.runs += runs;
      }
    std::memcpy(words.data() + header_.instructions, instructions_.data(),
                instructions_.size() * sizeof(ProgramInstruction));
    header_.packed = narrow(packed_size);
    header_.scratch = narrow(checked_multiply(header_.scratch_rows, header_.scratch_channels));
    std::memcpy(words.data(), &header_, sizeof header_);
  }
};

}  // namespace fastgen
