// batch_norm_train on the CPU: from tensors to the passes of its header.
#include "batch_norm_train_cpu.h"

#include <optional>
#include <tuple>

#include "batch_norm_tensors.h"

namespace fastgen {
namespace {

// What every channel is normalised by; its scale once the statistics are there.
template <typename A>
struct Normalization {
  double count, eps;
  std::vector<A> weight, center, m2, scale, shift;

  Normalization(const Image& image, const Tensor& x, const std::optional<Tensor>& weight_any,
                const std::optional<Tensor>& bias, double eps)
      : count(double(image.N * image.pixels)),
        eps(eps),
        weight(size_t(image.C), A(1)),
        center(size_t(image.C)),
        m2(size_t(image.C)),
        scale(size_t(image.C)),
        shift(size_t(image.C)) {
    if (weight_any) weight = checked_vector<A>(x, *weight_any, "weight");
    if (bias) shift = checked_vector<A>(x, *bias, "bias");
  }

  void rescale(int64_t first, int64_t end) {
    scales_from(end - first, count, eps, &weight[size_t(first)], &m2[size_t(first)], &scale[size_t(first)]);
  }
};

// The same for the numbers of a row.
template <typename A>
struct Spread {
  std::vector<A> center, scale, shift;

  Spread(const Walk& walk, int64_t task, const Normalization<A>& of)
      : center(walk.spread(task, of.center)), scale(walk.spread(task, of.scale)), shift(walk.spread(task, of.shift)) {}
  Vectors<A> all() const { return {center.data(), scale.data(), shift.data()}; }
};

auto over_tasks(const Walk& walk) {
  return [&walk](const auto& body, bool backward) {
    torch::stable::parallel_for(0, walk.tasks(), walk.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) body(backward ? begin + end - 1 - task : task);
    });
  };
}

