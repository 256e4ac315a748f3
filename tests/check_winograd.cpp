// winograd by the tiles of every instruction set of this machine, against plain loops; a line for each set and product:
// its name, the largest error in units of the sum's magnitude, and how many numbers outside were written.
#include <cmath>
#include <cstdio>

#include "winograd_weight_cpu.h"

namespace {

using namespace fastgen;

constexpr float kUntouched = 777.0f;

std::vector<float> random_numbers(int64_t count) {
  static uint32_t state = 1;
  std::vector<float> found(static_cast<size_t>(count));
  for (float& each : found) state = state * 1664525u + 1013904223u, each = float(state >> 8) / 8388608.0f - 1.0f;
  return found;
}

// body(small's index, large's index, weight's index) of every product of the convolution
template <typename F>
void each_product(const Halving& s, const F& body) {
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t at = 0; at < s.h * s.w * 16; ++at) {
      const int64_t i = at / 16 / s.w, j = at / 16 % s.w, k = at % 16 / 4, l = at % 4;
      const int64_t row = 2 * i - 1 + k, column = 2 * j - 1 + l;
      if (row < 0 || row >= 2 * s.h || column < 0 || column >= 2 * s.w) continue;
      const int64_t small = ((n * s.h + i) * s.w + j) * s.S, large = ((n * 2 * s.h + row) * 2 * s.w + column) * s.L;
      for (int64_t a = 0; a < s.S; ++a)
        for (int64_t b = 0; b < s.L; ++b) body(small + a, large + b, (a * s.L + b) * 16 + k * 4 + l);
    }
}

struct Errors {
  double worst = 0;
  int64_t outside = 0;

  void compare(const std::vector<float>& found, const std::vector<double>& right, double magnitude) {
    for (size_t i = 0; i < right.size(); ++i)
      worst = std::fmax(worst, std::isnan(found[i]) ? INFINITY : std::fabs(found[i] - right[i]) / magnitude);
    for (size_t i = right.size(); i < found.size(); ++i) outside += found[i] != kUntouched;
  }
};

template <typename Product>
std::vector<float> image(const GemmIsa& isa, const Halving& shape, int64_t threads, bool blocked, size_t count,
                         const std::vector<float>& x, const std::vector<float>& w, const std::vector<float>& bias,
                         LayerActivation activation) {
  const Product product(shape, threads, activation, isa);
  std::vector<float> y(count + 5, kUntouched), packed(size_t(product.weight().size()));
  if (blocked) {
    const TileNumbers inputs = product.inputs(shape.tiles());
    std::vector<float> components(size_t(inputs.size()));
    product.transform(0, shape.tiles(), x.data(), 0, inputs, components.data());
    product.run_blocks(0, product.blocks(), components.data(), w.data(), bias.data(), y.data());
    return y;
  }
  product.weight().pack(0, product.weight().items(), w.data(), packed.data());
  const int64_t middle = product.items() / 2;  // as two threads have it
  product.run(0, middle, x.data(), packed.data(), bias.data(), y.data());
  product.run(middle, product.items(), x.data(), packed.data(), bias.data(), y.data());
  return y;
}

std::vector<float> weight(const GemmIsa& isa, const Halving& shape, const std::vector<float>& large,
                          const std::vector<float>& small) {
  const WinogradToWeight product(shape, isa);
  std::vector<float> x(size_t(product.large_size())), y(size_t(product.small_size()));
  std::vector<float> found(size_t(shape.S * shape.L * 16 + 5), kUntouched);
  for (int64_t channel = 0; channel < shape.L; channel += product.block()) {
    const int64_t channels = std::min(product.block(), shape.L - channel);
    std::vector<float> sums(size_t(product.sums_size()), 0.0f);
    for (int64_t begin = 0; begin < shape.tiles(); begin += product.part()) {
      const int64_t tiles = std::min(product.part(), shape.tiles() - begin);
      product.transform(begin, tiles, 0, tiles, channel, channels, large.data(), small.data(), x.data(), y.data());
      product.add(tiles, channels, 0, product.items(channels), x.data(), y.data(), sums.data());
    }
    product.finish(0, channels, channel, channels, sums.data(), found.data());
  }
  return found;
}

void report(const GemmIsa& isa, const char* what, const Errors& errors) {
  std::printf("%s_%s %.3e %lld\n", isa.name, what, errors.worst, static_cast<long long>(errors.outside));
}

}  // namespace

int main() {
  // the last but one: sums in two blocks of channels; the last: more tiles than a part of a weight's gradient, and than
  // stay in the caches
  const Halving shapes[] = {{2, 16, 32, 2, 3},  {1, 80, 16, 3, 4},  {3, 32, 80, 1, 1},
                            {1, 16, 16, 37, 2}, {1, 480, 48, 1, 1}, {3, 16, 16, 29, 33}};
  for (const GemmIsa& isa : gemm_isas()) {
    Errors to_small, to_large, to_weight;
    for (const Halving& s : shapes) {
      const std::vector<float> small = random_numbers(s.N * s.h * s.w * s.S), w = random_numbers(s.S * s.L * 16),
                               large = random_numbers(s.N * s.h * s.w * 4 * s.L), bias = random_numbers(s.S + s.L);
      std::vector<double> y(small.size()), x(large.size()), grad(w.size());
      for (size_t i = 0; i < y.size(); ++i) y[i] = bias[i % size_t(s.S)];
      for (size_t i = 0; i < x.size(); ++i) x[i] = bias[i % size_t(s.L)];
      each_product(s, [&](int64_t i, int64_t j, int64_t k) {
        y[size_t(i)] += double(large[size_t(j)]) * w[size_t(k)];
        x[size_t(j)] += double(small[size_t(i)]) * w[size_t(k)];
        grad[size_t(k)] += double(small[size_t(i)]) * large[size_t(j)];
      });
      for (LayerActivation activation : {LayerActivation{}, LayerActivation{Pointwise::kLeakyRelu, 0.5f}}) {
        for (std::vector<double>* image : {&y, &x})
          for (double& value : *image) value = value < 0 && activation.slope > 0 ? activation.slope * value : value;
        for (int64_t threads : {1, 7})
          for (bool blocked : {false, true}) {
            to_small.compare(image<WinogradToSmall>(isa, s, threads, blocked, y.size(), large, w, bias, activation), y,
                             std::sqrt(16.0 * double(s.L)));
            to_large.compare(image<WinogradToLarge>(isa, s, threads, blocked, x.size(), small, w, bias, activation), x,
                             std::sqrt(4.0 * double(s.S)));
          }
      }
      to_weight.compare(weight(isa, s, large, small), grad, std::sqrt(double(s.N * s.h * s.w)));
    }
    report(isa, "small", to_small);
    report(isa, "large", to_large);
    report(isa, "weight", to_weight);
  }
}
