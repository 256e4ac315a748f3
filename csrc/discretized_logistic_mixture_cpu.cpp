// discretized_logistic_mixture on the CPU: tiles of pixels, transposed so that every loop over pixels is a vector loop.
#include "discretized_logistic_mixture.h"
#include "tensor_utils.h"

namespace fastgen {
namespace {

constexpr int64_t kPixels = 64;  // of a tile; a row of it is one parameter channel
constexpr int64_t kGrainTiles = 4, kMaxLevels = 1 << 30, kMaxChannels = 1 << 24;  // channels: of a tile in memory

// Channels of params: K logits, then `parts` times K for each colour: means, log-scales and, of three colours, c.
struct Channels {
  int64_t P, C, K, parts;

  Channels(int64_t P, int64_t C) : P(P), C(C), K(P / (C == 3 ? 10 : 3)), parts(C == 3 ? 3 : 2) {}

  int64_t mean(int64_t c, int64_t k) const { return K + c * parts * K + k; }
  int64_t log_scale(int64_t c, int64_t k) const { return mean(c, k) + K; }
  int64_t coeff(int64_t c, int64_t k) const { return mean(c, k) + 2 * K; }
};

// Pixels (n, h, w) of a tensor (N, channels, H, W), numbered in raster order.
struct Pixels {
  int64_t H, W, stride_n, stride_c, stride_h, stride_w;

  explicit Pixels(const Tensor& t)
      : H(t.size(2)),
        W(t.size(3)),
        stride_n(t.stride(0)),
        stride_c(t.stride(1)),
        stride_h(t.stride(2)),
        stride_w(t.stride(3)) {}

  int64_t ahead() const { return kPixels * stride_w; }  // where the next tile lies, mostly: what is prefetched

  void offsets(int64_t first, int64_t count, int64_t* offset) const {
    int64_t w = first % W, h = first / W % H, n = first / W / H;
    for (int64_t i = 0; i < count; ++i) {
      offset[i] = n * stride_n + h * stride_h + w * stride_w;
      if (++w < W) continue;
      w = 0;
      if (++h < H) continue;
      h = 0, ++n;
    }
  }
};

bool is_run(const int64_t* offset, int64_t count) {
  for (int64_t i = 1; i < count; ++i)
    if (offset[i] != offset[0] + i) return false;
  return true;
}

// ---- a tile: [P][kPixels] in the accumulation type

template <typename T>
FG_VECTOR_CLONES void load_run(int64_t P, int64_t stride_c, int64_t count, const storage_t<T>* __restrict params,
                               accumulation_t<T>* __restrict tile) {
  constexpr int64_t kLine = 64 / sizeof(storage_t<T>);
  for (int64_t p = 0; p < P; ++p, params += stride_c, tile += kPixels) {
    for (int64_t i = 0; i < count; ++i) tile[i] = Storage<T>::load(params[i]);
    for (int64_t i = 0; i < kPixels; i += kLine) __builtin_prefetch(params + kPixels + i, 0, 2);
  }
}

template <typename T>
FG_VECTOR_CLONES void store_run(int64_t P, int64_t stride_c, int64_t count, const accumulation_t<T>* __restrict tile,
                                storage_t<T>* __restrict params) {
  constexpr int64_t kLine = 64 / sizeof(storage_t<T>);
  for (int64_t p = 0; p < P; ++p, params += stride_c, tile += kPixels) {
    for (int64_t i = 0; i < count; ++i) params[i] = Storage<T>::store(tile[i]);
    for (int64_t i = 0; i < kPixels; i += kLine) __builtin_prefetch(params + kPixels + i, 1, 2);
  }
}

// channels_last: blocks of 8 pixels × 8 channels, transposed in registers. Each asks for its place in the next tile.
constexpr int64_t kBlock = 8;
template <typename acc_t>
struct Block {
  typedef acc_t Row __attribute__((vector_size(kBlock * sizeof(acc_t))));
  typedef acc_t Unaligned __attribute__((vector_size(kBlock * sizeof(acc_t)), aligned(alignof(acc_t)), may_alias));
  Row row[kBlock];

