// A sampling plan, decoded: the codes of Plan.encode (fastgen/sampling/plan.py), checked so that no address that they
// lead to lies outside of its buffer. What it is executed by, and on which machine, it does not know. No torch headers.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "checked.h"
#include "sample_ops.h"

namespace fastgen {

constexpr int64_t kLimit = int64_t(1) << 31;        // of every size and position
constexpr int64_t kMaxChannels = int64_t(1) << 24;  // that steps may leave of a pixel: a block of them lies in memory

struct PlanRef {
  int64_t buffer, channel, channels, row, column, row_step, column_step;
};

struct PlanAxis {
  int64_t count, every, at;

  int64_t index(int64_t t) const {  // −1: not due at t
    if (t < at) return -1;
    const int64_t i = every == 1 ? t - at : (t - at) % every ? -1 : (t - at) / every;
    return i < count ? i : -1;
  }
};

enum class PlanKind : int64_t { kImage, kMap, kConstant, kGiven };
enum class SamplePrecision : int64_t { kFloat32, kBfloat16, kFloat16, kCount };  // PRECISIONS of plan.py

// A map, and what lies outside of it and is read nevertheless, as zeros: columns left and right, and rows. Buffers of
// the kinds constant and given keep all rows.
struct PlanBuffer {
  PlanKind kind;
  int64_t rows, columns, channels, keep, data;
  int64_t left = 0, right = 0;
  bool zero_row = false;
  bool attended = false;  // its positions are read as keys or values: all of an image's lie together
};

struct PlanStep {
  SampleOp op;
  int64_t function, parameters;  // −1: none
  bool has_operand;
  PlanRef operand;
  int64_t vector;
};

// See Attend of plan.py. Query i reads the runs [starts[i], starts[i + 1]), two numbers each.
struct PlanAttend {
  int64_t heads;  // 0: none
  PlanRef keys, values;
  int64_t parameters, bias_heads, bias, queries, key_count;
  const int64_t *starts, *runs;  // in the codes
};

struct PlanInstruction {
  bool pixel_clock;
  int64_t color;
  PlanAxis rows, columns;
  PlanRef out;
  int64_t K, O, weight, bias;
  PlanAttend attend;
  std::vector<PlanRef> sources;
  std::vector<PlanStep> steps;
  int64_t scratch = 0;  // the most channels on the way

  bool product() const { return O > 0; }
};

inline void plan_check(bool ok, const char* message) {
  if (!ok) throw std::runtime_error(std::string("plan: ") + message);
}

// The product, which stays far from overflow even times the images of a batch.
inline int64_t plan_volume(int64_t a, int64_t b, int64_t c = 1) {
  plan_check(double(a) * double(b) * double(c) < 1e12, "expected sizes that fit in memory");
  return a * b * c;
}

class SamplePlan {
 public:
  int64_t C, H, W, slope;     // slope −1: raster
  int64_t tail, left, top;    // columns and rows that the walk goes on, and begins, outside of the image
  SamplePrecision precision;  // of what products of maps multiply, see `rounds`
  int64_t P = 0;
  const float* constants;
  std::vector<PlanBuffer> buffers;
  std::vector<PlanRef> params;
  std::vector<PlanInstruction> instructions;

  SamplePlan(const int64_t* codes, int64_t size, const float* constants, int64_t constants_size)
      : constants(constants), next_(codes), end_(codes + size), constants_size_(constants_size) {
    C = positive(), H = positive(), W = positive(), slope = read(), tail = read(), left = read(), top = read();
    for (const int64_t value : {slope + 1, tail, left, top})
      plan_check(value >= 0 && value < kLimit, "expected a slope and a walk beyond the image");
    const int64_t code = read();
    plan_check(code >= 0 && code < int64_t(SamplePrecision::kCount), "expected a precision");
    precision = SamplePrecision(code);
    for (int64_t left = count(); left > 0; --left) buffers.push_back(buffer());
    plan_check(!buffers.empty() && buffers[0].kind == PlanKind::kImage && buffers[0].rows == H &&
                   buffers[0].columns == W && buffers[0].channels % C == 0,
               "expected buffer 0 to be the image");
    for (int64_t left = count(); left > 0; --left) params.push_back(ref());
    plan_check(int64_t(params.size()) == C, "expected parameters of every colour");
    for (const PlanRef& param : params) {
      reserve(param, {H, 1, 0}, {W, 1, 0});
      P += param.channels;
    }
    for (int64_t left = count(); left > 0; --left) instruction();
    plan_check(next_ == end_, "expected no more codes");
    for (const PlanBuffer& b : buffers)
      plan_check(!b.attended || (b.left == 0 && b.right == 0 && !b.zero_row), "expected keys that lie inside of a map");
    ticks();  // throws where they cannot be counted
  }

  int64_t constants_size() const { return constants_size_; }

