// batch_norm_train on the CPU: a pass for the sums of every channel, a pass that writes
// Blocks   up to 32 rows, `pitch` apart, of numbers that lie together: of pixels in channels_last; else of an image's
//          planes, whole ones of some channels, or parts of one
// Traffic  forward 2 reads, 1 write; backward 4 reads, 1 write. A contiguous channel's second pass is a thread's own,
//          behind the first; in channels_last it goes backward, so that it meets what the caches still hold
// Numerics sums of 32 rows in float, of these in double, in an order that no number of threads changes. Squares are
//          taken around a guess of the mean, and again around the mean where the guess was far off
// No torch headers.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "batch_norm_cpu.h"
#include "batch_norm_train.h"

namespace fastgen {

// ---- rows · width numbers, rows `pitch` apart

constexpr int64_t kAhead = int64_t(1) << 14;  // bytes

// Asks for four rows that come later: streams that are read in turns are none that a processor follows by itself.
template <typename T>
FG_HD void prefetch_rows(int64_t width, int64_t pitch, const T* x) {
  const int64_t size = int64_t(sizeof(T)), ahead = std::max<int64_t>(4, kAhead / (pitch * size)) * pitch;
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t j = 0; j < width; j += 64 / size) __builtin_prefetch(x + ahead + r * pitch + j, 0, 2);
}

// sums and squares (width,), added to: Σ d, Σ d², d = x − center
template <typename Store, typename A>
FG_VECTOR_CLONES void sum_rows(int64_t rows, int64_t width, int64_t pitch, const typename Store::type* __restrict x,
                               const A* __restrict center, A* __restrict sums, A* __restrict squares) {
  for (; rows >= 4; rows -= 4, x += 4 * pitch) {  // four at once, as sums are loaded and stored as well
    prefetch_rows(width, pitch, x);
    const typename Store::type *x1 = x + pitch, *x2 = x1 + pitch, *x3 = x2 + pitch;
    for (int64_t j = 0; j < width; ++j) {
      const A a = Store::load(x[j]) - center[j], b = Store::load(x1[j]) - center[j];
      const A c = Store::load(x2[j]) - center[j], d = Store::load(x3[j]) - center[j];
      sums[j] += (a + b) + (c + d);
      squares[j] += (a * a + b * b) + (c * c + d * d);
    }
  }
  for (; rows > 0; --rows, x += pitch)
    for (int64_t j = 0; j < width; ++j) {
      const A d = Store::load(x[j]) - center[j];
      sums[j] += d;
      squares[j] += d * d;
    }
}

template <typename Store, typename A, Pointwise kind>
FG_VECTOR_CLONES void apply_rows(int64_t rows, int64_t width, int64_t pitch, const typename Store::type* __restrict x,
                                 Vectors<A> of, A slope, typename Store::type* __restrict z) {
  for (; rows > 0; --rows, x += pitch, z += pitch)
    for (int64_t j = 0; j < width; ++j)
      z[j] = Store::store(batch_norm_apply<kind, A>(Store::load(x[j]), of.at(j), slope));
}

// sums and products (width,), added to: Σ g, Σ g · (x − center)
template <typename Store, typename A, Pointwise kind>
FG_VECTOR_CLONES void sum_gradients(int64_t rows, int64_t width, int64_t pitch,
                                    const typename Store::type* __restrict grad_z,
                                    const typename Store::type* __restrict x, Vectors<A> of, A slope,
                                    A* __restrict sums, A* __restrict products) {
  for (; rows >= 4; rows -= 4, x += 4 * pitch, grad_z += 4 * pitch) {
    prefetch_rows(width, pitch, x);
    prefetch_rows(width, pitch, grad_z);
    for (int64_t j = 0; j < width; ++j) {
      const Affine<A> channel = of.at(j);
      A g[4], product[4];
      for (int64_t i = 0; i < 4; ++i) {
        const A value = Store::load(x[i * pitch + j]), grad = Store::load(grad_z[i * pitch + j]);
        g[i] = batch_norm_apply_backward<kind, A>(grad, value, channel, slope);
        product[i] = g[i] * (value - channel.center);
      }
      sums[j] += (g[0] + g[1]) + (g[2] + g[3]);
      products[j] += (product[0] + product[1]) + (product[2] + product[3]);
    }
  }
  for (; rows > 0; --rows, x += pitch, grad_z += pitch)
    for (int64_t j = 0; j < width; ++j) {
      const Affine<A> channel = of.at(j);
      const A value = Store::load(x[j]);
      const A g = batch_norm_apply_backward<kind, A>(Store::load(grad_z[j]), value, channel, slope);
      sums[j] += g;
      products[j] += g * (value - channel.center);
    }
}

template <typename Store, typename A, Pointwise kind>
FG_VECTOR_CLONES void backward_rows(int64_t rows, int64_t width, int64_t pitch,
                                    const typename Store::type* __restrict grad_z,
                                    const typename Store::type* __restrict x, Vectors<A> of, const A* __restrict lift,
                                    const A* __restrict tilt, A slope, typename Store::type* __restrict grad_x) {
  for (; rows > 0; --rows, x += pitch, grad_z += pitch, grad_x += pitch)
    for (int64_t j = 0; j < width; ++j) {
      const Affine<A> channel = of.at(j);
      const A value = Store::load(x[j]);
      const A g = batch_norm_apply_backward<kind, A>(Store::load(grad_z[j]), value, channel, slope);
      grad_x[j] = Store::store(batch_norm_train_backward<A>(g, value, channel, lift[j], tilt[j]));
    }
}

