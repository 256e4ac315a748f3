// mlp and mlp_backward on the CPU: from tensors to the products of layers, images in float32 or bfloat16.
#include "mlp_cpu.h"

#include "mlp_pairs_tensors.h"
#include "tensor_utils.h"

namespace fastgen {
namespace {

constexpr int64_t kMostFeatures = int64_t(1) << 31;  // of a size, so that no product of two overflows
// Up to so many rows products of bfloat16 are of float, and no weight is packed: ROWS_OF_HALVES of fastgen/ops/mlp.py.
constexpr int64_t kFewRows = 32;

struct Perceptron {
  int64_t M, K, hidden, N;
  LayerActivation activation;

  LinearLayer inner() const { return {M, K, hidden}; }
  LinearLayer outer() const { return {M, hidden, N}; }
  bool in_pairs(const Tensor& rows) const { return M > kFewRows && rows.scalar_type() == ScalarType::BFloat16; }
};

void check_sizes(const Perceptron& shape) {
  STD_TORCH_CHECK(shape.K > 0 && shape.hidden > 0 && shape.N > 0 &&
                      std::max({shape.M, shape.K, shape.hidden, shape.N}) < kMostFeatures,
                  "weight: expected from 1 to ", kMostFeatures - 1, " features");
}

void check_rows(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16),
                  name, ": expected two dimensions in float32 or bfloat16");
}

Perceptron checked(const Tensor& x, const Tensor& weight, const Tensor& weight_out, const Text& activation,
                   double slope) {
  check_rows(x, "x");
  STD_TORCH_CHECK(weight.dim() == 2 && weight_out.dim() == 2, "weight: expected two dimensions of both");
  const Perceptron shape{
      x.size(0), x.size(1), weight.size(0), weight_out.size(0), {checked_pointwise(activation), float(slope)}};
  check_sizes(shape);
  check_tensor(weight, "weight", std::vector<int64_t>{shape.hidden, shape.K}, ScalarType::Float, x);
  check_tensor(weight_out, "weight_out", std::vector<int64_t>{shape.N, shape.hidden}, ScalarType::Float, x);
  return shape;
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
  const Tensor weight = as_contiguous(weight_any), weight_out = as_contiguous(weight_out_any);
  if (shape.in_pairs(x_any)) {
    const Tensor x = as_contiguous(x_any);
    Tensor hidden = empty(x, {shape.M, shape.hidden}), y = empty(x, {shape.M, shape.N});
    PairedLayer(shape.M, shape.K, shape.hidden, x)
        .run(data<bfloat16>(x), data<float>(weight), numbers(bias), shape.activation, mutable_data<bfloat16>(hidden));
    PairedLayer(shape.M, shape.hidden, shape.N, x)
        .run(data<bfloat16>(hidden), data<float>(weight_out), numbers(bias_out), {}, mutable_data<bfloat16>(y));
    return {y, hidden};
  }
  const Tensor x = wide(x_any);
  Tensor hidden = empty(x, {shape.M, shape.hidden}), y = empty(x, {shape.M, shape.N});
  const LinearLayer inner = shape.inner(), outer = shape.outer();
  if (shape.M > 0) {
    torch::stable::parallel_for(0, inner.columns(), inner.grain_of_columns(), [&](int64_t at, int64_t end) {
      inner.run(at, end, data<float>(x), data<float>(weight), numbers(bias), shape.activation,
                mutable_data<float>(hidden));
    });
    torch::stable::parallel_for(0, outer.columns(), outer.grain_of_columns(), [&](int64_t at, int64_t end) {
      outer.run(at, end, data<float>(hidden), data<float>(weight_out), numbers(bias_out), {}, mutable_data<float>(y));
    });
  }
  return {narrow(y, x_any.scalar_type()), narrow(hidden, x_any.scalar_type())};
}

// What a gradient reads of what the forward has kept, contiguous, `widened` in float; nothing where it reads none.
std::optional<Tensor> kept(const std::optional<Tensor>& tensor, const char* name, bool read, int64_t rows,
                           int64_t columns, ScalarType dtype, const Tensor& like, bool widened) {
  if (!read) return std::nullopt;
  STD_TORCH_CHECK(tensor, name, ": expected a tensor for what is asked");
  check_tensor(*tensor, name, std::vector<int64_t>{rows, columns}, dtype, like);
  return widened ? wide(*tensor) : as_contiguous(*tensor);
}

int64_t size_of(const std::optional<Tensor>& tensor, int dim, int64_t otherwise) {
  return tensor && tensor->dim() == 2 ? tensor->size(dim) : otherwise;
}

// A layer's gradients; null what is not wanted.
struct Gradients {
  Tensor *x, *weight, *bias;
};

// Of one layer; before: the activation that made x.
void backward(const LinearLayer& layer, const Tensor& grad_y, const std::optional<Tensor>& x,
              const std::optional<Tensor>& weight, LayerActivation before, const Gradients& grads) {
  if (grads.x)
    torch::stable::parallel_for(0, layer.vectors(), layer.grain_of_vectors(), [&](int64_t at, int64_t end) {
      layer.to_input(at, end, data<float>(grad_y), numbers(weight), numbers(x), before,
                     mutable_data<float>(*grads.x) + layer.column(at), layer.column(layer.vectors()));
    });
  if (grads.weight || grads.bias)
    torch::stable::parallel_for(0, layer.rows(), layer.grain_of_rows(), [&](int64_t at, int64_t end) {
      layer.to_weight(at, end, data<float>(grad_y), numbers(x),
                      grads.weight ? mutable_data<float>(*grads.weight) : nullptr,
                      grads.bias ? mutable_data<float>(*grads.bias) : nullptr);
    });
}

