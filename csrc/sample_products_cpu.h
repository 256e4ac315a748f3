// How the CPU computes the instructions of a sampling plan: which of its steps a matrix product takes along, and its
// weights packed for an instruction set. No torch headers.
#pragma once

#include "sample_gemm_cpu.h"
#include "sample_plan.h"

namespace fastgen {

// What the product of an instruction takes along: steps [0, fused).
struct SampleProduct {
  SamplePrecision precision = SamplePrecision::kFloat32;  // that inputs and weights are rounded to
  SampleActivation activation = SampleActivation::kNone;
  size_t addends = 0, fused = 0;
  bool has_residual = false;
  int64_t packed = 0;    // offset of the packed weight
  int64_t channels = 0;  // that the product leaves
};

// What of an instruction set multiplies floats, pairs of bfloat16, and weights in float16. Named as the pairs.
struct SampleIsa {
  const TileSet<float>& floats;
  const TileSet<bfloat16>& pairs;
  const TileSet<float16>& halves;

  // f(tiles), of what is rounded so.
  template <typename F>
  auto with(SamplePrecision precision, const F& f) const {
    switch (precision) {
      case SamplePrecision::kBfloat16:
        return f(pairs);
      case SamplePrecision::kFloat16:
        return f(halves);
      default:
        return f(floats);
    }
  }
};

// Those of this machine, the best last. "avx512bf16" has floats and halves of "avx512"; halves are portable ones where
// no instruction widens them.
inline const std::vector<SampleIsa>& sample_isas() {
  static const std::vector<SampleIsa> isas = [] {
    const auto of_lanes = [](const auto& sets, int lanes) -> const auto& {
      for (const auto& set : sets)
        if (set.lanes == lanes) return set;
      return sets.front();
    };
    std::vector<SampleIsa> found;
    for (const TileSet<bfloat16>& pairs : tile_sets<bfloat16>())
      found.push_back({of_lanes(tile_sets<float>(), pairs.lanes), pairs, of_lanes(tile_sets<float16>(), pairs.lanes)});
    return found;
  }();
  return isas;
}

class SampleProducts {
 public:
  const SampleIsa isa;
  int64_t packed_size = 0;  // in floats

  SampleProducts(const SamplePlan& plan, const SampleIsa& isa) : isa(isa), plan_(plan) {
    for (const PlanInstruction& i : plan.instructions) products_.push_back(fuse(i));
  }

  const SampleProduct& of(const PlanInstruction& i) const { return products_[size_t(&i - plan_.instructions.data())]; }

  GemmLayout layout(const PlanInstruction& i) const { return layout(i, of(i)); }

  void pack(float* packed) const {
    for (const PlanInstruction& i : plan_.instructions) {
      if (i.K == 0) continue;
      isa.with(of(i).precision, [&](const auto& tiles) {
        pack(tiles, layout(i), i.K, plan_.constants + i.weight, packed + of(i).packed);
      });
    }
  }

 private:
  const SamplePlan& plan_;
  std::vector<SampleProduct> products_;

  GemmLayout layout(const PlanInstruction& i, const SampleProduct& p) const {
    const bool gate = p.activation == SampleActivation::kGate;
    return isa.with(p.precision, [&](const auto& tiles) { return layout(tiles, i, gate); });
  }
  template <typename T>
  static GemmLayout layout(const TileSet<T>& tiles, const PlanInstruction& i, bool gate) {
    return {tiles, count_words<T>(i.K), i.O, gate};
  }

  // The last pair of an odd number of rows has a zero.
  template <typename T>
  static void pack(const TileSet<T>&, const GemmLayout& layout, int64_t K, const float* w, float* packed) {
    constexpr int64_t kNumbers = Word<T>::kNumbers;
    layout.pack(reinterpret_cast<word_t<T>*>(packed), [&](int64_t word, int64_t n) {
      T numbers[kNumbers];
      for (int64_t j = 0, k = word * kNumbers; j < kNumbers; ++j, ++k)
        numbers[j] = from_float<T>(k < K ? w[k * layout.N + n] : 0.0f);
      return load_word(numbers, 0);
    });
  }

  // Floats that as many words take; panels are of whole vectors.
  template <typename T>
  static int64_t floats(const TileSet<T>&, int64_t words) {
    return ceil_div(words * int64_t(sizeof(word_t<T>)), int64_t(sizeof(float)));
  }

  // The first steps, as many as an epilogue has: addends, an activation, a residual.
  SampleProduct fuse(const PlanInstruction& i) {
    SampleProduct p;
    p.channels = i.product() ? i.O : i.attend.heads ? i.attend.values.channels : i.sources[0].channels;
    if (!i.product()) return p;
    const auto adds = [&](size_t s) {
      return s < i.steps.size() && i.steps[s].op == SampleOp::kAdd && i.steps[s].has_operand && i.steps[s].function < 0;
    };
    while (adds(p.addends)) ++p.addends;
    p.fused = p.addends;
    if (p.fused < i.steps.size()) {
      p.activation = activation_of(i.steps[p.fused]);
      if (p.activation != SampleActivation::kNone) {
        ++p.fused;
        p.has_residual = adds(p.fused);
        p.fused += p.has_residual;
      }
    }
    p.channels = sample_channels(p.activation, i.O);
    p.precision = plan_.rounds(i);
    p.packed = packed_size;
    const int64_t words = layout(i, p).size();
    packed_size =
        checked_add(packed_size, isa.with(p.precision, [&](const auto& tiles) { return floats(tiles, words); }));
    return p;
  }

  SampleActivation activation_of(const PlanStep& step) const {
    switch (step.op) {
      case SampleOp::kRelu:
        return SampleActivation::kRelu;
      case SampleOp::kTanh:
        return SampleActivation::kTanh;
      case SampleOp::kSigmoid:
        return SampleActivation::kSigmoid;
      case SampleOp::kGelu:
        return SampleActivation::kGelu;
      case SampleOp::kSilu:
        return SampleActivation::kSilu;
      case SampleOp::kGate:
        return SampleActivation::kGate;
      case SampleOp::kConcatElu:
        return SampleActivation::kConcatElu;
      case SampleOp::kElu:
        return plan_.constants[step.parameters] == 1.0f ? SampleActivation::kElu : SampleActivation::kNone;
      default:
        return SampleActivation::kNone;
    }
  }
};

}  // namespace fastgen
