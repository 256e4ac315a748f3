// Activations on the CPU. Backward a thread takes parts of images, whose sums are added in the order of the parts.
#include "activation_cpu.h"

#include <tuple>

#include "batch_norm_tensors.h"

namespace fastgen {
namespace {

template <typename T, Pointwise kind>
void forward(int64_t count, const storage_t<T>* x, accumulation_t<T> slope, storage_t<T>* result) {
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t first, int64_t last) {
    activation_run<Storage<T>, accumulation_t<T>, kind>(last - first, x + first, slope, result + first);
  });
}

Tensor activation_cpu(const Tensor& x_any, Text activation, double slope) {
  check_floating(x_any, "x");
  STD_TORCH_CHECK(x_any.dim() == 2 || x_any.dim() == 4, "x: expected shape (N, C) or (N, C, H, W)");
  const Pointwise pointwise = checked_pointwise(activation);
  const bool channels_last = x_any.dim() == 4 && is_channels_last(x_any);
  const Tensor x = in_layout(x_any, channels_last);
  Tensor result = empty(x_any, shape_of(x_any), x_any.scalar_type(), channels_last);
  FG_DISPATCH_FLOATING(x, "activation", {
    FG_DISPATCH_POINTWISE(pointwise,
                          (forward<scalar_t, kind>(x.numel(), data<scalar_t>(x), accumulation_t<scalar_t>(slope),
                                                   mutable_data<scalar_t>(result))));
  });
  return result;
}

template <typename T, Pointwise kind>
void backward(const ImageParts& parts, bool planes, const storage_t<T>* grad, const storage_t<T>* result,
              accumulation_t<T> slope, storage_t<T>* grad_x, accumulation_t<T>* sums) {
  const int64_t C = parts.channels(), tasks = parts.tasks();
  std::vector<double> all(size_t(checked_multiply(C, tasks)));
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t task, int64_t end) {
    for (; task < end; ++task)
      activation_backward_task<Storage<T>, accumulation_t<T>, kind>(parts, task, planes, grad, result, slope, grad_x,
                                                                    &all[size_t(C * task)]);
  });
  for (int64_t task = 1; task < tasks; ++task)
    for (int64_t c = 0; c < C; ++c) all[size_t(c)] += all[size_t(C * task + c)];
  std::copy(all.begin(), all.begin() + C, sums);
}

// grad_x, sums
std::tuple<Tensor, Tensor> activation_backward_cpu(const Tensor& grad_any, const Tensor& result_any, Text activation,
                                                   double slope) {
  const Image image(result_any, "result");
  const Pointwise pointwise = checked_pointwise(activation);
  check_same(grad_any, "grad", result_any);
  Tensor grad_x = empty(result_any, shape_of(result_any), result_any.scalar_type(), true);
  Tensor sums = empty(result_any, {image.C}, accumulation_dtype(result_any.scalar_type()));
  if (image.numel() == 0) {
    torch::stable::zero_(sums);
    return {grad_x, sums};
  }
  const bool planes = grad_any.is_contiguous() && image.C > 1 && image.pixels > 1;  // else it may be both
  const Tensor grad = planes ? grad_any : in_channels_last(grad_any), result = in_channels_last(result_any);
  const ImageParts parts(planes ? image.N : 1, image.C, planes ? image.pixels : image.N * image.pixels);
  FG_DISPATCH_FLOATING(result, "activation_backward", {
    using A = accumulation_t<scalar_t>;
    FG_DISPATCH_POINTWISE(
        pointwise, (backward<scalar_t, kind>(parts, planes, data<scalar_t>(grad), data<scalar_t>(result), A(slope),
                                             mutable_data<scalar_t>(grad_x), mutable_data<A>(sums))));
  });
  return {grad_x, sums};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("activation", TORCH_BOX(&activation_cpu));
  m.impl("activation_backward", TORCH_BOX(&activation_backward_cpu));
}

}  // namespace fastgen
