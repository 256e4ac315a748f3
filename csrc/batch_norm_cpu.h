// batch_norm on the CPU: passes over blocks, of rows that lie one behind the other
// channels_last  a row is as many whole pixels as make it wide, so that three channels fill vectors as well as 512
// contiguous     a channel of an image is rows and a rest of one channel
// Traffic        each image is read once and written once; statistics read a block again, from the first cache
// Numerics       sums of 32 rows in float, of these in double, in an order that no number of threads changes
// No torch headers.
#pragma once

#include <algorithm>
#include <vector>

#include "batch_norm.h"
#include "checked.h"

namespace fastgen {

constexpr int64_t kBlockRows = 32;
constexpr int64_t kRowWidth = 128;            // at least, in channels_last; of a contiguous channel
constexpr int64_t kGroup = int64_t(1) << 15;  // numbers that are added by one thread, or a little more

// Vectors of what a row's numbers belong to: of one channel (width 1) or of `width`.
template <typename A>
struct Vectors {
  const A *center, *scale, *shift;

  FG_HD Affine<A> at(int64_t j) const { return {center[j], scale[j], shift[j]}; }
};

// rows · width numbers; OneChannel: all of one
template <typename Store, typename A, Pointwise kind, bool OneChannel>
FG_VECTOR_CLONES void apply_block(int64_t rows, int64_t width, const typename Store::type* __restrict y, Vectors<A> of,
                                  A slope, typename Store::type* __restrict z) {
  for (int64_t r = 0; r < rows; ++r, y += width, z += width)
    for (int64_t j = 0; j < width; ++j)
      z[j] = Store::store(batch_norm_apply<kind, A>(Store::load(y[j]), of.at(OneChannel ? 0 : j), slope));
}

// grads and products: (width,), added to
template <typename Store, typename A, Pointwise kind>
FG_VECTOR_CLONES void backward_block(int64_t rows, int64_t width, const typename Store::type* __restrict grad_z,
                                     const typename Store::type* __restrict y, Vectors<A> of, A slope,
                                     typename Store::type* __restrict grad_y, A* __restrict grads,
                                     A* __restrict products) {
  for (int64_t r = 0; r < rows; ++r, grad_z += width, y += width, grad_y += width)
    for (int64_t j = 0; j < width; ++j) {
      const Affine<A> channel = of.at(j);
      const A value = Store::load(y[j]);
      const A g = batch_norm_apply_backward<kind, A>(Store::load(grad_z[j]), value, channel, slope);
      grad_y[j] = Store::store(g * channel.scale);
      grads[j] += g;
      products[j] += g * (value - channel.center);
    }
}

template <typename Store, typename A>
FG_VECTOR_CLONES void sum_block(int64_t rows, int64_t width, const typename Store::type* __restrict y,
                                A* __restrict sums) {
  for (int64_t r = 0; r < rows; ++r, y += width)
    for (int64_t j = 0; j < width; ++j) sums[j] += Store::load(y[j]);
}

// Σ (y − center)²
template <typename Store, typename A>
FG_VECTOR_CLONES void square_block(int64_t rows, int64_t width, const typename Store::type* __restrict y,
                                   const A* __restrict center, A* __restrict squares) {
  for (int64_t r = 0; r < rows; ++r, y += width)
    for (int64_t j = 0; j < width; ++j) {
      const A difference = Store::load(y[j]) - center[j];
      squares[j] += difference * difference;
    }
}

// sums (C,) += those of a row's pixels
template <typename A>
FG_VECTOR_CLONES void add_pixels(int64_t C, int64_t width, const A* __restrict row, double* __restrict sums) {
  for (int64_t at = 0; at < width; at += C)
    for (int64_t c = 0; c < C; ++c) sums[c] += double(row[at + c]);
}

// An image as rows: `count` pixels of C channels, which lie together.
struct PixelRows {
  int64_t C, count, pixels;  // pixels: of a row

