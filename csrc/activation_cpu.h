// activation and activation_backward on the CPU
// Math    result = activation(x)
//         grad_x[n, p, c] = grad[n, p, c] · activation'(result[n, p, c]);  sums[c] = Σ over n, p of grad_x[n, p, c]
// Shapes  backward, result, grad_x: pixels (N · P, C); grad: pixels, or planes (N, C, P)
// Traffic 1 read, 1 write; backward 2 and 1: planes are laid out a block at a time, in the first caches
// Numerics sums of 32 rows in float, of these in double, in an order that no number of threads changes
// No torch headers.
#pragma once

#include <algorithm>
#include <vector>

#include "activation.h"
#include "batch_norm_cpu.h"
#include "layouts_cpu.h"

namespace fastgen {

template <typename Store, typename A, Pointwise kind>
FG_VECTOR_CLONES void activation_run(int64_t count, const typename Store::type* __restrict x, A slope,
                                     typename Store::type* __restrict result) {
  for (int64_t i = 0; i < count; ++i) result[i] = Store::store(activate<kind, A>(Store::load(x[i]), slope));
}

template <typename Store, typename A, Pointwise kind>
FG_VECTOR_CLONES void activation_backward_run(int64_t count, const typename Store::type* __restrict grad,
                                              const typename Store::type* __restrict result, A slope,
                                              typename Store::type* __restrict grad_x) {
  for (int64_t i = 0; i < count; ++i)
    grad_x[i] = Store::store(activate_backward<kind, A>(Store::load(grad[i]), Store::load(result[i]), slope));
}

// How tasks go over images: some whole ones, or a part of one, of whole squares.
class ImageParts {
 public:
  ImageParts(int64_t N, int64_t C, int64_t pixels)
      : N_(N),
        C_(C),
        pixels_(pixels),
        images_(std::max<int64_t>(1, kGroup / (C * pixels))),
        part_(std::min(pixels, ceil_div(ceil_div(kGroup, C), kSquare) * kSquare)),
        parts_(ceil_div(pixels, part_)) {}

  int64_t channels() const { return C_; }
  int64_t pixels() const { return pixels_; }
  int64_t tasks() const { return ceil_div(N_, images_) * parts_; }

  // body(where an image's numbers begin, its first pixel, its last)
  template <typename F>
  void of(int64_t task, const F& body) const {
    const int64_t first = task / parts_ * images_, begin = task % parts_ * part_;
    for (int64_t n = first; n < std::min(first + images_, N_); ++n)
      body(n * C_ * pixels_, begin, std::min(begin + part_, pixels_));
  }

 private:
  int64_t N_, C_, pixels_, images_, part_, parts_;
};

// sums (C,): of the task's pixels, added to
template <typename Store, typename A, Pointwise kind>
void activation_backward_task(const ImageParts& parts, int64_t task, bool planes, const typename Store::type* grad,
                              const typename Store::type* result, A slope, typename Store::type* grad_x, double* sums) {
  using T = typename Store::type;
  const int64_t C = parts.channels();
  std::vector<A> row;
  std::vector<T> laid_out;
  parts.of(task, [&](int64_t image, int64_t begin, int64_t end) {
    const PixelRows rows(C, end - begin);
    row.resize(size_t(rows.width()));
    if (planes) laid_out.resize(size_t(kBlockRows * rows.width()));
    rows.blocks(begin, end, [&](int64_t first, int64_t count, int64_t width) {
      const int64_t at = image + first * C;
      if (planes) planes_to_pixels(C, parts.pixels(), 0, count * width / C, grad + image + first, laid_out.data());
      std::fill(row.begin(), row.end(), A(0));
      activation_backward_run<Store, A, kind>(count * width, planes ? laid_out.data() : grad + at, result + at, slope,
                                              grad_x + at);
      sum_block<Store, A>(count, width, grad_x + at, row.data());
      rows.fold(width, row.data(), sums);
    });
  });
}

}  // namespace fastgen
