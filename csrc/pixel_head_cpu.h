// pixel_head on the CPU: a block of pixels passes through both convolutions while it is in the caches, and back an
// image. Pixels lie in memory with their channels together. No torch headers.
#pragma once

#include "layouts_cpu.h"
#include "masked_conv2d_gradient_cpu.h"
#include "pixel_head.h"

namespace fastgen {

struct PixelHeadShapes {
  PixelConvolution hidden, output;

  PixelHeadShapes(int64_t N, int64_t H, int64_t W, const PixelHeadTaps& taps)
      : hidden{N, H, W, taps.hidden.I, taps.hidden.O, Crop(taps.hidden)},
        output{N, H, W, taps.output.I, taps.output.O, Crop(taps.output)} {}

  int64_t image() const { return hidden.H * hidden.W; }  // pixels
};

// Cropped weights (O, I) and biases, which may be null.
struct PixelHeadWeights {
  const float *hidden, *bias_hidden, *output, *bias_output;
};

template <typename T>
class PixelHeadProducts {
 public:
  PixelHeadProducts(const PixelHeadShapes& shapes, const PixelHeadWeights& w)
      : hidden_(shapes.hidden, false, w.hidden, w.bias_hidden),
        output_(shapes.output, false, w.output, w.bias_output) {}

  // Pixels [first, last) of all; between, after its ReLU, is null where nobody needs it.
  void run(int64_t first, int64_t last, const T* x, T* between, T* y) const {
    const int64_t C = hidden_.inputs(), M = hidden_.outputs(), P = output_.outputs();
    const auto relu = unwritten<T>(kGemmBlock * C), unused = unwritten<T>(between ? 0 : kGemmBlock * M);
    for (int64_t at = first; at < last; at += kGemmBlock) {
      const int64_t end = std::min(at + kGemmBlock, last), next = std::min(kGemmBlock, last - end) * C;
      const typename TapsProduct<T>::Ahead ahead{x + end * C, x + end * C, next};
      T* middle = between ? between + at * M : unused.get();
      relu_run((end - at) * C, x + at * C, relu.get());
      hidden_.run(at, end, relu.get(), nullptr, middle, true, &ahead);
      output_.run(at, end, middle, nullptr, y + at * P);
    }
  }

 private:
  TapsProduct<T> hidden_, output_;
};

template <typename T>
class PixelHeadGradients {
 public:
  TapsGradient<T> hidden, output;

  PixelHeadGradients(const PixelHeadShapes& shapes, const PixelHeadWeights& w)
      : hidden(shapes.hidden),
        output(shapes.output),
        shapes_(shapes),
        hidden_(shapes.hidden, true, w.hidden, nullptr),
        output_(shapes.output, true, w.output, nullptr) {}

  int64_t parts() const { return output.parts(); }

  // Parts [first, last), which are of the same images for both. planes: grad_y's channels are, as a loss leaves them;
  // an image's is laid out as pixels for itself, and all of it never is.
  void add(int64_t first, int64_t last, const T* grad_y, bool planes, const T* x, const T* between, T* grad_x) {
    const int64_t image = shapes_.image(), C = shapes_.hidden.I, M = shapes_.hidden.O, P = shapes_.output.O,
                  images = output.images();
    std::vector<T> grads(size_t(image * M)), relu(size_t(image * C));
    const auto laid_out = unwritten<T>(planes ? image * P : 0);
    typename TapsGradient<T>::Scratch for_hidden(shapes_.hidden), for_output(shapes_.output);
    for (int64_t n = first * images; n < std::min(last * images, shapes_.hidden.N); ++n) {
      const T *image_x = x + n * image * C, *middle = between + n * image * M;
      T* gx = grad_x + n * image * C;
      const T* arrived = grad_y + n * image * P;
      if (planes) {
        planes_to_pixels(P, image, 0, image, arrived, laid_out.get());
        arrived = laid_out.get();
      }
      output.add_image(n, middle, arrived, true, true, &output_, grads.data(), &for_output);
      relu_backward_run(image * M, middle, grads.data());
      relu_run(image * C, image_x, relu.data());
      hidden.add_image(n, relu.data(), grads.data(), true, true, &hidden_, gx, &for_hidden);
      relu_backward_run(image * C, image_x, gx);
    }
  }

 private:
  PixelHeadShapes shapes_;
  TapsProduct<T> hidden_, output_;
};

}  // namespace fastgen