  // What inputs and weights of a product are rounded to.
  SamplePrecision rounds(const PlanInstruction& i) const {
    bool maps = i.K > 0;
    for (const PlanRef& source : i.sources) maps &= buffers[size_t(source.buffer)].kind == PlanKind::kMap;
    return maps ? precision : SamplePrecision::kFloat32;
  }

  int64_t inputs() const { return buffers[0].channels / C; }  // channels in which the model reads one colour

  int64_t ticks() const {
    return slope < 0 ? top + H : checked_add(left + W + tail, checked_multiply(slope, top + H - 1));
  }

 private:
  const int64_t *next_, *end_;
  int64_t constants_size_;

  int64_t read() {
    plan_check(next_ < end_, "expected more codes");
    return *next_++;
  }
  int64_t positive() {
    const int64_t value = read();
    plan_check(value > 0 && value < kLimit, "expected a positive size");
    return value;
  }
  int64_t count() {
    const int64_t value = read();
    plan_check(value >= 0 && value <= end_ - next_, "expected a count");
    return value;
  }
  int64_t constant(int64_t size) {  // an offset, or −1
    const int64_t offset = read();
    plan_check(offset == -1 || (offset >= 0 && offset <= constants_size_ - size), "expected a constant");
    return offset;
  }

  PlanBuffer buffer() {
    const int64_t kind = read();
    plan_check(kind >= 0 && kind <= int64_t(PlanKind::kGiven), "expected a kind of buffer");
    PlanBuffer b{PlanKind(kind), positive(), positive(), positive(), positive(), -1};
    b.data = constant(plan_volume(b.rows, b.columns, b.channels));
    plan_volume(b.keep + 1, b.columns, b.channels);
    plan_check((b.kind == PlanKind::kConstant) == (b.data >= 0), "expected data of constant buffers");
    if (b.kind == PlanKind::kConstant || b.kind == PlanKind::kGiven) b.keep = b.rows;
    return b;
  }

  PlanRef ref() {
    PlanRef r{read(), read(), read(), read(), read(), read(), read()};
    plan_check(r.buffer >= 0 && r.buffer < int64_t(buffers.size()), "expected a buffer");
    plan_check(r.channel >= 0 && r.channels > 0 && r.channels <= buffers[size_t(r.buffer)].channels - r.channel,
               "expected channels of the buffer");
    for (const int64_t value : {r.row, r.column, r.row_step, r.column_step})
      plan_check(value > -kLimit && value < kLimit, "expected a position");
    return r;
  }

  PlanAxis axis() {
    const PlanAxis a{positive(), positive(), read()};
    plan_check(a.at > -kLimit && a.at < kLimit, "expected a time");
    return a;
  }

  // Margins that hold every column that `r` reads, and a row of zeros where it reads rows outside of the map.
  void reserve(const PlanRef& r, const PlanAxis& rows, const PlanAxis& columns) {
    PlanBuffer& b = buffers[size_t(r.buffer)];
    for (const int64_t u : {int64_t(0), rows.count - 1}) {
      const int64_t row = u * r.row_step + r.row;
      b.zero_row |= row < 0 || row >= b.rows;
    }
    for (const int64_t v : {int64_t(0), columns.count - 1}) {
      const int64_t column = v * r.column_step + r.column;
      b.left = std::max(b.left, -column);
      b.right = std::max(b.right, column - b.columns + 1);
    }
    plan_volume(b.keep + 1, checked_add(checked_add(b.left, b.columns), b.right), b.channels);
  }

  void check_inside(const PlanRef& r, const PlanAxis& rows, const PlanAxis& columns) {
    const PlanBuffer& b = buffers[size_t(r.buffer)];
    plan_check(b.kind == PlanKind::kMap, "expected to write a map");
    plan_check((rows.count == 1 || r.row_step != 0) && (columns.count == 1 || r.column_step != 0),
               "expected to write every place once");
    for (const bool last : {false, true}) {
      const int64_t row = (last ? rows.count - 1 : 0) * r.row_step + r.row;
      const int64_t column = (last ? columns.count - 1 : 0) * r.column_step + r.column;
      plan_check(row >= 0 && row < b.rows && column >= 0 && column < b.columns, "expected to write inside of a map");
    }
  }

