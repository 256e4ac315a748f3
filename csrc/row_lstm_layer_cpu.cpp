// row_lstm_layer on the CPU, float32 in channels_last: a thread takes a few images, forward and backward.
#include "row_lstm_layer_cpu.h"

#include "masked_tensors.h"
#include "row_lstm_layer_backward_cpu.h"

namespace fastgen {
namespace {

struct Weights {
  RowLstmLayerTaps taps;
  Tensor input, state, hidden, cell, up;  // the kernels with a mask cropped
  std::optional<Tensor> bias, bias_up, added;

  RowLstmLayerWeights pointers() const {
    return {data<float>(input), numbers(bias),   data<float>(state), data<float>(hidden),
            data<float>(cell),  data<float>(up), numbers(bias_up),   numbers(added)};
  }
};

// Of what forward and backward read, checked against x.
Weights checked_weights(const Tensor& x, const Tensor& input, const Tensor& state, const Tensor& hidden,
                        const Tensor& cell, const Tensor& up, int64_t color_groups, const std::string& groups_order) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, "x: expected (N, 2h, H, W) in float32");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(1) % 2 == 0, "x: expected 2h channels");
  STD_TORCH_CHECK(input.dim() == 4 && input.size(3) % 2 == 1, "input_to_state: expected shape (4h, 2h, 1, K), K odd");
  const int64_t h = x.size(1) / 2, K = input.size(3);
  const bool interleaved = checked_order(groups_order);
  STD_TORCH_CHECK(color_groups > 0 && h % color_groups == 0, "color_groups: expected a divisor of h, got ",
                  color_groups);
  const std::vector<int64_t> of_input = {4 * h, 2 * h, 1, K}, of_state = {4 * h, h, kRowTaps}, of_cell = {1, h},
                             of_up = {2 * h, h, 1, 1};
  check_tensor(input, "input_to_state", of_input, x.scalar_type(), x);
  check_tensor(state, "state_to_state", of_state, x.scalar_type(), x);
  check_tensor(hidden, "hidden", of_cell, x.scalar_type(), x);
  check_tensor(cell, "cell", of_cell, x.scalar_type(), x);
  check_tensor(up, "up", of_up, x.scalar_type(), x);
  const RowLstmLayerTaps taps(h, K, color_groups, interleaved);
  return {taps,
          cropped(input, taps.input),
          as_contiguous(state),
          as_contiguous(hidden),
          as_contiguous(cell),
          cropped(up, taps.up),
          {},
          {},
          {}};
}

RowLstmLayerShape shape_of_layer(const Tensor& x, const RowLstmLayerTaps& taps) {
  return {x.size(0), x.size(2), x.size(3), taps.h, Crop(taps.input)};
}

std::tuple<Tensor, Tensor, Tensor> row_lstm_layer_cpu(const Tensor& x_any, const Tensor& input,
                                                      std::optional<Tensor> bias, const Tensor& state,
                                                      const Tensor& hidden, const Tensor& cell, const Tensor& up,
                                                      std::optional<Tensor> bias_up, std::optional<Tensor> added,
                                                      int64_t color_groups, Text groups_order, bool save) {
  Weights weights = checked_weights(x_any, input, state, hidden, cell, up, color_groups, groups_order);
  const int64_t h = weights.taps.h, N = x_any.size(0), H = x_any.size(2), W = x_any.size(3);
  weights.bias = checked_bias(bias, "bias", 4 * h, x_any);
  weights.bias_up = checked_bias(bias_up, "bias_up", 2 * h, x_any);
  if (added) {
    const std::vector<int64_t> sizes = {N, 4 * h};
    check_tensor(*added, "added", sizes, x_any.scalar_type(), x_any);
    weights.added = as_contiguous(*added);
  }
  const Tensor x = in_layout(x_any, true);
  Tensor y = empty(x, shape_of(x), x.scalar_type(), true), c = save ? empty(x, {N, H, W, h}) : empty(x, {0}),
         gates = save ? empty(x, {N, H, W, 4 * h}) : empty(x, {0});
  if (x.numel() == 0) return {y, c, gates};
  const RowLstmLayerProducts layer(shape_of_layer(x, weights.taps), weights.pointers());
  const int64_t images = RowLstmLayerProducts::kImages;
  torch::stable::parallel_for(0, ceil_div(N, images), 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * images; first < std::min(end * images, N); first += images)
      layer.run(first, std::min(first + images, N), data<float>(x), mutable_data<float>(y),
                save ? mutable_data<float>(c) : nullptr, save ? mutable_data<float>(gates) : nullptr);
  });
  return {y, c, gates};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> row_lstm_layer_backward_cpu(
    const Tensor& grad_y_any, const Tensor& x_any, const Tensor& c_any, const Tensor& gates_any, const Tensor& input,
    const Tensor& state, const Tensor& hidden, const Tensor& cell, const Tensor& up, int64_t color_groups,
    Text groups_order) {
  const Weights weights = checked_weights(x_any, input, state, hidden, cell, up, color_groups, groups_order);
  const int64_t h = weights.taps.h, N = x_any.size(0), H = x_any.size(2), W = x_any.size(3);
  const std::vector<int64_t> narrow = {N, H, W, h}, wide = {N, H, W, 4 * h};
  check_same(grad_y_any, "grad_y", x_any);
  check_tensor(c_any, "c", narrow, x_any.scalar_type(), x_any);
  check_tensor(gates_any, "gates", wide, x_any.scalar_type(), x_any);
  const Tensor x = in_layout(x_any, true), grad_y = in_layout(grad_y_any, true), c = as_contiguous(c_any),
               gates = as_contiguous(gates_any);
  Tensor grad_x = empty(x, shape_of(x), x.scalar_type(), true), grad_input = empty(x, shape_of(weights.input)),
         grad_bias = empty(x, {4 * h}), grad_state = empty(x, shape_of(weights.state)), grad_hidden = empty(x, {1, h}),
         grad_cell = empty(x, {1, h}), grad_up = empty(x, shape_of(weights.up)), grad_bias_up = empty(x, {2 * h}),
         grad_added = empty(x, {N, 4 * h});
  if (x.numel() == 0) torch::stable::zero_(grad_added);  // images without pixels
  RowLstmLayerGradients gradients(shape_of_layer(x, weights.taps), weights.pointers());
  const RowLstmLayerKept kept{data<float>(grad_y), data<float>(x), data<float>(c), data<float>(gates)};
  torch::stable::parallel_for(0, x.numel() ? gradients.parts() : 0, 1, [&](int64_t first, int64_t last) {
    gradients.add(first, last, kept, mutable_data<float>(grad_x), mutable_data<float>(grad_added));
  });
  const RowLstmLayerFound found{mutable_data<float>(grad_input),  mutable_data<float>(grad_bias),
                                mutable_data<float>(grad_state),  mutable_data<float>(grad_hidden),
                                mutable_data<float>(grad_cell),   mutable_data<float>(grad_up),
                                mutable_data<float>(grad_bias_up)};
  gradients.finish(data<float>(grad_added), found);
  return {grad_x,    uncropped(grad_input, weights.taps.input), grad_bias,    grad_state, grad_hidden,
          grad_cell, uncropped(grad_up, weights.taps.up),       grad_bias_up, grad_added};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("row_lstm_layer", TORCH_BOX(&row_lstm_layer_cpu));
  m.impl("row_lstm_layer_backward", TORCH_BOX(&row_lstm_layer_backward_cpu));
}

}  // namespace fastgen