// Σ of numbers that lie together
template <typename A>
FG_VECTOR_CLONES double sum_run(int64_t count, const A* __restrict numbers) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int64_t lane = 0; lane < 8; ++lane) lanes[lane] += double(numbers[i + lane]);
  double sum = 0;
  for (; i < count; ++i) sum += double(numbers[i]);
  return sum + (((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])));
}

// ---- how tasks go over an image (N, C, P), or over pixels (N · P, C)

class Walk {
 public:
  Walk(int64_t N, int64_t C, int64_t P, bool channels_last)
      : N_(N), C_(C), P_(P), last_(channels_last), rows_(last_ ? C : 1, last_ ? N * P : P) {}

  int64_t count() const { return N_ * P_; }
  int64_t channels() const { return C_; }
  // Whether no two tasks share a channel.
  bool apart() const { return !last_; }
  int64_t tasks() const { return last_ ? rows_.groups() : ceil_div(C_, at_once()); }
  int64_t grain() const { return last_ ? 1 : ceil_div(kGroup, at_once() * count()); }  // tasks worth a thread's while
  int64_t first(int64_t task) const { return last_ ? 0 : task * at_once(); }
  int64_t end(int64_t task) const { return last_ ? C_ : std::min(C_, (task + 1) * at_once()); }
  // Of the widest row.
  int64_t width(int64_t task) const { return last_ || long_() ? rows_.width() : (end(task) - first(task)) * part(); }

  // body(where the block is, rows, width, pitch)
  template <typename F>
  void blocks(int64_t task, const F& body) const {
    if (last_) {
      rows_.blocks(task * rows_.group(), std::min(rows_.count, (task + 1) * rows_.group()),
                   [&](int64_t pixel, int64_t rows, int64_t width) { body(pixel * C_, rows, width, width); });
    } else if (long_()) {
      for (int64_t n = 0; n < N_; ++n)
        rows_.blocks(0, P_, [&](int64_t pixel, int64_t rows, int64_t width) {
          body((n * C_ + task) * P_ + pixel, rows, width, width);
        });
    } else {
      const int64_t channels = end(task) - first(task);
      for (int64_t n = 0; n < N_; n += kBlockRows)
        for (int64_t p = 0; p < P_; p += part())
          body((n * C_ + first(task)) * P_ + p, std::min(kBlockRows, N_ - n), channels * std::min(part(), P_ - p),
               C_ * P_);
    }
  }

  // What belongs to every number of a row, of vectors (C,)
  template <typename A>
  std::vector<A> spread(int64_t task, const std::vector<A>& vector) const {
    if (last_) return rows_.repeated(vector.data());
    std::vector<A> result(static_cast<size_t>(width(task)));
    const int64_t copies = width(task) / (end(task) - first(task));
    for (int64_t c = first(task), at = 0; c < end(task); ++c, at += copies)
      std::fill_n(result.begin() + at, copies, vector[size_t(c)]);
    return result;
  }

  // sums (C,) += those of a row
  template <typename A>
  void fold(int64_t task, int64_t width, const A* row, double* sums) const {
    if (last_) return rows_.fold(width, row, sums);
    const int64_t copies = width / (end(task) - first(task));
    for (int64_t c = first(task); c < end(task); ++c, row += copies) sums[c] += sum_run(copies, row);
  }

  // Where number i of the first channel is, and how far the next channel's is from there.
  int64_t at(int64_t i) const { return i / P_ * P_ * C_ + i % P_ * (last_ ? C_ : 1); }
  int64_t stride() const { return last_ ? 1 : P_; }

 private:
  static constexpr int64_t kTogether = 512, kLong = 4096, kPart = 1024;

  bool long_() const { return P_ >= kLong; }                                              // a plane is rows of its own
  int64_t at_once() const { return std::max<int64_t>(1, std::min(C_, kTogether / P_)); }  // channels
  int64_t part() const { return ceil_div(P_, ceil_div(P_, kPart)); }                      // of a plane, in a row

  int64_t N_, C_, P_;
  bool last_;
  PixelRows rows_;
};

// Two sums of every channel, (2, C), of all tasks' parts.
class ChannelSums {
 public:
  explicit ChannelSums(const Walk& walk)
      : walk_(walk), C_(walk.channels()), sums_(size_t(2 * C_ * (walk.apart() ? 1 : walk.tasks()))) {}

  // From channel c on, once they are there.
  const double* first(int64_t c) const { return &sums_[size_t(c)]; }
  const double* second(int64_t c) const { return &sums_[size_t(C_ + c)]; }