  void instruction() {
    PlanInstruction i{};
    const int64_t clock = read();
    plan_check(clock == 0 || clock == 1, "expected a clock");
    i.pixel_clock = clock == 1;
    i.color = read();
    plan_check(i.color >= 0 && i.color < C, "expected a colour");
    i.rows = axis(), i.columns = axis(), i.out = ref();
    i.K = read(), i.O = read();
    plan_check(i.K >= 0 && i.O >= 0 && i.K < kLimit && i.O < kLimit, "expected a weight's size");
    i.weight = constant(plan_volume(i.K, i.O)), i.bias = constant(i.O);
    attend(i);
    int64_t K = 0;
    for (int64_t left = count(); left > 0; --left) {
      i.sources.push_back(ref());
      reserve(i.sources.back(), i.rows, i.columns);
      K += i.sources.back().channels;
    }
    if (i.product())
      plan_check(K == i.K && (K == 0 || i.weight >= 0), "expected sources of the weight's size");
    else
      plan_check(i.sources.size() == 1 && i.bias < 0, "expected one source");
    int64_t channels = i.product() ? i.O : K;
    if (i.attend.heads) {
      plan_check(!i.product() && K == i.attend.keys.channels, "expected a query of the keys' channels");
      channels = i.attend.values.channels;
    }
    i.scratch = channels;
    for (int64_t left = count(); left > 0; --left) {
      i.steps.push_back(step(i, channels));
      channels = channels_after(i.steps.back().op, channels);
      plan_check(channels <= kMaxChannels, "expected fewer channels");
      i.scratch = std::max(i.scratch, channels);
    }
    plan_check(channels == i.out.channels, "expected the output's channels");
    check_inside(i.out, i.rows, i.columns);
    instructions.push_back(i);
  }

  PlanRef positions(int64_t heads) {
    const PlanRef r = ref();
    PlanBuffer& b = buffers[size_t(r.buffer)];
    plan_check(b.kind == PlanKind::kMap && b.keep == b.rows, "expected keys and values in a map that keeps all rows");
    plan_check(r.channels % heads == 0, "expected equal heads");
    b.attended = true;
    return r;
  }

  void attend(PlanInstruction& i) {
    PlanAttend& a = i.attend;
    a.heads = read();
    plan_check(a.heads >= 0 && a.heads < kLimit, "expected heads");
    if (a.heads == 0) return;
    a.keys = positions(a.heads), a.values = positions(a.heads);
    const PlanBuffer &k = buffers[size_t(a.keys.buffer)], &v = buffers[size_t(a.values.buffer)];
    plan_check(k.rows == v.rows && k.columns == v.columns, "expected a value for each key");
    a.key_count = plan_volume(k.rows, k.columns);
    a.parameters = constant(2);
    plan_check(a.parameters >= 0, "expected a scale and a floor");
    a.bias_heads = read();
    plan_check(a.bias_heads == 0 || a.bias_heads == 1 || a.bias_heads == a.heads, "expected a bias of the heads");
    const int64_t queries = plan_volume(i.rows.count, i.columns.count);
    a.bias = constant(plan_volume(a.bias_heads, queries, a.key_count));
    plan_check((a.bias_heads > 0) == (a.bias >= 0), "expected a bias or none");
    a.queries = read();
    plan_check(a.queries == queries, "expected keys of each query");
    const int64_t runs = read();
    plan_check(runs >= 0 && runs <= (end_ - next_) / 2 && queries < end_ - next_ - 2 * runs, "expected runs of keys");
    a.starts = next_;
    a.runs = next_ += queries + 1;
    next_ += 2 * runs;
    plan_check(a.starts[0] == 0 && a.starts[queries] == runs, "expected runs of keys");
    for (int64_t q = 0; q < queries; ++q) plan_check(a.starts[q] <= a.starts[q + 1], "expected runs of keys");
    for (int64_t r = 0; r < runs; ++r)
      plan_check(0 <= a.runs[2 * r] && a.runs[2 * r] < a.runs[2 * r + 1] && a.runs[2 * r + 1] <= a.key_count,
                 "expected runs of keys");
  }

  PlanStep step(const PlanInstruction& i, int64_t channels) {
    const int64_t op = read(), function = read();
    plan_check(op >= 0 && op < int64_t(SampleOp::kCount), "expected a step");
    plan_check(
        function == -1 || (function >= 0 && is_unary(SampleOp(function)) && !parameter_count(SampleOp(function))),
        "expected a function without parameters");
    PlanStep s{SampleOp(op), function, constant(parameter_count(SampleOp(op))), false, {}, -1};
    const int64_t has_operand = read();
    plan_check(has_operand == 0 || has_operand == 1, "expected an operand or none");
    s.has_operand = has_operand == 1;
    if (s.has_operand) {
      s.operand = ref();
      reserve(s.operand, i.rows, i.columns);
    } else {
      for (int field = 0; field < 7; ++field) read();
    }
    s.vector = constant(channels);
    if (is_binary(s.op)) {
      plan_check(s.has_operand ? s.operand.channels == channels : s.vector >= 0, "expected an operand of each channel");
    } else {
      plan_check(!s.has_operand, "expected no operand");
      plan_check((parameter_count(s.op) > 0) == (s.parameters >= 0), "expected the step's parameters");
      plan_check(s.op != SampleOp::kGate || channels % 2 == 0, "expected an even number of channels at a gate");
      if (s.op == SampleOp::kNorm) {
        const float groups = constants[s.parameters];
        plan_check(groups >= 1 && groups <= float(channels) && channels % int64_t(groups) == 0,
                   "expected equal groups");
      }
    }
    return s;
  }
};

}  // namespace fastgen
