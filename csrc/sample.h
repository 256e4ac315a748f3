// sample: executes a sampling plan for some images on one thread, from the uniforms to the values. No torch headers.
// Layout   every buffer (row, column, image, channel): what a pixel of all images needs lies together, and on a row all
//          columns and images are one matrix; rows are rings
// Traffic  the weights of an instruction once for all images of a chunk; the images never leave the executor
#pragma once

#include <cmath>
#include <tuple>

#include "sample_attend_cpu.h"
#include "sample_draws_cpu.h"
#include "sample_layout.h"
#include "sample_products_cpu.h"
#include "sample_steps_cpu.h"

namespace fastgen {

// ---- the walk

class SampleChunk {
 public:
  // Images [first, first + images) of the batch; `state`, layout.state_size(images) floats, lives as long as the walk.
  SampleChunk(const SamplePlan& plan, const SampleProducts& products, const SampleLayout& layout, const float* packed,
              const SampleBatch& batch, float* state, int64_t first, int64_t images)
      : plan_(plan),
        products_(products),
        layout_(layout),
        packed_(packed),
        batch_(batch),
        state_(state),
        memory_(layout.addresses(state, images)),
        first_(first),
        n_(images) {
    int64_t levels = 0;
    for (const PlanRef& param : plan.params) levels = std::max(levels, param.channels);
    numerators_.resize(size_t(levels));
  }

  // Everything zero, and the maps that are known beforehand.
  void start() {
    layout_.clear(state_, n_);
    size_t given = 0;
    for (size_t at = 0; at < memory_.size(); ++at) {
      const PlanBuffer& b = plan_.buffers[at];
      if (b.kind == PlanKind::kConstant) fill(at, plan_.constants + b.data);
      if (b.kind == PlanKind::kGiven) fill(at, batch_.given[given++] + first_ * b.rows * b.columns * b.channels);
    }
  }

  // One step of the walk: a row, or a wavefront. The first row with parameters that are not finite, or −1.
  int64_t step(int64_t t) {
    bad_row_ = -1;
    if (plan_.slope < 0)
      row(t - plan_.top);
    else
      wave(t);
    return bad_row_;
  }

  // What lies between two draws of the raster walk, where somebody else draws: takes `input` (images, C·k), what the
  // model reads of the pixel of draw number `draw` − 1, and leaves in `params` (images, P / C) what draw number `draw`
  // is drawn from.
  void between(int64_t draw, const float* input, float* params) {
    int64_t r = -plan_.top, c = -plan_.left, k = 0;
    if (draw == 0) {
      start();
      begin_row(r);
    } else {
      k = (draw - 1) % plan_.C, c = (draw - 1) / plan_.C % plan_.W, r = (draw - 1) / plan_.C / plan_.W;
      reveal(r, c, input);
      next(r, c, k);
    }
    for (;; next(r, c, k)) {
      tick(r, c, k);
      if (r >= 0 && c >= 0 && c < plan_.W) break;
    }
    const PlanRef& ref = plan_.params[size_t(k)];
    const float* from = address(ref, {r, c});
    for (int64_t image = 0; image < n_; ++image)
      std::copy_n(from + image * image_stride(ref), ref.channels, params + image * ref.channels);
  }

 private:
  struct Position {
    int64_t u, v;
  };

  void fill(size_t at, const float* data) {  // data (images, rows, columns, channels)
    const PlanBuffer& b = plan_.buffers[at];
    const int64_t images = layout_.images(at, n_);
    for (int64_t image = 0; image < images; ++image)
      for (int64_t r = 0; r < b.rows; ++r)
        for (int64_t c = 0; c < b.columns; ++c, data += b.channels)
          std::copy(data, data + b.channels,
                    memory_[at] + ((r * layout_.width(at) + layout_.column(at, c)) * images + image) * b.channels);
  }

  // ---- the walk; it may begin above and left of the image, and end right of it, where nothing is drawn

  void row(int64_t r) {
    begin_row(r);
    for (int64_t c = -plan_.left; c < plan_.W + plan_.tail; ++c)
      for (int64_t k = 0; k < plan_.C; ++k) {
        tick(r, c, k);
        if (r >= 0 && c >= 0 && c < plan_.W) draw(k, r, c);
      }
  }

  void begin_row(int64_t r) {
    for (const PlanInstruction& i : plan_.instructions) {
      const int64_t u = i.pixel_clock ? -1 : i.rows.index(r);
      if (u < 0) continue;
      positions_.clear();
      for (int64_t v = 0; v < i.columns.count; ++v) positions_.push_back({u, v});
      run(i);
    }
  }