  PixelRows(int64_t C, int64_t count)
      : C(C), count(count), pixels(std::max<int64_t>(1, std::min(ceil_div(kRowWidth, C), count))) {}

  int64_t width() const { return pixels * C; }
  // Pixels of what one thread adds, whole blocks.
  int64_t group() const {
    const int64_t block = kBlockRows * pixels;
    return ceil_div(kGroup, block * C) * block;
  }
  int64_t groups() const { return ceil_div(count, group()); }

  // body(first pixel, rows, width of a row) for blocks of pixels [begin, end); the last row may be narrower
  template <typename F>
  void blocks(int64_t begin, int64_t end, const F& body) const {
    while (begin < end) {
      const int64_t rows = std::min(kBlockRows, (end - begin) / pixels);
      if (rows == 0) return body(begin, int64_t(1), (end - begin) * C);
      body(begin, rows, width());
      begin += rows * pixels;
    }
  }

  // (C,) → (width,)
  template <typename A>
  std::vector<A> repeated(const A* vector) const {
    std::vector<A> result;
    for (int64_t i = 0; i < pixels; ++i) result.insert(result.end(), vector, vector + C);
    return result;
  }

  // sums (C,) += those of a row's pixels
  template <typename A>
  void fold(int64_t width, const A* row, double* sums) const {
    add_pixels(C, width, row, sums);
  }
};

// means, m2s (C,): of `count` numbers each, whom others join (Chan, Golub and LeVeque 1979)
FG_VECTOR_CLONES inline void join_moments(int64_t C, double count, double other, const double* __restrict mean,
                                          const double* __restrict m2, double* __restrict means,
                                          double* __restrict m2s) {
  const double share = other / (count + other), weight = count * share;
  for (int64_t c = 0; c < C; ++c) {
    const double difference = mean[c] - means[c];
    means[c] += difference * share;
    m2s[c] += m2[c] + difference * difference * weight;
  }
}

// Mean and M2 = Σ (y − mean)² of every channel, of pixels that come block by block.
template <typename Store, typename A>
class Moments {
 public:
  explicit Moments(const PixelRows& shape)
      : means(size_t(shape.C)),
        m2s(size_t(shape.C)),
        shape_(shape),
        sums_(size_t(shape.width())),
        centers_(size_t(shape.width())),
        mean_(size_t(shape.C)),
        m2_(size_t(shape.C)) {}

  // y: of pixel 0
  void add(int64_t begin, int64_t end, const typename Store::type* y) {
    const int64_t C = shape_.C;
    shape_.blocks(begin, end, [&](int64_t first, int64_t rows, int64_t width) {
      const double other = double(rows * (width / C));
      clear();
      sum_block<Store, A>(rows, width, y + first * C, sums_.data());
      shape_.fold(width, sums_.data(), mean_.data());
      for (double& mean : mean_) mean /= other;
      for (int64_t at = 0; at < width; at += C) std::copy(mean_.begin(), mean_.end(), centers_.begin() + at);
      std::fill(sums_.begin(), sums_.end(), A(0));
      square_block<Store, A>(rows, width, y + first * C, centers_.data(), sums_.data());
      shape_.fold(width, sums_.data(), m2_.data());
      join_moments(C, count, other, mean_.data(), m2_.data(), means.data(), m2s.data());
      count += other;
    });
  }

  void join(const Moments& other) {
    join_moments(shape_.C, count, other.count, other.means.data(), other.m2s.data(), means.data(), m2s.data());
    count += other.count;
  }

  double count = 0;
  std::vector<double> means, m2s;

 private:
  void clear() {
    std::fill(sums_.begin(), sums_.end(), A(0));
    std::fill(mean_.begin(), mean_.end(), 0.0);
    std::fill(m2_.begin(), m2_.end(), 0.0);
  }

  PixelRows shape_;
  std::vector<A> sums_, centers_;
  std::vector<double> mean_, m2_;
};

}  // namespace fastgen
