// batch_norm on the CPU: from tensors to the passes of its header.
#include "batch_norm_cpu.h"

#include <cmath>
#include <optional>
#include <tuple>
#include <utility>

#include "batch_norm_tensors.h"

namespace fastgen {
namespace {

// What every channel is normalised by, in what is computed in; no shift is zeros.
template <typename A>
struct Channels {
  std::vector<A> center, scale, shift;

  Channels(const Tensor& y, const Tensor& center_any, const Tensor& scale_any, const std::optional<Tensor>& shift_any) {
    const std::vector<int64_t> sizes{y.size(1)};
    check_tensor(center_any, "center", sizes, accumulation_dtype(y.scalar_type()), y);
    check_tensor(scale_any, "scale", sizes, accumulation_dtype(y.scalar_type()), y);
    center = read<A, A>(as_contiguous(center_any));
    scale = read<A, A>(as_contiguous(scale_any));
    shift.resize(center.size());
    if (shift_any) shift = checked_vector<A>(y, *shift_any, "shift");
  }

  // By the running statistics: any of the vectors may be of any floating dtype.
  Channels(const Tensor& y, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const Tensor& mean,
           const Tensor& variance, double eps)
      : center(checked_vector<A>(y, mean, "running_mean")),
        scale(checked_vector<A>(y, variance, "running_var")),
        shift(center.size()) {
    for (A& value : scale) value = A(1) / std::sqrt(value + A(eps));
    if (weight) {
      const std::vector<A> factors = checked_vector<A>(y, *weight, "weight");
      for (size_t c = 0; c < scale.size(); ++c) scale[c] *= factors[c];
    }
    if (bias) shift = checked_vector<A>(y, *bias, "bias");
  }

  Vectors<A> all() const { return {center.data(), scale.data(), shift.data()}; }
  Vectors<A> one(int64_t c) const { return {&center[size_t(c)], &scale[size_t(c)], &shift[size_t(c)]}; }
  // Of the pixels of a row.
  Channels repeated(const PixelRows& rows) const {
    return {rows.repeated(center.data()), rows.repeated(scale.data()), rows.repeated(shift.data())};
  }

