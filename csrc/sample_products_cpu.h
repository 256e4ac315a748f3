// How the CPU computes the instructions of a sampling plan: which of its steps a matrix product takes along, and its
// weights packed for an instruction set. No torch headers.
#pragma once

#include "sample_gemm_cpu.h"
#include "sample_plan.h"

namespace fastgen {

// What the product of an instruction takes along: steps [0, fused).
struct SampleProduct {
  bool rounds = false;  // to bfloat16
  SampleActivation activation = SampleActivation::kNone;
  size_t addends = 0, fused = 0;
  bool has_residual = false;
  int64_t packed = 0;    // offset of the packed weight
  int64_t channels = 0;  // that the product leaves
};

// What of an instruction set multiplies floats, and what pairs of bfloat16.
struct SampleIsa {
  const TileSet<float>& floats;
  const TileSet<bfloat16>& pairs;
};

class SampleProducts {
 public:
  const SampleIsa isa;
  int64_t packed_size = 0;  // in floats, or pairs

  SampleProducts(const SamplePlan& plan, const SampleIsa& isa) : isa(isa), plan_(plan) {
    for (const PlanInstruction& i : plan.instructions) products_.push_back(fuse(i));
  }

  const SampleProduct& of(const PlanInstruction& i) const { return products_[size_t(&i - plan_.instructions.data())]; }

  GemmLayout layout(const PlanInstruction& i) const { return layout(i, of(i)); }

  void pack(float* packed) const {
    for (const PlanInstruction& i : plan_.instructions) {
      if (i.K == 0) continue;
      const float* weight = plan_.constants + i.weight;
      float* to = packed + of(i).packed;
      if (of(i).rounds)
        pack_pairs(layout(i), i.K, weight, reinterpret_cast<uint32_t*>(to));
      else
        layout(i).pack(weight, to);
    }
  }

 private:
  const SamplePlan& plan_;
  std::vector<SampleProduct> products_;

  GemmLayout layout(const PlanInstruction& i, const SampleProduct& p) const {
    const bool gate = p.activation == SampleActivation::kGate;
    return p.rounds ? GemmLayout(isa.pairs, count_words<bfloat16>(i.K), i.O, gate)
                    : GemmLayout(isa.floats, i.K, i.O, gate);
  }

  // The last pair of an odd number of rows has a zero.
  static void pack_pairs(const GemmLayout& layout, int64_t K, const float* w, uint32_t* packed) {
    layout.pack(packed, [&](int64_t k, int64_t n) {
      const float* at = w + 2 * k * layout.N + n;
      return pair_of(float_to_bfloat16(at[0]), 2 * k + 1 < K ? float_to_bfloat16(at[layout.N]) : bfloat16(0));
    });
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
    p.rounds = plan_.rounds(i);
    p.packed = packed_size;
    packed_size = checked_add(packed_size, layout(i, p).size());
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