  FG_HD void transpose() {
    for (int j = 0; j < 4; ++j) {
      const Row a = row[j], b = row[j + 4];
      row[j] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
      row[j + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int j : {0, 1, 4, 5}) {
      const Row a = row[j], b = row[j + 2];
      row[j] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
      row[j + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int j : {0, 2, 4, 6}) {
      const Row a = row[j], b = row[j + 1];
      row[j] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
      row[j + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
  }
};

template <typename T>
FG_VECTOR_CLONES void load_block(const int64_t* offset, int64_t ahead, const storage_t<T>* __restrict params,
                                 accumulation_t<T>* __restrict tile) {
  Block<accumulation_t<T>> block;
  for (int64_t i = 0; i < kBlock; ++i) {
    accumulation_t<T> row[kBlock];
    for (int64_t p = 0; p < kBlock; ++p) row[p] = Storage<T>::load(params[offset[i] + p]);
    __builtin_prefetch(params + offset[i] + ahead, 0, 2);
    block.row[i] = *reinterpret_cast<const typename Block<accumulation_t<T>>::Unaligned*>(row);
  }
  block.transpose();
  for (int64_t p = 0; p < kBlock; ++p)
    *reinterpret_cast<typename Block<accumulation_t<T>>::Unaligned*>(tile + p * kPixels) = block.row[p];
}

template <typename T>
FG_VECTOR_CLONES void store_block(const int64_t* offset, int64_t ahead, const accumulation_t<T>* __restrict tile,
                                  storage_t<T>* __restrict params) {
  Block<accumulation_t<T>> block;
  for (int64_t p = 0; p < kBlock; ++p)
    block.row[p] = *reinterpret_cast<const typename Block<accumulation_t<T>>::Unaligned*>(tile + p * kPixels);
  block.transpose();
  for (int64_t i = 0; i < kBlock; ++i) {
    accumulation_t<T> row[kBlock];
    *reinterpret_cast<typename Block<accumulation_t<T>>::Unaligned*>(row) = block.row[i];
    for (int64_t p = 0; p < kBlock; ++p) params[offset[i] + p] = Storage<T>::store(row[p]);
    __builtin_prefetch(params + offset[i] + ahead, 1, 2);
  }
}

// Call block(i, p) for what lies in whole blocks and element(i, p) for the rest.
template <class B, class E>
FG_HD void for_blocks(bool blocks, int64_t count, int64_t P, const B& block, const E& element) {
  const int64_t whole_count = blocks ? count / kBlock * kBlock : 0, whole_P = blocks ? P / kBlock * kBlock : 0;
  for (int64_t i = 0; i < whole_count; i += kBlock)
    for (int64_t p = 0; p < whole_P; p += kBlock) block(i, p);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t p = i < whole_count ? whole_P : 0; p < P; ++p) element(i, p);
}

template <typename T>
void load_tile(const Pixels& pixels, int64_t P, const int64_t* offset, int64_t count, const storage_t<T>* params,
               accumulation_t<T>* tile) {
  if (is_run(offset, count)) return load_run<T>(P, pixels.stride_c, count, params + offset[0], tile);
  for_blocks(
      pixels.stride_c == 1, count, P,
      [&](int64_t i, int64_t p) { load_block<T>(offset + i, pixels.ahead(), params + p, tile + p * kPixels + i); },
      [&](int64_t i, int64_t p) { tile[p * kPixels + i] = Storage<T>::load(params[offset[i] + p * pixels.stride_c]); });
}

template <typename T>
void store_tile(const Pixels& pixels, int64_t P, const int64_t* offset, int64_t count, const accumulation_t<T>* tile,
                storage_t<T>* params) {
  if (is_run(offset, count)) return store_run<T>(P, pixels.stride_c, count, tile, params + offset[0]);
  for_blocks(
      pixels.stride_c == 1, count, P,
      [&](int64_t i, int64_t p) { store_block<T>(offset + i, pixels.ahead(), tile + p * kPixels + i, params + p); },
      [&](int64_t i, int64_t p) {
        params[offset[i] + p * pixels.stride_c] = Storage<T>::store(tile[p * kPixels + i]);
      });
}

// Values of a tile, [C][kPixels].
template <typename acc_t>
struct ValueTile {
  acc_t h, x[3][kPixels] = {}, has_upper[3][kPixels] = {}, has_lower[3][kPixels] = {};
  acc_t log_widths[kPixels] = {};  // log 2h for every colour whose bin has both edges

  template <typename value_t>
  void load(const Pixels& pixels, int64_t C, int64_t levels, const int64_t* offset, int64_t count,
            const value_t* values) {
    const double width = 2.0 / double(levels - 1);
    h = acc_t(0.5 * width);
    for (int64_t i = 0; i < count; ++i) {
      int64_t middle = 0;
      for (int64_t c = 0; c < C; ++c) {
        const int64_t v = values[offset[i] + c * pixels.stride_c];
        const auto value = bin_value<acc_t>(v, levels);
        x[c][i] = value.x, has_upper[c][i] = value.has_upper, has_lower[c][i] = value.has_lower;
        middle += v != 0 && v != levels - 1;
      }
      log_widths[i] = acc_t(double(middle) * std::log(width));
    }
  }

  FG_HD BinValue<acc_t> at(int64_t c, int64_t i) const { return {x[c][i], has_upper[c][i], has_lower[c][i]}; }
};

// Mixture weights wₖ = exp(eₖ) / dₖ of every pixel, relative to the largest exp(eₖ), and their sum.
template <typename acc_t>
struct Weights {
  acc_t max[kPixels], sum[kPixels];

  // exponents become weights
  FG_HD void of(int64_t K, acc_t* exponents, const acc_t* divisors) {
    for (int64_t i = 0; i < kPixels; ++i) max[i] = exponents[i], sum[i] = 0;
    for (int64_t k = 1; k < K; ++k)
      for (int64_t i = 0; i < kPixels; ++i) {
        const acc_t e = exponents[k * kPixels + i];
        max[i] = max[i] < e ? e : max[i];
      }
    for (int64_t k = 0; k < K; ++k)
      for (int64_t i = 0; i < kPixels; ++i) {
        acc_t& weight = exponents[k * kPixels + i];
        weight = exp(weight - max[i]);
        if (divisors) weight /= divisors[k * kPixels + i];
        sum[i] += weight;
      }
  }

  FG_HD acc_t log_sum(int64_t i) const { return max[i] + log(sum[i]) + (sum[i] - sum[i]); }  // log(NaN) is not NaN
};

// exponents, divisors: of exp(πₖ) Π_c P of every pixel. In the tile, coefficients c become tanh(c); with kGradients,
// means and log-scales become the derivatives of log P to them.
template <typename acc_t, bool kGradients>
FG_HD void evaluate(const Channels& channels, const ValueTile<acc_t>& values, acc_t* tile, acc_t* exponents,
                    acc_t* divisors) {
  const auto row = [&](int64_t channel) { return tile + channel * kPixels; };
  for (int64_t k = 0; k < channels.K; ++k) {
    acc_t exponent[kPixels], divisor[kPixels];
    for (int64_t i = 0; i < kPixels; ++i) exponent[i] = row(k)[i], divisor[i] = 1;
    for (int64_t c = 0; c < channels.C; ++c) {
      acc_t *mean = row(channels.mean(c, k)), *log_scale = row(channels.log_scale(c, k));
      if (c == 1) {
        acc_t* c0 = row(channels.coeff(0, k));
        for (int64_t i = 0; i < kPixels; ++i) {
          c0[i] = tanh(c0[i]);
          mean[i] += c0[i] * values.x[0][i];
        }
      } else if (c == 2) {
        acc_t *c1 = row(channels.coeff(1, k)), *c2 = row(channels.coeff(2, k));
        for (int64_t i = 0; i < kPixels; ++i) {
          c1[i] = tanh(c1[i]), c2[i] = tanh(c2[i]);
          mean[i] += c1[i] * values.x[0][i] + c2[i] * values.x[1][i];
        }
      }
      for (int64_t i = 0; i < kPixels; ++i) {
        const Likelihood<acc_t> one = discretized_logistic(values.at(c, i), values.h, mean[i], log_scale[i]);
        exponent[i] += one.exponent;
        divisor[i] *= one.divisor;
        if (kGradients) mean[i] = one.grad_mean, log_scale[i] = one.grad_log_scale;
      }
    }
    std::copy_n(exponent, kPixels, exponents + k * kPixels);
    std::copy_n(divisor, kPixels, divisors + k * kPixels);
  }
}

template <typename acc_t>
FG_VECTOR_CLONES void forward_tile(const Channels& channels, const ValueTile<acc_t>& values, acc_t* __restrict tile,
                                   acc_t* __restrict weights, acc_t* __restrict result) {
  acc_t* divisors = weights + channels.K * kPixels;
  evaluate<acc_t, false>(channels, values, tile, weights, divisors);
  Weights<acc_t> posterior, prior;
  posterior.of(channels.K, weights, divisors);
  prior.of(channels.K, tile, nullptr);
  for (int64_t i = 0; i < kPixels; ++i) result[i] = posterior.log_sum(i) - prior.log_sum(i) + values.log_widths[i];
}

// Turns the parameters in the tile into their gradients.
template <typename acc_t>
FG_VECTOR_CLONES void backward_tile(const Channels& channels, const ValueTile<acc_t>& values,
                                    const acc_t* __restrict grad, acc_t* __restrict tile, acc_t* __restrict weights) {
  acc_t* divisors = weights + channels.K * kPixels;
  evaluate<acc_t, true>(channels, values, tile, weights, divisors);
  Weights<acc_t> posterior, prior;
  posterior.of(channels.K, weights, divisors);
  prior.of(channels.K, tile, nullptr);
  acc_t to_posterior[kPixels], to_prior[kPixels];
  for (int64_t i = 0; i < kPixels; ++i) {
    to_posterior[i] = grad[i] / posterior.sum[i];
    to_prior[i] = grad[i] / prior.sum[i];
  }
  const auto row = [&](int64_t channel) { return tile + channel * kPixels; };
  for (int64_t k = 0; k < channels.K; ++k) {
    acc_t responsibility[kPixels];  // of component k for the pixel, times the gradient that arrives
    acc_t* logit = row(k);
    for (int64_t i = 0; i < kPixels; ++i) {
      responsibility[i] = weights[k * kPixels + i] * to_posterior[i];
      logit[i] = responsibility[i] - logit[i] * to_prior[i];
    }
    for (int64_t c = 0; c < channels.C; ++c) {
      acc_t *mean = row(channels.mean(c, k)), *log_scale = row(channels.log_scale(c, k));
      for (int64_t i = 0; i < kPixels; ++i) mean[i] *= responsibility[i], log_scale[i] *= responsibility[i];
    }
    if (channels.C != 3) continue;
    const acc_t *green = row(channels.mean(1, k)), *blue = row(channels.mean(2, k));
    acc_t *c0 = row(channels.coeff(0, k)), *c1 = row(channels.coeff(1, k)), *c2 = row(channels.coeff(2, k));
    for (int64_t i = 0; i < kPixels; ++i) {
      c0[i] = (acc_t(1) - c0[i] * c0[i]) * green[i] * values.x[0][i];
      c1[i] = (acc_t(1) - c1[i] * c1[i]) * blue[i] * values.x[0][i];
      c2[i] = (acc_t(1) - c2[i] * c2[i]) * blue[i] * values.x[1][i];
    }
  }
}

// ---- the op

// Call body(first, count, offsets of the params, values, tile, weights) for every tile of pixels.
template <typename T, class F>
void for_each_tile(const Tensor& params, const Tensor& values, int64_t levels, const F& body) {
  using acc_t = accumulation_t<T>;
  const Channels channels(params.size(1), values.size(1));
  const Pixels pixels(params), value_pixels(values);
  const int64_t total = params.size(0) * pixels.H * pixels.W;
  torch::stable::parallel_for(0, ceil_div(total, kPixels), kGrainTiles, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> tile(channels.P * kPixels),
        weights(2 * channels.K * kPixels);  // zeros: a ragged tile ends in them
    ValueTile<acc_t> value_tile;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t * kPixels, count = std::min(kPixels, total - first);
      int64_t offset[kPixels];
      value_pixels.offsets(first, count, offset);
      if (values.scalar_type() == ScalarType::Byte)
        value_tile.load(value_pixels, channels.C, levels, offset, count, values.const_data_ptr<uint8_t>());
      else
        value_tile.load(value_pixels, channels.C, levels, offset, count, values.const_data_ptr<int64_t>());
      pixels.offsets(first, count, offset);
      load_tile<T>(pixels, channels.P, offset, count, data<T>(params), tile.data());
      body(channels, first, count, offset, value_tile, tile.data(), weights.data());
    }
  });
}

template <typename T>
void forward(const Tensor& params, const Tensor& values, int64_t levels, accumulation_t<T>* result) {
  using acc_t = accumulation_t<T>;
  for_each_tile<T>(params, values, levels,
                   [&](const Channels& channels, int64_t first, int64_t count, const int64_t*,
                       const ValueTile<acc_t>& value_tile, acc_t* tile, acc_t* weights) {
                     acc_t log_likelihood[kPixels];
                     forward_tile(channels, value_tile, tile, weights, log_likelihood);
                     std::copy_n(log_likelihood, count, result + first);
                   });
}

template <typename T>
void backward(const accumulation_t<T>* grad, const Tensor& params, const Tensor& values, int64_t levels,
              Tensor& grad_params) {
  using acc_t = accumulation_t<T>;
  const Pixels grad_pixels(grad_params);
  storage_t<T>* target = mutable_data<T>(grad_params);
  for_each_tile<T>(params, values, levels,
                   [&](const Channels& channels, int64_t first, int64_t count, int64_t* offset,
                       const ValueTile<acc_t>& value_tile, acc_t* tile, acc_t* weights) {
                     acc_t upstream[kPixels] = {};
                     std::copy_n(grad + first, count, upstream);
                     backward_tile(channels, value_tile, upstream, tile, weights);
                     grad_pixels.offsets(first, count, offset);
                     store_tile<T>(grad_pixels, channels.P, offset, count, tile, target);
                   });
}

void check(const Tensor& params, const Tensor& values, int64_t levels) {
  STD_TORCH_CHECK(params.dim() == 4 && values.dim() == 4, "params, values: expected four dimensions");
  STD_TORCH_CHECK(values.size(1) == 1 || values.size(1) == 3, "values: expected 1 or 3 colours, got ", values.size(1));
  STD_TORCH_CHECK(
      params.size(1) > 0 && params.size(1) <= kMaxChannels && params.size(1) % (values.size(1) == 3 ? 10 : 3) == 0,
      "params: expected 10·K channels for 3 colours, 3·K for 1, got ", params.size(1));
  for (int dim : {0, 2, 3}) STD_TORCH_CHECK(params.size(dim) == values.size(dim), "params, values: expected one shape");
  check_floating(params, "params");
  const bool integers = values.scalar_type() == ScalarType::Byte || values.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(integers && values.device() == params.device(), "values: expected uint8 or int64, beside params");
  STD_TORCH_CHECK(levels >= 2 && levels <= kMaxLevels, "levels: expected 2 to ", kMaxLevels, ", got ", levels);
}

Tensor discretized_logistic_mixture_cpu(const Tensor& params, const Tensor& values, int64_t levels) {
  check(params, values, levels);
  const std::vector<int64_t> sizes = {params.size(0), params.size(2), params.size(3)};
  Tensor result = empty(params, sizes, accumulation_dtype(params.scalar_type()));
  if (result.numel() == 0) return result;
  FG_DISPATCH_FLOATING(params, "discretized_logistic_mixture",
                       forward<scalar_t>(params, values, levels, mutable_data<accumulation_t<scalar_t>>(result)));
  return result;
}

Tensor discretized_logistic_mixture_backward_cpu(const Tensor& grad_any, const Tensor& params, const Tensor& values,
                                                 int64_t levels) {
  check(params, values, levels);
  const std::vector<int64_t> sizes = {params.size(0), params.size(2), params.size(3)};
  check_tensor(grad_any, "grad_log_likelihood", sizes, accumulation_dtype(params.scalar_type()), params);
  const Tensor grad = as_contiguous(grad_any);
  Tensor grad_params = torch::stable::empty_like(params);
  if (params.numel() == 0) return grad_params;
  FG_DISPATCH_FLOATING(params, "discretized_logistic_mixture_backward",
                       backward<scalar_t>(data<accumulation_t<scalar_t>>(grad), params, values, levels, grad_params));
  return grad_params;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("discretized_logistic_mixture", TORCH_BOX(&discretized_logistic_mixture_cpu));
  m.impl("discretized_logistic_mixture_backward", TORCH_BOX(&discretized_logistic_mixture_backward_cpu));
}

}  // namespace fastgen