// Of both layers where none goes on to x: of the hidden layer's there are a few columns at a time, in a thread's cache.
void backward(const Perceptron& shape, const Tensor& grad_y, const Tensor& hidden, const Tensor& weight_out,
              const std::optional<Tensor>& x, const Gradients& inner) {
  constexpr int64_t kVectors = 4;
  const LinearLayer outer = shape.outer(), both(shape.M, shape.hidden, shape.N + shape.K);
  torch::stable::parallel_for(0, outer.vectors(), both.grain_of_vectors(), [&](int64_t at, int64_t end) {
    std::vector<float> grad(size_t(shape.M * outer.column(std::min(end - at, kVectors))));
    for (int64_t vector = at; vector < end; vector += kVectors) {
      const int64_t last = std::min(end, vector + kVectors), first = outer.column(vector),
                    count = outer.column(last) - first;
      outer.to_input(vector, last, data<float>(grad_y), data<float>(weight_out), data<float>(hidden), shape.activation,
                     grad.data(), count);
      const LinearLayer rows(shape.M, shape.K, count);
      rows.to_weight(0, rows.rows(), grad.data(), numbers(x),
                     inner.weight ? mutable_data<float>(*inner.weight) + first * shape.K : nullptr,
                     inner.bias ? mutable_data<float>(*inner.bias) + first : nullptr);
    }
  });
}

void backward(const PairedLayer& layer, const Tensor& grad_y, const std::optional<Tensor>& x,
              const std::optional<Tensor>& weight, LayerActivation before, const Gradients& grads) {
  const bfloat16* const rows = x ? data<bfloat16>(*x) : nullptr;
  if (grads.x) layer.to_input(data<bfloat16>(grad_y), numbers(weight), rows, before, mutable_data<bfloat16>(*grads.x));
  layer.to_weight(data<bfloat16>(grad_y), rows, grads.weight ? mutable_data<float>(*grads.weight) : nullptr,
                  grads.bias ? mutable_data<float>(*grads.bias) : nullptr);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward_cpu(
    const Tensor& grad_y_any, std::optional<Tensor> x_any, std::optional<Tensor> hidden_any,
    std::optional<Tensor> weight_any, std::optional<Tensor> weight_out_any, Text activation, double slope,
    std::vector<bool> wanted) {
  STD_TORCH_CHECK(wanted.size() == 5, "output_mask: expected five values, got ", wanted.size());
  check_rows(grad_y_any, "grad_y");
  const ScalarType dtype = grad_y_any.scalar_type();
  const bool is_inner = wanted[0] || wanted[1] || wanted[2];
  const Perceptron shape{grad_y_any.size(0),
                         size_of(weight_any, 1, size_of(x_any, 1, 1)),
                         size_of(hidden_any, 1, 1),
                         grad_y_any.size(1),
                         {checked_pointwise(activation), float(slope)}};
  check_sizes(shape);
  const bool pairs = shape.in_pairs(grad_y_any), at_once = is_inner && !wanted[0] && !pairs,
             in_turn = is_inner && !at_once;
  const auto found = [&](const std::optional<Tensor>& tensor, const char* name, bool read, int64_t rows,
                         int64_t columns,
                         ScalarType of) { return kept(tensor, name, read, rows, columns, of, grad_y_any, !pairs); };
  const std::optional<Tensor> hidden = found(hidden_any, "hidden", is_inner || wanted[3], shape.M, shape.hidden, dtype),
                              x = found(x_any, "x", wanted[1], shape.M, shape.K, dtype),
                              weight = found(weight_any, "weight", wanted[0], shape.hidden, shape.K, ScalarType::Float),
                              weight_out = found(weight_out_any, "weight_out", is_inner, shape.N, shape.hidden,
                                                 ScalarType::Float);
  const Tensor grad_y = pairs ? as_contiguous(grad_y_any) : wide(grad_y_any);
  const auto made = [&](bool want, std::vector<int64_t> sizes, ScalarType of) {
    return empty(grad_y, want ? sizes : std::vector<int64_t>{0}, of);
  };
  const ScalarType rows = grad_y.scalar_type(), sums = ScalarType::Float;
  Tensor grad_x = made(wanted[0], {shape.M, shape.K}, rows), grad_hidden = made(in_turn, {shape.M, shape.hidden}, rows),
         grad_weight = made(wanted[1], {shape.hidden, shape.K}, sums),
         grad_bias = made(wanted[2], {shape.hidden}, sums),
         grad_weight_out = made(wanted[3], {shape.N, shape.hidden}, sums),
         grad_bias_out = made(wanted[4], {shape.N}, sums);
  const auto asked = [](bool want, Tensor& tensor) { return want ? &tensor : nullptr; };
  const Gradients of_outer{asked(in_turn, grad_hidden), asked(wanted[3], grad_weight_out),
                           asked(wanted[4], grad_bias_out)},
      of_inner{asked(wanted[0], grad_x), asked(wanted[1], grad_weight), asked(wanted[2], grad_bias)};
  const auto through = [&](const auto& outer, const auto& inner) {
    backward(outer, grad_y, hidden, weight_out, shape.activation, of_outer);
    if (in_turn) backward(inner, grad_hidden, x, weight, {}, of_inner);
  };
  if (at_once) backward(shape, grad_y, *hidden, *weight_out, x, of_inner);
  if (pairs)
    through(PairedLayer(shape.M, shape.hidden, shape.N, grad_y), PairedLayer(shape.M, shape.K, shape.hidden, grad_y));
  else
    through(shape.outer(), shape.inner());
  return {narrow(grad_x, dtype), grad_weight, grad_bias, grad_weight_out, grad_bias_out};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("mlp", TORCH_BOX(&mlp_cpu));
  m.impl("mlp_backward", TORCH_BOX(&mlp_backward_cpu));
}

}  // namespace fastgen