  void tick(int64_t r, int64_t c, int64_t k) {
    for (const PlanInstruction& i : plan_.instructions) {
      if (!i.pixel_clock || i.color != k) continue;
      const int64_t u = i.rows.index(r), v = i.columns.index(c);
      if (u < 0 || v < 0) continue;
      positions_.assign(1, {u, v});
      run(i);
    }
  }

  void next(int64_t& r, int64_t& c, int64_t& k) {
    if (++k < plan_.C) return;
    k = 0;
    if (++c < plan_.W + plan_.tail) return;
    c = -plan_.left;
    begin_row(++r);
  }

  void reveal(int64_t r, int64_t c, const float* input) {
    const int64_t channels = plan_.buffers[0].channels;
    std::copy_n(input, n_ * channels, address({0, 0, channels, 0, 0, 1, 1}, {r, c}));
  }

  void wave(int64_t t) {  // all (r, c) with (c + left) + slope·(r + top) = t
    const int64_t past = t - (plan_.left + plan_.W + plan_.tail) + 1;
    const int64_t first = past <= 0 || plan_.slope == 0 ? 0 : (past + plan_.slope - 1) / plan_.slope;
    const int64_t last = plan_.slope == 0 ? plan_.H + plan_.top : std::min(plan_.H + plan_.top, t / plan_.slope + 1);
    const auto column = [&](int64_t r) { return t - plan_.slope * (r + plan_.top) - plan_.left; };
    for (int64_t k = 0; k < plan_.C; ++k) {
      for (const PlanInstruction& i : plan_.instructions) {
        if (!i.pixel_clock || i.color != k) continue;
        positions_.clear();
        for (int64_t r = first - plan_.top; r < last - plan_.top; ++r) {
          const int64_t u = i.rows.index(r), v = i.columns.index(column(r));
          if (u >= 0 && v >= 0) positions_.push_back({u, v});
        }
        if (!positions_.empty()) run(i);
      }
      for (int64_t r = std::max<int64_t>(0, first - plan_.top); r < last - plan_.top; ++r)
        if (column(r) >= 0 && column(r) < plan_.W) draw(k, r, column(r));
    }
  }

  // ---- addresses

  int64_t image_stride(const PlanRef& ref) const { return layout_.image_stride(size_t(ref.buffer)); }

  // Where `ref` lies for the first image. Rows outside of the map are the row of zeros.
  float* address(const PlanRef& ref, Position p) const {
    const PlanBuffer& b = plan_.buffers[size_t(ref.buffer)];
    const int64_t row = p.u * ref.row_step + ref.row, column = p.v * ref.column_step + ref.column;
    const int64_t slot = row < 0 || row >= b.rows ? b.keep : b.keep == 1 ? 0 : row % b.keep;
    const size_t at = size_t(ref.buffer);
    return memory_[at] + (slot * layout_.width(at) + layout_.column(at, column)) * layout_.position_stride(at, n_) +
           ref.channel;
  }

  void resolve(const PlanRef& ref, SampleOperand& operand) const {
    operand.image_stride = image_stride(ref);
    operand.channels = ref.channels;
    operand.at.clear();
    for (const Position& p : positions_) operand.at.push_back(address(ref, p));
  }

  static SampleOperand& slot(std::vector<SampleOperand>& operands, size_t index) {
    if (operands.size() <= index) operands.resize(index + 1);
    return operands[index];
  }

  // Neighbouring taps whose channels lie side by side become one run.
  void resolve_sources(const PlanInstruction& i) {
    runs_ = 0;
    for (const PlanRef& source : i.sources) {
      SampleOperand& next = slot(sources_, runs_);
      resolve(source, next);
      if (i.product() && runs_ > 0 && sources_[runs_ - 1].ends_where(next))
        sources_[runs_ - 1].channels += next.channels;
      else
        ++runs_;
    }
  }

  // ---- one instruction, at all positions of all images, in blocks of rows: row m is image m mod n of position m / n

  void run(const PlanInstruction& i) {
    resolve_sources(i);
    resolve(i.out, out_);
    for (size_t s = 0; s < i.steps.size(); ++s)
      if (i.steps[s].has_operand) resolve(i.steps[s].operand, slot(operands_, s));
    const bool direct = products_.of(i).fused == i.steps.size() && i.product();
    const int64_t rows = int64_t(positions_.size()) * n_;
    for (int64_t begin = 0; begin < rows; begin += kGemmBlock) {
      block_.rows = std::min(kGemmBlock, rows - begin);
      for (int64_t m = 0; m < block_.rows; ++m) {
        position_[m] = (begin + m) / n_;
        image_[m] = (begin + m) % n_;
      }
      if (!direct) scratch_.resize(size_t(block_.rows * i.scratch));
      for (int64_t m = 0; m < block_.rows; ++m)
        block_.y[size_t(m)] = direct ? out_.row(position_[m], image_[m]) : &scratch_[size_t(m * i.scratch)];
      if (i.product())
        product(i);
      else if (i.attend.heads)
        attention(i);
      else
        for (int64_t m = 0; m < block_.rows; ++m)
          std::copy_n(sources_[0].row(position_[m], image_[m]), sources_[0].channels, block_.y[size_t(m)]);
      if (!direct) finish(i);
    }
  }

