// gated_layer on the CPU: a block of pixels passes through all four convolutions while it is in the caches, and back an
// image. Pixels lie in memory with their channels together. No torch headers.
#pragma once

#include "gated_layer.h"
#include "masked_conv2d_gradient_cpu.h"

namespace fastgen {

// ---- gates of pixels, whose 2p numbers are p of the tanh and p of the sigmoid

// pre → the factors, which may lie where it does, and their product
template <typename T>
FG_VECTOR_CLONES void gate_pixels(int64_t pixels, int64_t p, const T* pre, T* factors, T* y) {
  for (int64_t m = 0; m < pixels; ++m, pre += 2 * p, factors += 2 * p, y += p) {
#pragma GCC ivdep
    for (int64_t d = 0; d < p; ++d) {
      const float t = tanh(to_float(pre[d])), s = sigmoid(to_float(pre[p + d]));
      factors[d] = from_float<T>(t);
      factors[p + d] = from_float<T>(s);
      y[d] = from_float<T>(t * s);
    }
  }
}

template <typename T>
FG_VECTOR_CLONES void multiply_factors(int64_t pixels, int64_t p, const T* __restrict factors, T* __restrict y) {
  for (int64_t m = 0; m < pixels; ++m, factors += 2 * p, y += p)
    for (int64_t d = 0; d < p; ++d) y[d] = from_float<T>(to_float(factors[d]) * to_float(factors[p + d]));
}

// From the product's gradient to those of what the factors are of.
template <typename T>
FG_VECTOR_CLONES void factors_backward(int64_t pixels, int64_t p, const T* __restrict grad_y,
                                       const T* __restrict factors, T* __restrict grads) {
  for (int64_t m = 0; m < pixels; ++m, grad_y += p, factors += 2 * p, grads += 2 * p)
#pragma GCC ivdep
    for (int64_t d = 0; d < p; ++d) {
      const float g = to_float(grad_y[d]), t = to_float(factors[d]), s = to_float(factors[p + d]);
      grads[d] = from_float<T>(g * s * (1.0f - t * t));
      grads[p + d] = from_float<T>(g * t * s * (1.0f - s));
    }
}

// The same from what was before the gate, added to what is there.
template <typename T>
FG_VECTOR_CLONES void add_gate_backward(int64_t pixels, int64_t p, const T* __restrict grad_y, const T* __restrict pre,
                                        T* __restrict grads) {
  for (int64_t m = 0; m < pixels; ++m, grad_y += p, pre += 2 * p, grads += 2 * p)
#pragma GCC ivdep
    for (int64_t d = 0; d < p; ++d) {
      float a, b;
      gated_activation_backward(to_float(grad_y[d]), to_float(pre[d]), to_float(pre[p + d]), &a, &b);
      grads[d] = from_float<T>(to_float(grads[d]) + a);
      grads[p + d] = from_float<T>(to_float(grads[p + d]) + b);
    }
}

template <typename T, typename More>
FG_VECTOR_CLONES void add_numbers(int64_t count, const More* __restrict more, T* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = from_float<T>(to_float(y[i]) + to_float(more[i]));
}

// ---- the layer

struct GatedLayerShapes {
  PixelConvolution vertical, link, horizontal, out;

  GatedLayerShapes(int64_t N, int64_t H, int64_t W, const GatedLayerTaps& taps)
      : vertical{N, H, W, taps.p, 2 * taps.p, taps.vertical()},
        link{N, H, W, 2 * taps.p, 2 * taps.p, GatedLayerTaps::point()},
        horizontal{N, H, W, taps.p, 2 * taps.p, Crop(taps.horizontal)},
        out{N, H, W, taps.p, taps.p, Crop(taps.out)} {}

  int64_t image() const { return out.H * out.W; }  // pixels
};

// Cropped weights (O, I, taps), and biases and numbers of classes, which may be null.
struct GatedLayerWeights {
  const float *vertical, *bias_vertical, *link, *bias_link, *horizontal, *bias_horizontal, *out, *bias_out;
  const float *class_above, *class_here;
};

template <typename T>
class GatedLayerProducts {
 public:
  GatedLayerProducts(const GatedLayerShapes& shapes, const GatedLayerWeights& w)
      : p_(shapes.out.I),
        image_(shapes.image()),
        weights_(w),
        vertical_(shapes.vertical, false, w.vertical, w.bias_vertical),
        link_(shapes.link, false, w.link, w.bias_link),
        horizontal_(shapes.horizontal, false, w.horizontal, w.bias_horizontal),
        out_(shapes.out, false, w.out, w.bias_out) {}