 private:
  Channels(std::vector<A> center, std::vector<A> scale, std::vector<A> shift)
      : center(std::move(center)), scale(std::move(scale)), shift(std::move(shift)) {}
};

template <typename T, Pointwise kind>
void apply(const Image& image, const Tensor& y, const Channels<accumulation_t<T>>& channels, accumulation_t<T> slope,
           bool channels_last, Tensor& z) {
  using A = accumulation_t<T>;
  const storage_t<T>* from = data<T>(y);
  storage_t<T>* to = mutable_data<T>(z);
  if (!channels_last) {
    parallel_over_runs(image.N * image.C, image.pixels, [&](int64_t row, int64_t first, int64_t count) {
      const int64_t at = row * image.pixels + first;
      apply_block<Storage<T>, A, kind, true>(1, count, from + at, channels.one(row % image.C), slope, to + at);
    });
    return;
  }
  const PixelRows rows(image.C, image.N * image.pixels);
  const Channels<A> repeated = channels.repeated(rows);
  torch::stable::parallel_for(0, rows.groups(), 1, [&](int64_t first, int64_t last) {
    const int64_t end = std::min(rows.count, last * rows.group());
    rows.blocks(first * rows.group(), end, [&](int64_t pixel, int64_t count, int64_t width) {
      const int64_t at = pixel * image.C;
      apply_block<Storage<T>, A, kind, false>(count, width, from + at, repeated.all(), slope, to + at);
    });
  });
}

// vectors: what the channels of every dtype that is computed in are made of
template <typename... Args>
Tensor applied(const Tensor& y_any, const Text& activation, double slope, bool channels_last, const Args&... vectors) {
  const Image image(y_any);
  const Pointwise pointwise = checked_pointwise(activation);
  Tensor z = empty(y_any, shape_of(y_any), y_any.scalar_type(), channels_last);
  FG_DISPATCH_FLOATING(y_any, "batch_norm_apply", {
    using A = accumulation_t<scalar_t>;
    const Channels<A> channels(y_any, vectors...);
    if (image.numel() > 0) {
      const Tensor y = in_layout(y_any, channels_last);
      FG_DISPATCH_POINTWISE(pointwise, (apply<scalar_t, kind>(image, y, channels, A(slope), channels_last, z)));
    }
  });
  return z;
}

Tensor batch_norm_apply_cpu(const Tensor& y, const Tensor& center, const Tensor& scale, std::optional<Tensor> shift,
                            Text activation, double slope, bool channels_last) {
  return applied(y, activation, slope, channels_last, center, scale, shift);
}

Tensor batch_norm_running_cpu(const Tensor& y, std::optional<Tensor> weight, std::optional<Tensor> bias,
                              const Tensor& mean, const Tensor& variance, double eps, Text activation, double slope,
                              bool channels_last) {
  return applied(y, activation, slope, channels_last, weight, bias, mean, variance, eps);
}

// Images in channels_last; grad_scale and grad_shift (C,).
template <typename T, Pointwise kind>
void backward(const Image& image, const Tensor& grad_z, const Tensor& y, const Channels<accumulation_t<T>>& channels,
              accumulation_t<T> slope, Tensor& grad_y, accumulation_t<T>* grad_center, accumulation_t<T>* grad_scale,
              accumulation_t<T>* grad_shift) {
  using A = accumulation_t<T>;
  const PixelRows rows(image.C, image.N * image.pixels);
  const Channels<A> repeated = channels.repeated(rows);
  std::vector<double> sums(size_t(2 * rows.groups() * image.C));  // of each group: Σ g, Σ g · (y − center)
  storage_t<T>* to = mutable_data<T>(grad_y);
  torch::stable::parallel_for(0, rows.groups(), 1, [&](int64_t begin, int64_t last) {
    std::vector<A> grads(size_t(rows.width())), products(size_t(rows.width()));
    for (int64_t group = begin; group < last; ++group) {
      double* of = &sums[size_t(2 * group * image.C)];
      const int64_t end = std::min(rows.count, (group + 1) * rows.group());
      rows.blocks(group * rows.group(), end, [&](int64_t pixel, int64_t count, int64_t width) {
        const int64_t at = pixel * image.C;
        std::fill(grads.begin(), grads.end(), A(0));
        std::fill(products.begin(), products.end(), A(0));
        backward_block<Storage<T>, A, kind>(count, width, data<T>(grad_z) + at, data<T>(y) + at, repeated.all(), slope,
                                            to + at, grads.data(), products.data());
        rows.fold(width, grads.data(), of);
        rows.fold(width, products.data(), of + image.C);
      });
    }
  });
  for (int64_t c = 0; c < image.C; ++c) {
    double shift = 0, scale = 0;
    for (int64_t group = 0; group < rows.groups(); ++group) {
      shift += sums[size_t(2 * group * image.C + c)];
      scale += sums[size_t((2 * group + 1) * image.C + c)];
    }
    grad_shift[c] = A(shift), grad_scale[c] = A(scale), grad_center[c] = A(-double(channels.scale[size_t(c)]) * shift);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_apply_backward_cpu(const Tensor& grad_any, const Tensor& y_any,
                                                                         const Tensor& center, const Tensor& scale,
                                                                         std::optional<Tensor> shift, Text activation,
                                                                         double slope) {
  const Image image(y_any);
  const Pointwise pointwise = checked_pointwise(activation);
  check_same(grad_any, "grad_z", y_any);
  Tensor grad_y = empty(y_any, shape_of(y_any), y_any.scalar_type(), true);
  const ScalarType dtype = accumulation_dtype(y_any.scalar_type());
  Tensor grad_center = empty(y_any, {image.C}, dtype), grad_scale = empty(y_any, {image.C}, dtype),
         grad_shift = empty(y_any, {image.C}, dtype);
  if (image.numel() == 0) {
    for (Tensor* grad : {&grad_center, &grad_scale, &grad_shift}) torch::stable::zero_(*grad);
    return {grad_y, grad_center, grad_scale, grad_shift};
  }
  const Tensor y = in_layout(y_any, true), grad_z = in_layout(grad_any, true);
  FG_DISPATCH_FLOATING(y_any, "batch_norm_apply_backward", {
    using A = accumulation_t<scalar_t>;
    const Channels<A> channels(y_any, center, scale, shift);
    FG_DISPATCH_POINTWISE(
        pointwise, (backward<scalar_t, kind>(image, grad_z, y, channels, A(slope), grad_y, mutable_data<A>(grad_center),
                                             mutable_data<A>(grad_scale), mutable_data<A>(grad_shift))));
  });
  return {grad_y, grad_center, grad_scale, grad_shift};
}

template <typename T>
void statistics(const Image& image, const Tensor& y, bool channels_last, accumulation_t<T>* mean,
                accumulation_t<T>* m2) {
  using A = accumulation_t<T>;
  const storage_t<T>* from = data<T>(y);
  if (!channels_last) {  // a channel of an image is an image of one channel
    const PixelRows rows(1, image.pixels);
    torch::stable::parallel_for(0, image.C, ceil_div(kGroup, image.N * image.pixels), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        Moments<Storage<T>, A> moments(rows);
        for (int64_t n = 0; n < image.N; ++n) moments.add(0, image.pixels, from + (n * image.C + c) * image.pixels);
        mean[c] = A(moments.means[0]), m2[c] = A(moments.m2s[0]);
      }
    });
    return;
  }
  const PixelRows rows(image.C, image.N * image.pixels);
  std::vector<Moments<Storage<T>, A>> groups(size_t(rows.groups()), Moments<Storage<T>, A>(rows));
  torch::stable::parallel_for(0, rows.groups(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group)
      groups[size_t(group)].add(group * rows.group(), std::min(rows.count, (group + 1) * rows.group()), from);
  });
  for (size_t group = 1; group < groups.size(); ++group) groups[0].join(groups[group]);
  for (int64_t c = 0; c < image.C; ++c) mean[c] = A(groups[0].means[size_t(c)]), m2[c] = A(groups[0].m2s[size_t(c)]);
}

std::tuple<Tensor, Tensor> batch_norm_statistics_cpu(const Tensor& y_any) {
  const Image image(y_any);
  const ScalarType dtype = accumulation_dtype(y_any.scalar_type());
  Tensor mean = empty(y_any, {image.C}, dtype), m2 = empty(y_any, {image.C}, dtype);
  if (image.numel() == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(m2);
    return {mean, m2};
  }
  const bool channels_last = !y_any.is_contiguous() || image.pixels == 1;
  const Tensor y = in_layout(y_any, channels_last);
  FG_DISPATCH_FLOATING(y_any, "batch_norm_statistics", {
    using A = accumulation_t<scalar_t>;
    statistics<scalar_t>(image, y, channels_last, mutable_data<A>(mean), mutable_data<A>(m2));
  });
  return {mean, m2};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("batch_norm_apply", TORCH_BOX(&batch_norm_apply_cpu));
  m.impl("batch_norm_apply_backward", TORCH_BOX(&batch_norm_apply_backward_cpu));
  m.impl("batch_norm_running", TORCH_BOX(&batch_norm_running_cpu));
  m.impl("batch_norm_statistics", TORCH_BOX(&batch_norm_statistics_cpu));
}

}  // namespace fastgen