  void product(const PlanInstruction& i) {
    const SampleProduct& p = products_.of(i);
    block_.addends.resize(p.addends);
    for (size_t a = 0; a < p.addends; ++a)
      for (int64_t m = 0; m < block_.rows; ++m)
        block_.addends[a][size_t(m)] = operands_[a].row(position_[m], image_[m]);
    block_.has_residual = p.has_residual;
    if (p.has_residual)
      for (int64_t m = 0; m < block_.rows; ++m)
        block_.residual[size_t(m)] = operands_[p.fused - 1].row(position_[m], image_[m]);
    const float* bias = i.bias < 0 ? nullptr : plan_.constants + i.bias;
    products_.isa.with(p.precision, [&](const auto& tiles) { multiply(tiles, i, p, packed_ + p.packed, bias); });
  }

  template <typename T>
  void multiply(const TileSet<T>& tiles, const PlanInstruction& i, const SampleProduct& p, const float* packed,
                const float* bias) {
    GemmInputs<T>& inputs = std::get<GemmInputs<T>>(inputs_);
    if constexpr (std::is_same_v<T, float>)
      list_inputs(tiles.rows, inputs);
    else
      round_inputs(tiles, i.K, inputs);
    const word_t<T>* words = reinterpret_cast<const word_t<T>*>(packed);
    sample_gemm(tiles, products_.layout(i), words, bias, p.activation, inputs, block_);
  }

  void list_inputs(int64_t rows, GemmInputs<float>& inputs) {  // where they lie
    inputs.lengths.clear();
    for (size_t run = 0; run < runs_; ++run) inputs.lengths.push_back(sources_[run].channels);
    inputs.x.resize(runs_ * size_t(block_.rows));
    const float** x = inputs.x.data();
    for (int64_t tile = 0; tile < block_.rows; tile += rows)
      for (size_t run = 0; run < runs_; ++run)
        for (int64_t m = tile; m < std::min(block_.rows, tile + rows); ++m)
          *x++ = sources_[run].row(position_[m], image_[m]);
  }

  template <typename T>  // a row's side by side; the last of an odd number of a pair is followed by a zero
  void round_inputs(const TileSet<T>& tiles, int64_t K, GemmInputs<T>& inputs) {
    const int64_t words = count_words<T>(K), numbers = words * Word<T>::kNumbers;
    inputs.lengths.assign(1, words);
    inputs.x.resize(size_t(block_.rows));
    inputs.rounded.resize(size_t(numbers * block_.rows));
    for (int64_t m = 0; m < block_.rows; ++m) {
      input_t<T>* to = inputs.rounded.data() + numbers * m;
      inputs.x[size_t(m)] = to;
      to[numbers - 1] = 0;
      for (size_t run = 0; run < runs_; ++run) {
        tiles.finish(sources_[run].channels, sources_[run].row(position_[m], image_[m]), nullptr, false, to);
        to += sources_[run].channels;
      }
    }
  }

  void attention(const PlanInstruction& i) {
    const PlanAttend& a = i.attend;
    const AttendHeads of = {a.heads, a.keys.channels / a.heads, a.values.channels / a.heads};
    const float* parameters = plan_.constants + a.parameters;
    const float *keys = address({a.keys.buffer, a.keys.channel, 1, 0, 0, 0, 0}, {0, 0}),
                *values = address({a.values.buffer, a.values.channel, 1, 0, 0, 0, 0}, {0, 0});
    for (int64_t m = 0; m < block_.rows; ++m) {
      const Position& p = positions_[size_t(position_[m])];
      const int64_t query = p.u * i.columns.count + p.v, first = a.starts[query];
      const float* bias = a.bias < 0 ? nullptr : plan_.constants + a.bias + query * a.key_count;
      const AttendQuery keys_of = {a.runs + 2 * first,
                                   a.starts[query + 1] - first,
                                   parameters[0],
                                   parameters[1],
                                   bias,
                                   a.bias_heads > 1 ? a.queries * a.key_count : 0};
      const AttendImage image = {keys + image_[m] * image_stride(a.keys), values + image_[m] * image_stride(a.values),
                                 layout_.position_stride(size_t(a.keys.buffer), n_),
                                 layout_.position_stride(size_t(a.values.buffer), n_)};
      attend(of, keys_of, sources_[0].row(position_[m], image_[m]), image, scores_, block_.y[size_t(m)]);
    }
  }

