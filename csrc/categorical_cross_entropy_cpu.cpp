// categorical_cross_entropy and its backward on the CPU: a thread takes pixels, of channels_last images, or of a
// colour's planes.
#include "categorical_cross_entropy.h"
#include "tensor_utils.h"

namespace fastgen {
namespace {

constexpr int64_t kMostLevels = int64_t(1) << 24;

struct Logits {
  int64_t N, C, L, H, W;
  bool together;  // the levels of a colour lie together

  int64_t pixels() const { return H * W; }
  int64_t values() const { return C * H * W; }  // of an image
};

Logits checked(const Tensor& params, const Tensor& values, int64_t levels) {
  STD_TORCH_CHECK(params.dim() == 4 && values.dim() == 4, "params: expected (N, C·L, H, W), and values (N, C, H, W)");
  STD_TORCH_CHECK(2 <= levels && levels < kMostLevels, "levels: expected from 2 to ", kMostLevels - 1, ", got ",
                  levels);
  check_floating(params, "params");
  const Logits shape{params.size(0), values.size(1), levels,
                     params.size(2), params.size(3), params.stride(1) == 1 && !params.is_contiguous()};
  STD_TORCH_CHECK(params.size(1) == checked_multiply(shape.C, levels), "params: expected a channel for each level, ",
                  levels, ", of ", shape.C, " colours");
  check_tensor(values, "values", std::vector<int64_t>{shape.N, shape.C, shape.H, shape.W}, ScalarType::Long, params);
  return shape;
}

// As the loops read it: channels_last, or planes.
Tensor laid_out(const Logits& shape, const Tensor& params) { return in_layout(params, shape.together); }

bool is_level(int64_t value, const Logits& shape) { return value >= 0 && value < shape.L; }

// Calls body(first logit, where its value is, how many values, how far they are apart, room for a value's logits) for
// what lies together: a pixel's colours, or pixels of a colour.
template <typename acc_t, class F>
void over_values(const Logits& shape, const F& body) {
  const int64_t P = shape.C * shape.L, pixels = shape.pixels();
  const int64_t grain = std::max<int64_t>(1, kGrain / P);
  if (shape.together || pixels == 1)
    return torch::stable::parallel_for(0, shape.N * pixels, grain, [&](int64_t first, int64_t last) {
      std::vector<acc_t> room(size_t(shape.L));
      for (int64_t at = first; at < last; ++at)
        body(at * P, at / pixels * shape.values() + at % pixels, shape.C, pixels, room.data());
    });
  const int64_t strips = ceil_div(pixels, kLevelPixels);
  torch::stable::parallel_for(0, shape.N * shape.C * strips, ceil_div(grain, kLevelPixels),
                              [&](int64_t at, int64_t last) {
                                for (; at < last; ++at) {
                                  const int64_t plane = at / strips, first = at % strips * kLevelPixels;
                                  body(plane * shape.L * pixels + first, plane * pixels + first,
                                       std::min(kLevelPixels, pixels - first), 1, nullptr);
                                }
                              });
}

template <typename T>
void forward(const Logits& shape, const storage_t<T>* params, const int64_t* values, double smoothing,
             accumulation_t<T>* nats, accumulation_t<T>* sums) {
  using acc_t = accumulation_t<T>;
  const bool runs = shape.together || shape.pixels() == 1;
  const int64_t level = runs ? 1 : shape.pixels(), next = runs ? shape.L : 1;  // how far apart they are
  over_values<acc_t>(shape, [&](int64_t first, int64_t where, int64_t count, int64_t apart, acc_t* room) {
    const storage_t<T>* const l = params + first;
    LevelSums<acc_t> found[kLevelPixels];
    for (int64_t begin = 0; begin < count; begin += kLevelPixels) {
      const int64_t some = std::min(kLevelPixels, count - begin);
      if (runs)
        sum_runs<Storage<T>, acc_t>(some, shape.L, smoothing != 0, l + begin * next, room, found);
      else
        sum_planes<Storage<T>, acc_t>(shape.L, level, some, l, found);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t at = where + (begin + i) * apart, value = values[at];
        sums[at] = found[i].sum;
        nats[at] = is_level(value, shape)
                       ? found[i].cross_entropy(Storage<T>::load(l[(begin + i) * next + value * level]),
                                                acc_t(smoothing), shape.L)
                       : std::numeric_limits<acc_t>::quiet_NaN();
      }
    }
  });
}

template <typename T>
void backward(const Logits& shape, const accumulation_t<T>* grads, const storage_t<T>* params, const int64_t* values,
              const accumulation_t<T>* sums, double smoothing, storage_t<T>* grad_params) {
  using acc_t = accumulation_t<T>;
  const bool runs = shape.together || shape.pixels() == 1;
  const int64_t level = runs ? 1 : shape.pixels(), next = runs ? shape.L : 1;
  const acc_t share = acc_t(smoothing / double(shape.L)), rest = acc_t(1 - smoothing);
  over_values<acc_t>(shape, [&](int64_t first, int64_t where, int64_t count, int64_t apart, acc_t* room) {
    const storage_t<T>* const l = params + first;
    storage_t<T>* const to = grad_params + first;
    acc_t scale[kLevelPixels], even[kLevelPixels], most[kLevelPixels];
    for (int64_t begin = 0; begin < count; begin += kLevelPixels) {
      const int64_t some = std::min(kLevelPixels, count - begin), offset = begin * next;
      for (int64_t i = 0; i < some; ++i) {
        const int64_t at = where + (begin + i) * apart;
        const acc_t grad = is_level(values[at], shape) ? grads[at] : std::numeric_limits<acc_t>::quiet_NaN();
        scale[i] = grad / sums[at], even[i] = grad * share;
      }
      if (runs)
        spread_runs<Storage<T>>(some, shape.L, scale, even, l + offset, room, most, to + offset);
      else
        spread_planes<Storage<T>>(shape.L, level, some, scale, even, l, most, to);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t at = where + (begin + i) * apart;
        if (!is_level(values[at], shape)) continue;
        const int64_t own = offset + i * next + values[at] * level;  // anew: what is stored may be rounded
        to[own] =
            Storage<T>::store(scale[i] * exp(acc_t(Storage<T>::load(l[own])) - most[i]) - even[i] - grads[at] * rest);
      }
    }
  });
}