template <typename T, Pointwise kind>
void train(const Walk& walk, const storage_t<T>* x, Normalization<accumulation_t<T>>& by, accumulation_t<T> slope,
           storage_t<T>* z) {
  using A = accumulation_t<T>;
  using Store = Storage<T>;
  ChannelSums sums(walk);
  std::vector<A> guess(by.center.size());
  in_two_passes(
      walk, sums, over_tasks(walk),
      [&](int64_t first, int64_t end) { guess_means<Store, A>(walk, x, first, end, guess.data()); },
      [&](int64_t task) {
        const std::vector<A> centers = walk.spread(task, guess);
        sums.of<A>(task, [&](int64_t at, int64_t rows, int64_t width, int64_t pitch, A* first, A* second) {
          sum_rows<Store, A>(rows, width, pitch, x + at, centers.data(), first, second);
        });
      },
      [&](int64_t first, int64_t end) {
        const size_t i = size_t(first);
        const bool again = moments_from(end - first, by.count, sums.first(first), sums.second(first), &guess[i],
                                        &by.center[i], &by.m2[i]);
        by.rescale(first, end);
        return again;
      },
      [&](int64_t task) {
        const Spread<A> of(walk, task, by);
        walk.blocks(task, [&](int64_t at, int64_t rows, int64_t width, int64_t pitch) {
          apply_rows<Store, A, kind>(rows, width, pitch, x + at, of.all(), slope, z + at);
        });
      });
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_train_cpu(const Tensor& x_any, std::optional<Tensor> weight,
                                                        std::optional<Tensor> bias, double eps, Text activation,
                                                        double slope) {
  const Image image(x_any, "x");
  const Pointwise pointwise = checked_pointwise(activation);
  const bool channels_last = is_channels_last(x_any);
  const ScalarType dtype = accumulation_dtype(x_any.scalar_type());
  Tensor z = empty(x_any, shape_of(x_any), x_any.scalar_type(), channels_last);
  Tensor mean = empty(x_any, {image.C}, dtype), m2 = empty(x_any, {image.C}, dtype);
  if (image.numel() == 0) {
    for (Tensor* vector : {&mean, &m2}) torch::stable::zero_(*vector);
    return {z, mean, m2};
  }
  const Tensor x = in_layout(x_any, channels_last);
  const Walk walk(image.N, image.C, image.pixels, channels_last || image.pixels == 1);
  FG_DISPATCH_FLOATING(x, "batch_norm_train", {
    using A = accumulation_t<scalar_t>;
    Normalization<A> by(image, x, weight, bias, eps);
    FG_DISPATCH_POINTWISE(pointwise,
                          (train<scalar_t, kind>(walk, data<scalar_t>(x), by, A(slope), mutable_data<scalar_t>(z))));
    std::copy(by.center.begin(), by.center.end(), mutable_data<A>(mean));
    std::copy(by.m2.begin(), by.m2.end(), mutable_data<A>(m2));
  });
  return {z, mean, m2};
}

template <typename A>
struct Gradients {
  std::vector<A> mean, m2, lift, tilt, weight, bias;  // the first two arrive
  ChannelSums sums;

  explicit Gradients(const Walk& walk)
      : mean(size_t(walk.channels())), m2(mean), lift(mean), tilt(mean), weight(mean), bias(mean), sums(walk) {}
  ChannelGradients<A> from(int64_t c) {
    const size_t i = size_t(c);
    return {&mean[i], &m2[i], &lift[i], &tilt[i], &weight[i], &bias[i]};
  }
};

template <typename T, Pointwise kind>
void train_backward(const Walk& walk, const storage_t<T>* grad_z, const storage_t<T>* x,
                    const Normalization<accumulation_t<T>>& by, accumulation_t<T> slope,
                    Gradients<accumulation_t<T>>& grads, storage_t<T>* grad_x) {
  using A = accumulation_t<T>;
  using Store = Storage<T>;
  in_two_passes(
      walk, grads.sums, over_tasks(walk), [](int64_t, int64_t) {},
      [&](int64_t task) {
        const Spread<A> of(walk, task, by);
        grads.sums.template of<A>(
            task, [&](int64_t at, int64_t rows, int64_t width, int64_t pitch, A* first, A* second) {
              sum_gradients<Store, A, kind>(rows, width, pitch, grad_z + at, x + at, of.all(), slope, first, second);
            });
      },
      [&](int64_t first, int64_t end) {
        gradients_from(end - first, by.count, by.eps, grads.sums.first(first), grads.sums.second(first),
                       &by.m2[size_t(first)], &by.scale[size_t(first)], grads.from(first));
        return false;
      },
      [&](int64_t task) {
        const Spread<A> of(walk, task, by);
        const std::vector<A> lift = walk.spread(task, grads.lift), tilt = walk.spread(task, grads.tilt);
        walk.blocks(task, [&](int64_t at, int64_t rows, int64_t width, int64_t pitch) {
          backward_rows<Store, A, kind>(rows, width, pitch, grad_z + at, x + at, of.all(), lift.data(), tilt.data(),
                                        slope, grad_x + at);
        });
      });
}

// grad_x, grad_weight, grad_bias
std::tuple<Tensor, Tensor, Tensor> batch_norm_train_backward_cpu(
    const Tensor& grad_any, std::optional<Tensor> grad_mean, std::optional<Tensor> grad_m2, const Tensor& x_any,
    const Tensor& mean, const Tensor& m2, std::optional<Tensor> weight, std::optional<Tensor> bias, double eps,
    Text activation, double slope) {
  const Image image(x_any, "x");
  const Pointwise pointwise = checked_pointwise(activation);
  check_same(grad_any, "grad_z", x_any);
  const bool channels_last = is_channels_last(x_any);
  const ScalarType dtype = accumulation_dtype(x_any.scalar_type());
  Tensor grad_x = empty(x_any, shape_of(x_any), x_any.scalar_type(), channels_last);
  Tensor grad_weight = empty(x_any, {image.C}, dtype), grad_bias = empty(x_any, {image.C}, dtype);
  if (image.numel() == 0) {
    for (Tensor* grad : {&grad_weight, &grad_bias}) torch::stable::zero_(*grad);
    return {grad_x, grad_weight, grad_bias};
  }
  const Tensor x = in_layout(x_any, channels_last), grad = in_layout(grad_any, channels_last);
  const Walk walk(image.N, image.C, image.pixels, channels_last || image.pixels == 1);
  FG_DISPATCH_FLOATING(x, "batch_norm_train_backward", {
    using A = accumulation_t<scalar_t>;
    Normalization<A> by(image, x, weight, bias, eps);
    by.center = checked_vector<A>(x, mean, "mean");
    by.m2 = checked_vector<A>(x, m2, "m2");
    by.rescale(0, image.C);
    Gradients<A> grads(walk);
    if (grad_mean) grads.mean = checked_vector<A>(x, *grad_mean, "grad_mean");
    if (grad_m2) grads.m2 = checked_vector<A>(x, *grad_m2, "grad_m2");
    FG_DISPATCH_POINTWISE(pointwise, (train_backward<scalar_t, kind>(walk, data<scalar_t>(grad), data<scalar_t>(x), by,
                                                                     A(slope), grads, mutable_data<scalar_t>(grad_x))));
    std::copy(grads.weight.begin(), grads.weight.end(), mutable_data<A>(grad_weight));
    std::copy(grads.bias.begin(), grads.bias.end(), mutable_data<A>(grad_bias));
  });
  return {grad_x, grad_weight, grad_bias};
}

// running += momentum · (batch − running), of any floating dtype
void track(const Tensor& like, Tensor& running, const char* name, const std::vector<double>& batch, double momentum) {
  check_floating(running, name);
  check_tensor(running, name, like.sizes(), running.scalar_type(), like);
  FG_DISPATCH_FLOATING(running, "batch_norm_track", {
    using Store = Storage<scalar_t>;
    const int64_t stride = running.stride(0);
    storage_t<scalar_t>* to = mutable_data<scalar_t>(running);
    for (size_t c = 0; c < batch.size(); ++c, to += stride)
      *to = Store::store(accumulation_t<scalar_t>(momentum * batch[c] + (1 - momentum) * double(Store::load(*to))));
  });
}

void batch_norm_track_cpu(const Tensor& mean, const Tensor& m2, Tensor running_mean, Tensor running_var, int64_t count,
                          double momentum) {
  STD_TORCH_CHECK(mean.dim() == 1, "mean: expected shape (C,)");
  const std::vector<double> means = checked_vector<double>(mean, mean, "mean");
  std::vector<double> variances = checked_vector<double>(mean, m2, "m2");
  for (double& variance : variances) variance /= double(count - 1);
  track(mean, running_mean, "running_mean", means, momentum);
  track(mean, running_var, "running_var", variances, momentum);
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("batch_norm_train", TORCH_BOX(&batch_norm_train_cpu));
  m.impl("batch_norm_train_backward", TORCH_BOX(&batch_norm_train_backward_cpu));
  m.impl("batch_norm_track", TORCH_BOX(&batch_norm_track_cpu));
}

}  // namespace fastgen