  // The steps that the product did not take along, row by row, and the way out.
  void finish(const PlanInstruction& i) {
    const SampleProduct& p = products_.of(i);
    for (int64_t m = 0; m < block_.rows; ++m) {
      float* x = block_.y[size_t(m)];
      int64_t channels = p.channels;
      for (size_t s = p.fused; s < i.steps.size(); ++s) {
        const PlanStep& step = i.steps[s];
        const float* parameters = step.parameters < 0 ? nullptr : plan_.constants + step.parameters;
        if (is_unary(step.op)) {
          apply_unary(step.op, parameters, channels, x);
        } else if (is_binary(step.op)) {
          apply_binary(step.op, channels, operand(step, s, m, channels), x);
        } else if (step.op == SampleOp::kGate) {
          gate_run_in_place(channels / 2, x);
        } else if (step.op == SampleOp::kConcatElu) {
          concat_elu_run_in_place(channels, x);
        } else {
          norm_in_place(parameters, channels, x);
        }
        channels = channels_after(step.op, channels);
      }
      std::copy_n(x, channels, out_.row(position_[m], image_[m]));
    }
  }

  const float* operand(const PlanStep& step, size_t s, int64_t m, int64_t channels) {
    const float* from = step.has_operand ? operands_[s].row(position_[m], image_[m]) : plan_.constants + step.vector;
    if (step.function < 0) return from;
    transformed_.assign(from, from + channels);
    apply_unary(SampleOp(step.function), nullptr, channels, transformed_.data());
    return transformed_.data();
  }

  // ---- draws

  void draw(int64_t k, int64_t r, int64_t c) {
    const PlanRef& ref = plan_.params[size_t(k)];
    const float* params = address(ref, {r, c});
    const bool coupled = batch_.components > 0;
    int64_t channel = 0;  // of the parameters of all colours
    for (int64_t earlier = 0; earlier < k && !coupled; ++earlier) channel += plan_.params[size_t(earlier)].channels;
    const int64_t P = coupled ? ref.channels : plan_.P, inputs = plan_.inputs(), plane = plan_.H * plan_.W;
    float* input = address({0, k * inputs, inputs, 0, 0, 1, 1}, {r, c});
    for (int64_t image = 0; image < n_; ++image, params += image_stride(ref), input += plan_.C * inputs) {
      const int64_t pixel = (first_ + image) * plan_.C * plane + r * plan_.W + c, at = pixel + k * plane;
      for (int64_t l = 0; l < ref.channels; ++l) {
        if (!std::isfinite(params[l]) && bad_row_ < 0) bad_row_ = r;
        if (batch_.params) batch_.params[((first_ + image) * P + channel + l) * plane + r * plan_.W + c] = params[l];
      }
      const int64_t value = batch_.keep && batch_.keep[at] ? batch_.known[at] : drawn(k, ref.channels, params, pixel);
      batch_.values[at] = value;
      const int64_t entry = k * batch_.levels + clamp<int64_t>(value, 0, batch_.levels - 1);
      std::copy_n(batch_.table + entry * inputs, inputs, input);
    }
  }

  int64_t drawn(int64_t k, int64_t channels, const float* params, int64_t pixel) {
    const int64_t plane = plan_.H * plan_.W;
    if (batch_.components > 0) {
      const double* uniforms = batch_.uniforms + pixel + pixel / (plan_.C * plane) * plan_.C * plane;
      return draw_mixture(batch_.components, plan_.C, k, batch_.levels, params, uniforms, plane, batch_.values + pixel,
                          batch_.temperature);
    }
    const double uniform = batch_.uniforms[pixel + k * plane];
    const float temperature = float(batch_.temperature);
    if (channels == 1) return draw_bernoulli(params[0], uniform, temperature);
    return draw_categorical(channels, params, uniform, temperature, numerators_.data());
  }

  const SamplePlan& plan_;
  const SampleProducts& products_;
  const SampleLayout& layout_;
  const float* packed_;
  const SampleBatch& batch_;
  float* state_;
  std::vector<float*> memory_;  // of each buffer
  const int64_t first_, n_;
  int64_t bad_row_ = -1;
  std::vector<Position> positions_;
  std::vector<SampleOperand> sources_, operands_;
  SampleOperand out_;
  size_t runs_ = 0;
  GemmBlock block_;
  std::tuple<GemmInputs<float>, GemmInputs<bfloat16>, GemmInputs<float16>> inputs_;
  int64_t position_[kGemmBlock], image_[kGemmBlock];
  std::vector<float> scratch_, transformed_, numerators_, scores_;
};

}  // namespace fastgen
