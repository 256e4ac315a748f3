// residual_block on the CPU: an image passes through all three convolutions while it is in the caches, forward in
// blocks of pixels, as none reads a later one. Pixels lie in memory with their channels together. No torch headers.
#pragma once

#include "masked_conv2d_gradient_cpu.h"
#include "residual_block.h"

namespace fastgen {

template <typename T>
FG_VECTOR_CLONES void relu_backward_add_run(int64_t count, const T* __restrict x, const T* __restrict more,
                                            T* __restrict grads) {
  for (int64_t i = 0; i < count; ++i)
    grads[i] = from_float<T>(Relu::backward(to_float(grads[i]), to_float(x[i])) + to_float(more[i]));
}

struct ResidualBlockShapes {
  PixelConvolution down, around, up;

  ResidualBlockShapes(int64_t N, int64_t H, int64_t W, const ResidualBlockTaps& taps)
      : down{N, H, W, taps.down.I, taps.down.O, Crop(taps.down)},
        around{N, H, W, taps.around.I, taps.around.O, Crop(taps.around)},
        up{N, H, W, taps.up.I, taps.up.O, Crop(taps.up)} {}

  int64_t image() const { return down.H * down.W; }  // pixels
};

// Cropped weights (O, I, taps) and biases, which may be null.
struct ResidualBlockWeights {
  const float *down, *bias_down, *around, *bias_around, *up, *bias_up;
};

template <typename T>
class ResidualBlockProducts {
 public:
  ResidualBlockProducts(const ResidualBlockShapes& shapes, const ResidualBlockWeights& w)
      : C_(shapes.down.I),
        M_(shapes.down.O),
        image_(shapes.image()),
        down_(shapes.down, false, w.down, w.bias_down),
        around_(shapes.around, false, w.around, w.bias_around),
        up_(shapes.up, false, w.up, w.bias_up) {}

  // One after the other, of pixels [first, last) of all, each of all before the next begins.
  void run_down(int64_t first, int64_t last, const T* x, T* below) const {
    const auto relu = unwritten<T>(kGemmBlock * C_);
    for (int64_t at = first; at < last; at += kGemmBlock) {
      const int64_t end = std::min(at + kGemmBlock, last);
      relu_run((end - at) * C_, x + at * C_, relu.get());
      down_.run(at, end, relu.get(), nullptr, below + at * M_, true);
    }
  }
  void run_around(int64_t first, int64_t last, const T* below, T* around,
                  const typename TapsProduct<T>::Ahead* ahead = nullptr) const {
    for (int64_t at = first; at < last; at += kGemmBlock) {
      const int64_t end = std::min(at + kGemmBlock, last);
      around_.run(at, end, below + at * M_, nullptr, around + at * M_, true, ahead);
    }
  }
  void run_up(int64_t first, int64_t last, const T* around, const T* x, T* y) const {
    up_.run(first, last, around + first * M_, x + first * C_, y + first * C_);
  }

  // All of it, of image n.
  void run(int64_t n, const T* x, T* below, T* around, T* y) const {
    for (int64_t first = n * image_; first < (n + 1) * image_; first += kGemmBlock) {
      const int64_t last = std::min(first + kGemmBlock, (n + 1) * image_);
      const int64_t next = std::min(kGemmBlock, (n + 1) * image_ - last) * C_;
      const typename TapsProduct<T>::Ahead ahead{x + last * C_, y + last * C_, next};
      run_down(first, last, x, below);
      run_around(first, last, below, around, &ahead);
      run_up(first, last, around, x, y);
    }
  }

 private:
  int64_t C_, M_, image_;
  TapsProduct<T> down_, around_, up_;
};

template <typename T>
class ResidualBlockGradients {
 public:
  TapsGradient<T> down, around, up;

  ResidualBlockGradients(const ResidualBlockShapes& shapes, const ResidualBlockWeights& w)
      : down(shapes.down),
        around(shapes.around),
        up(shapes.up),
        shapes_(shapes),
        down_(shapes.down, true, w.down, nullptr),
        around_(shapes.around, true, w.around, nullptr),
        up_(shapes.up, true, w.up, nullptr) {}

  int64_t parts() const { return up.parts(); }

  // Parts [first, last), which are of the same images for all three. below, around: the results between.
  void add(int64_t first, int64_t last, const T* grad_y, const T* x, const T* below, const T* between, T* grad_x) {
    const int64_t image = shapes_.image(), C = shapes_.down.I, M = shapes_.down.O, images = up.images();
    std::vector<T> grad_between(size_t(image * M)), grad_below(size_t(image * M)), relu(size_t(image * C));
    typename TapsGradient<T>::Scratch for_up(shapes_.up), for_around(shapes_.around), for_down(shapes_.down);
    for (int64_t n = first * images; n < std::min(last * images, shapes_.down.N); ++n) {
      const T *gy = grad_y + n * image * C, *image_x = x + n * image * C;
      const T *a = below + n * image * M, *b = between + n * image * M;
      T* gx = grad_x + n * image * C;
      up.add_image(n, b, gy, true, true, &up_, grad_between.data(), &for_up);
      relu_backward_run(image * M, b, grad_between.data());
      around.add_image(n, a, grad_between.data(), true, true, &around_, grad_below.data(), &for_around);
      relu_backward_run(image * M, a, grad_below.data());
      relu_run(image * C, image_x, relu.data());
      down.add_image(n, relu.data(), grad_below.data(), true, true, &down_, gx, &for_down);
      relu_backward_add_run(image * C, image_x, gy, gx);
    }
  }

 private:
  ResidualBlockShapes shapes_;
  TapsProduct<T> down_, around_, up_;
};

}  // namespace fastgen