  // Those of a task, whose blocks `add` adds to two rows: add(where the block is, rows, width, pitch, row, row)
  template <typename A, typename F>
  void of(int64_t task, const F& add) {
    double* const to = &sums_[size_t(walk_.apart() ? 0 : 2 * C_ * task)];
    for (int64_t c = walk_.first(task); c < walk_.end(task); ++c) to[c] = to[C_ + c] = 0;
    const int64_t widest = walk_.width(task);
    std::vector<A> rows(size_t(2 * widest));
    walk_.blocks(task, [&](int64_t at, int64_t count, int64_t width, int64_t pitch) {
      std::fill(rows.begin(), rows.end(), A(0));
      add(at, count, width, pitch, rows.data(), rows.data() + widest);
      walk_.fold(task, width, rows.data(), to);
      walk_.fold(task, width, rows.data() + widest, to + C_);
    });
  }

  void join() {
    if (walk_.apart()) return;
    for (int64_t task = 1; task < walk_.tasks(); ++task)
      for (int64_t i = 0; i < 2 * C_; ++i) sums_[size_t(i)] += sums_[size_t(2 * C_ * task + i)];
  }

 private:
  const Walk& walk_;
  int64_t C_;
  std::vector<double> sums_;
};

// begin(channels) of a task, sum(task), finish(channels), which may ask for sums once more, and write(task);
// parallel(body, backward): over all tasks, each thread from its last to its first
template <typename Parallel, typename Begin, typename Sum, typename Finish, typename Write>
void in_two_passes(const Walk& walk, ChannelSums& sums, const Parallel& parallel, const Begin& begin, const Sum& sum,
                   const Finish& finish, const Write& write) {
  if (walk.apart()) {
    parallel(
        [&](int64_t task) {
          const int64_t first = walk.first(task), end = walk.end(task);
          begin(first, end);
          sum(task);
          if (finish(first, end)) sum(task), finish(first, end);
          write(task);
        },
        false);
    return;
  }
  const auto all = [&] {
    parallel(sum, false);
    sums.join();
    return finish(0, walk.channels());
  };
  begin(0, walk.channels());
  if (all()) all();
  parallel(write, true);
}

// ---- statistics

// A guess of the means, of channels [first, end): of a few numbers, far from each other.
template <typename Store, typename A>
void guess_means(const Walk& walk, const typename Store::type* x, int64_t first, int64_t end, A* guess) {
  constexpr int64_t kSome = 8;
  std::fill(guess + first, guess + end, A(0));
  for (int64_t i = 0; i < kSome; ++i) {
    const typename Store::type* some = x + walk.at(i * walk.count() / kSome);
    for (int64_t c = first; c < end; ++c) guess[c] += Store::load(some[c * walk.stride()]) / A(kSome);
  }
  for (int64_t c = first; c < end; ++c) guess[c] = std::isfinite(guess[c]) ? guess[c] : A(0);
}

// ---- what becomes of the sums of C channels of `count` numbers

// Mean and M2 from sums around `guess`. Whether one lies too far off for the digits of M2: all are the means then.
template <typename A>
FG_VECTOR_CLONES bool moments_from(int64_t C, double count, const double* __restrict sums,
                                   const double* __restrict squares, A* __restrict guess, A* __restrict mean,
                                   A* __restrict m2) {
  int64_t far = 0;
  for (int64_t c = 0; c < C; ++c) {
    const double shift = sums[c] / count, off = sums[c] * shift, rest = squares[c] - off;
    mean[c] = A(double(guess[c]) + shift);
    m2[c] = A(rest < 0 ? 0 : rest);
    far += off > 4 * rest ? 1 : 0;
  }
  if (far > 0)
    for (int64_t c = 0; c < C; ++c) guess[c] = std::isfinite(mean[c]) ? mean[c] : guess[c];
  return far > 0;
}

template <typename A>
FG_VECTOR_CLONES void scales_from(int64_t C, double count, double eps, const A* __restrict weight,
                                  const A* __restrict m2, A* __restrict scale) {
  for (int64_t c = 0; c < C; ++c) scale[c] = A(double(weight[c]) / sqrt(double(m2[c]) / count + eps));
}

template <typename A>
struct ChannelGradients {
  const A *mean, *m2;              // as they arrive
  A *lift, *tilt, *weight, *bias;  // as they are found
};

template <typename A>
FG_VECTOR_CLONES void gradients_from(int64_t C, double count, double eps, const double* __restrict sums,
                                     const double* __restrict products, const A* __restrict m2,
                                     const A* __restrict scale, ChannelGradients<A> to) {
  const A *const to_mean = to.mean, *const to_m2 = to.m2;
  A* __restrict const lift = to.lift;
  A* __restrict const tilt = to.tilt;
  A* __restrict const weight = to.weight;
  A* __restrict const bias = to.bias;
  for (int64_t c = 0; c < C; ++c) {
    const double variance = double(m2[c]) / count + eps;
    weight[c] = A(products[c] / sqrt(variance));
    bias[c] = A(sums[c]);
    lift[c] = A((double(to_mean[c]) - double(scale[c]) * sums[c]) / count);
    tilt[c] = A(2 * double(to_m2[c]) - double(scale[c]) * products[c] / (variance * count));
  }
}

}  // namespace fastgen