std::tuple<Tensor, Tensor> categorical_cross_entropy_cpu(const Tensor& params_any, const Tensor& values_any,
                                                         int64_t levels, double smoothing) {
  const Logits shape = checked(params_any, values_any, levels);
  const Tensor params = laid_out(shape, params_any), values = as_contiguous(values_any);
  const ScalarType dtype = accumulation_dtype(params.scalar_type());
  Tensor nats = empty(params, shape_of(values), dtype), sums = empty(params, shape_of(values), dtype);
  if (values.numel() > 0)
    FG_DISPATCH_FLOATING(
        params, "categorical_cross_entropy",
        forward<scalar_t>(shape, data<scalar_t>(params), data<int64_t>(values), smoothing,
                          mutable_data<accumulation_t<scalar_t>>(nats), mutable_data<accumulation_t<scalar_t>>(sums)));
  return {nats, sums};
}

Tensor categorical_cross_entropy_backward_cpu(const Tensor& grad_any, const Tensor& params_any,
                                              const Tensor& values_any, const Tensor& sums_any, int64_t levels,
                                              double smoothing) {
  const Logits shape = checked(params_any, values_any, levels);
  const ScalarType dtype = accumulation_dtype(params_any.scalar_type());
  check_tensor(grad_any, "grad", values_any.sizes(), dtype, params_any);
  check_tensor(sums_any, "sums", values_any.sizes(), dtype, params_any);
  const Tensor params = laid_out(shape, params_any), values = as_contiguous(values_any);
  const Tensor grad = as_contiguous(grad_any), sums = as_contiguous(sums_any);
  Tensor grad_params = empty(params, shape_of(params), params.scalar_type(), shape.together);
  if (values.numel() > 0)
    FG_DISPATCH_FLOATING(
        params, "categorical_cross_entropy",
        backward<scalar_t>(shape, data<accumulation_t<scalar_t>>(grad), data<scalar_t>(params), data<int64_t>(values),
                           data<accumulation_t<scalar_t>>(sums), smoothing, mutable_data<scalar_t>(grad_params)));
  return grad_params;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("categorical_cross_entropy", TORCH_BOX(&categorical_cross_entropy_cpu));
  m.impl("categorical_cross_entropy_backward", TORCH_BOX(&categorical_cross_entropy_backward_cpu));
}

}  // namespace fastgen
