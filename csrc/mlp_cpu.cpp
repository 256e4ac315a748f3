// mlp and mlp_backward on the CPU: from tensors to the products of layers, images in float32 or bfloat16.
#include "mlp_cpu.h"

#include "tensor_utils.h"

namespace fastgen {
namespace {

constexpr int64_t kMostFeatures = int64_t(1) << 31;  // of a size, so that no product of two overflows

struct Perceptron {
  LinearLayer inner, outer;
  LayerActivation activation;
  int64_t M, K, hidden, N;
};

Perceptron checked(const Tensor& x, const Tensor& weight, const Tensor& weight_out, const Text& activation,
                   double slope) {
  STD_TORCH_CHECK(x.dim() == 2 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16),
                  "x: expected two dimensions in float32 or bfloat16");
  STD_TORCH_CHECK(weight.dim() == 2 && weight_out.dim() == 2, "weight: expected two dimensions of both");
  const int64_t M = x.size(0), K = x.size(1), hidden = weight.size(0), N = weight_out.size(0);
  STD_TORCH_CHECK(K > 0 && hidden > 0 && N > 0 && M < kMostFeatures && K < kMostFeatures && hidden < kMostFeatures &&
                      N < kMostFeatures,
                  "weight: expected from 1 to ", kMostFeatures - 1, " features");
  check_tensor(weight, "weight", std::vector<int64_t>{hidden, K}, ScalarType::Float, x);
  check_tensor(weight_out, "weight_out", std::vector<int64_t>{N, hidden}, ScalarType::Float, x);
  return {{M, K, hidden}, {M, hidden, N}, {checked_pointwise(activation), float(slope)}, M, K, hidden, N};
}

// In float, which the products are of.
Tensor wide(const Tensor& tensor) {
  return as_contiguous(tensor.scalar_type() == ScalarType::Float ? tensor
                                                                 : torch::stable::to(tensor, ScalarType::Float));
}
Tensor narrow(const Tensor& tensor, ScalarType dtype) {
  return dtype == ScalarType::Float ? tensor : torch::stable::to(tensor, dtype);
}

std::tuple<Tensor, Tensor> mlp_cpu(const Tensor& x_any, const Tensor& weight_any, std::optional<Tensor> bias_any,
                                   const Tensor& weight_out_any, std::optional<Tensor> bias_out_any, Text activation,
                                   double slope) {
  const Perceptron shape = checked(x_any, weight_any, weight_out_any, activation, slope);
  const std::optional<Tensor> bias = checked_bias(bias_any, "bias", shape.hidden, x_any),
                              bias_out = checked_bias(bias_out_any, "bias_out", shape.N, x_any);
  const Tensor x = wide(x_any), weight = as_contiguous(weight_any), weight_out = as_contiguous(weight_out_any);
  Tensor hidden = empty(x, {shape.M, shape.hidden}), y = empty(x, {shape.M, shape.N});
  if (shape.M > 0) {
    torch::stable::parallel_for(0, shape.inner.columns(), shape.inner.grain_of_columns(), [&](int64_t at, int64_t end) {
      shape.inner.run(at, end, data<float>(x), data<float>(weight), numbers(bias), shape.activation,
                      mutable_data<float>(hidden));
    });
    torch::stable::parallel_for(0, shape.outer.columns(), shape.outer.grain_of_columns(), [&](int64_t at, int64_t end) {
      shape.outer.run(at, end, data<float>(hidden), data<float>(weight_out), numbers(bias_out), {},
                      mutable_data<float>(y));
    });
  }
  return {narrow(y, x_any.scalar_type()), narrow(hidden, x_any.scalar_type())};
}

// Of one layer, those that are wanted; before: the activation that made x.
void backward(const LinearLayer& layer, const Tensor& grad_y, const Tensor& x, const Tensor& weight,
              LayerActivation before, Tensor* grad_x, Tensor* grad_weight, Tensor* grad_bias) {
  if (grad_x)
    torch::stable::parallel_for(0, layer.vectors(), layer.grain_of_vectors(), [&](int64_t at, int64_t end) {
      layer.to_input(at, end, data<float>(grad_y), data<float>(weight), data<float>(x), before,
                     mutable_data<float>(*grad_x));
    });
  if (grad_weight || grad_bias)
    torch::stable::parallel_for(0, layer.rows(), layer.grain_of_rows(), [&](int64_t at, int64_t end) {
      layer.to_weight(at, end, data<float>(grad_y), data<float>(x),
                      grad_weight ? mutable_data<float>(*grad_weight) : nullptr,
                      grad_bias ? mutable_data<float>(*grad_bias) : nullptr);
    });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward_cpu(const Tensor& grad_y_any, const Tensor& x_any,
                                                                    const Tensor& hidden_any, const Tensor& weight_any,
                                                                    const Tensor& weight_out_any, Text activation,
                                                                    double slope, std::vector<bool> wanted) {
  const Perceptron shape = checked(x_any, weight_any, weight_out_any, activation, slope);
  STD_TORCH_CHECK(wanted.size() == 5, "output_mask: expected five values, got ", wanted.size());
  check_tensor(grad_y_any, "grad_y", std::vector<int64_t>{shape.M, shape.N}, x_any.scalar_type(), x_any);
  check_tensor(hidden_any, "hidden", std::vector<int64_t>{shape.M, shape.hidden}, x_any.scalar_type(), x_any);
  const Tensor x = wide(x_any), hidden = wide(hidden_any), grad_y = wide(grad_y_any);
  const Tensor weight = as_contiguous(weight_any), weight_out = as_contiguous(weight_out_any);
  const auto made = [&](bool want, std::vector<int64_t> sizes) {
    return empty(x, want ? sizes : std::vector<int64_t>{0});
  };
  const bool inner = wanted[0] || wanted[1] || wanted[2];
  Tensor grad_x = made(wanted[0], {shape.M, shape.K}), grad_weight = made(wanted[1], {shape.hidden, shape.K}),
         grad_bias = made(wanted[2], {shape.hidden}), grad_weight_out = made(wanted[3], {shape.N, shape.hidden}),
         grad_bias_out = made(wanted[4], {shape.N}), grad_hidden = made(inner, {shape.M, shape.hidden});
  backward(shape.outer, grad_y, hidden, weight_out, shape.activation, inner ? &grad_hidden : nullptr,
           wanted[3] ? &grad_weight_out : nullptr, wanted[4] ? &grad_bias_out : nullptr);
  if (inner)
    backward(shape.inner, grad_hidden, x, weight, {}, wanted[0] ? &grad_x : nullptr, wanted[1] ? &grad_weight : nullptr,
             wanted[2] ? &grad_bias : nullptr);
  return {narrow(grad_x, x_any.scalar_type()), grad_weight, grad_bias, grad_weight_out, grad_bias_out};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CPU, m) {
  m.impl("mlp", TORCH_BOX(&mlp_cpu));
  m.impl("mlp_backward", TORCH_BOX(&mlp_backward_cpu));
}

}  // namespace fastgen