  // Pixels [first, last) of all; above and factors (of `here`) are null where nobody needs them.
  void run(int64_t first, int64_t last, const T* v, const T* h, T* next_v, T* next_h, T* above, T* factors) const {
    const int64_t size = kGemmBlock * 2 * p_;
    const auto sums = unwritten<T>(size), here = unwritten<T>(size), unused = unwritten<T>(size),
               gated = unwritten<T>(size / 2);
    while (first < last) {
      const int64_t n = first / image_, end = std::min({first + kGemmBlock, (n + 1) * image_, last});
      const int64_t pixels = end - first, at = first * p_;
      T *a = above ? above + 2 * at : sums.get(), *f = factors ? factors + 2 * at : unused.get();
      vertical_.run(first, end, v + at, nullptr, a);
      add_class(n, pixels, weights_.class_above, a);
      horizontal_.run(first, end, h + at, nullptr, here.get());
      link_.run(first, end, a, here.get(), unused.get());
      add_class(n, pixels, weights_.class_here, unused.get());
      gate_pixels(pixels, p_, unused.get(), f, gated.get());
      out_.run(first, end, gated.get(), h + at, next_h + at);
      gate_pixels(pixels, p_, a, unused.get(), next_v + at);
      first = end;
    }
  }

 private:
  void add_class(int64_t n, int64_t pixels, const float* numbers, T* y) const {
    for (int64_t m = 0; numbers && m < pixels; ++m) add_numbers(2 * p_, numbers + n * 2 * p_, y + m * 2 * p_);
  }

  int64_t p_, image_;
  GatedLayerWeights weights_;
  TapsProduct<T> vertical_, link_, horizontal_, out_;
};

// What a layer has read and kept, and the gradients of its results; of v' there may be none.
template <typename T>
struct GatedLayerKept {
  const T *grad_v, *grad_h, *v, *h, *above, *factors;
};

// Where gradients go; those of a class (N, 2p).
template <typename T>
struct GatedLayerFound {
  T *v, *h;
  float *class_above, *class_here;
};

template <typename T>
class GatedLayerGradients {
 public:
  TapsGradient<T> vertical, link, horizontal, out;

  GatedLayerGradients(const GatedLayerShapes& shapes, const GatedLayerWeights& w)
      : vertical(shapes.vertical),
        link(shapes.link),
        horizontal(shapes.horizontal),
        out(shapes.out),
        shapes_(shapes),
        vertical_(shapes.vertical, true, w.vertical, nullptr),
        link_(shapes.link, true, w.link, nullptr),
        horizontal_(shapes.horizontal, true, w.horizontal, nullptr),
        out_(shapes.out, true, w.out, nullptr) {}

  int64_t parts() const { return out.parts(); }

  // Parts [first, last), which are of the same images for all four.
  void add(int64_t first, int64_t last, const GatedLayerKept<T>& kept, const GatedLayerFound<T>& found) {
    const int64_t image = shapes_.image(), p = shapes_.out.I, all = image * p, images = out.images();
    std::vector<T> gated(size_t(all), T(0)), grad_gated(gated), grad_here(size_t(2 * all)), grad_above(grad_here);
    typename TapsGradient<T>::Scratch for_vertical(shapes_.vertical), for_link(shapes_.link),
        for_horizontal(shapes_.horizontal), for_out(shapes_.out);
    for (int64_t n = first * images; n < std::min(last * images, shapes_.out.N); ++n) {
      const T *grad_h = kept.grad_h + n * all, *above = kept.above + 2 * n * all, *factors = kept.factors + 2 * n * all;
      multiply_factors(image, p, factors, gated.data());
      out.add_image(n, gated.data(), grad_h, true, true, &out_, grad_gated.data(), &for_out);
      factors_backward(image, p, grad_gated.data(), factors, grad_here.data());
      horizontal.add_image(n, kept.h + n * all, grad_here.data(), true, true, &horizontal_, found.h + n * all,
                           &for_horizontal);
      add_numbers(all, grad_h, found.h + n * all);
      link.add_image(n, above, grad_here.data(), true, true, &link_, grad_above.data(), &for_link);
      if (kept.grad_v) add_gate_backward(image, p, kept.grad_v + n * all, above, grad_above.data());
      vertical.add_image(n, kept.v + n * all, grad_above.data(), true, true, &vertical_, found.v + n * all,
                         &for_vertical);
      sum_pixels(image, 2 * p, grad_above.data(), found.class_above + n * 2 * p);
      sum_pixels(image, 2 * p, grad_here.data(), found.class_here + n * 2 * p);
    }
  }

 private:
  static void sum_pixels(int64_t pixels, int64_t width, const T* x, float* y) {
    std::fill_n(y, width, 0.0f);
    add_pixels(pixels, width, x, y);
  }

  GatedLayerShapes shapes_;
  TapsProduct<T> vertical_, link_, horizontal_, out_;
};

}  // namespace fastgen
