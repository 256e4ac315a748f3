// value_frequencies on the CPU: a thread takes rows.
#include "tensor_utils.h"
#include "value_frequencies.h"

namespace fastgen {
namespace {

constexpr int64_t kMostLevels = 65536;
constexpr int64_t kMostComponents = int64_t(1) << 20;

Tensor value_frequencies_cpu(const Tensor& params_any, std::optional<Tensor> values_any, int64_t color, int64_t levels,
                             int64_t components) {
  STD_TORCH_CHECK(params_any.dim() == 2, "params: expected shape (N, P)");
  STD_TORCH_CHECK(2 <= levels && levels <= kMostLevels, "levels: expected 2 to 65,536, got ", levels);
  STD_TORCH_CHECK(0 <= components && components < kMostComponents, "components: expected 0 or more, got ", components);
  const int64_t N = params_any.size(0), P = params_any.size(1);
  check_tensor(params_any, "params", params_any.sizes(), ScalarType::Float, params_any);
  const Tensor params = as_contiguous(params_any);
  MixtureShape shape = {components, 1, color, levels};
  std::optional<Tensor> values;
  if (components > 0) {
    STD_TORCH_CHECK(values_any.has_value(), "values: expected those of the pixel, which a mixture reads");
    STD_TORCH_CHECK(values_any->dim() == 2, "values: expected shape (N, C)");
    shape.colors = values_any->size(1);
    STD_TORCH_CHECK(shape.colors == 1 || shape.colors == 3, "values: expected 1 or 3 colours");
    STD_TORCH_CHECK(0 <= color && color < shape.colors, "color: expected one of the pixel's, got ", color);
    STD_TORCH_CHECK(P == (shape.colors == 3 ? 10 : 3) * components, "params: expected those of the components");
    check_tensor(*values_any, "values", std::vector<int64_t>{N, shape.colors}, ScalarType::Long, params_any);
    values = as_contiguous(*values_any);
  } else {
    STD_TORCH_CHECK(P == levels || (P == 1 && levels == 2), "params: expected a logit of each level, or of value 1");
  }
  Tensor frequencies = empty(params, {N, levels}, ScalarType::Int);
  const float* from = data<float>(params);
  const int64_t* given = values ? data<int64_t>(*values) : nullptr;
  int32_t* to = mutable_data<int32_t>(frequencies);
  const int64_t grain = std::max<int64_t>(1, kGrain / (16 * levels * std::max<int64_t>(components, 1)));
  torch::stable::parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(size_t(2 * components + levels));
    for (int64_t n = begin; n < end; ++n) {
      const float* row = from + n * P;
      if (components > 0)
        mixture_frequencies(shape, row, given + n * shape.colors, scratch.data(), to + n * levels);
      else if (P == 1)
        bernoulli_frequencies(row[0], to + n * levels);
      else
        categorical_frequencies(levels, row, scratch.data(), to + n * levels);
    }
  });
  return frequencies;
}

}  // namespace

FG_KERNELS(CPU, m) { m.impl("value_frequencies", TORCH_BOX(&value_frequencies_cpu)); }

}  // namespace fastgen
