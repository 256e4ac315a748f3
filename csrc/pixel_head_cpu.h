// pixel_head on the CPU: a block of pixels passes through both convolutions while it is in the caches, and back an
// image. Pixels lie in memory with their channels together. No torch headers.
#pragma once

#include "masked_conv2d_products_cpu.h"
#include "pixel_head.h"
#include "relu_runs_cpu.h"

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

class PixelHeadProducts {
 public:
  PixelHeadProducts(const PixelHeadShapes& shapes, const PixelHeadWeights& w)
      : hidden_(shapes.hidden, false, w.hidden, w.bias_hidden),
        output_(shapes.output, false, w.output, w.bias_output) {}

  // Pixels [first, last) of all; between, after its ReLU, is null where nobody needs it.
  void run(int64_t first, int64_t last, const float* x, float* between, float* y) const {
    const int64_t C = hidden_.inputs(), M = hidden_.outputs(), P = output_.outputs();
    std::vector<float> relu(size_t(kGemmBlock * C)), unused(size_t(between ? 0 : kGemmBlock * M));
    for (int64_t at = first; at < last; at += kGemmBlock) {
      const int64_t end = std::min(at + kGemmBlock, last), next = std::min(kGemmBlock, last - end) * C;
      const TapsProduct::Ahead ahead{x + end * C, x + end * C, next};
      float* middle = between ? between + at * M : unused.data();
      relu_run((end - at) * C, x + at * C, relu.data());
      hidden_.run(at, end, relu.data(), nullptr, middle, &ahead);
      relu_run((end - at) * M, middle, middle);
      output_.run(at, end, middle, nullptr, y + at * P);
    }
  }

 private:
  TapsProduct hidden_, output_;
};

class PixelHeadGradients {
 public:
  TapsGradient hidden, output;

  PixelHeadGradients(const PixelHeadShapes& shapes, const PixelHeadWeights& w)
      : hidden(shapes.hidden),
        output(shapes.output),
        shapes_(shapes),
        hidden_(shapes.hidden, true, w.hidden, nullptr),
        output_(shapes.output, true, w.output, nullptr) {}

  int64_t parts() const { return output.parts(); }

  // Parts [first, last), which are of the same images for both.
  void add(int64_t first, int64_t last, const float* grad_y, const float* x, const float* between, float* grad_x) {
    const int64_t image = shapes_.image(), C = shapes_.hidden.I, M = shapes_.hidden.O, P = shapes_.output.O,
                  images = output.images();
    std::vector<float> grads(size_t(image * M)), relu(size_t(image * C));
    TapsGradient::Scratch for_hidden(shapes_.hidden), for_output(shapes_.output);
    for (int64_t n = first * images; n < std::min(last * images, shapes_.hidden.N); ++n) {
      const float *image_x = x + n * image * C, *middle = between + n * image * M;
      float* gx = grad_x + n * image * C;
      output.add_image(n, middle, grad_y + n * image * P, true, true, &output_, grads.data(), &for_output);
      relu_backward_run(image * M, middle, grads.data());
      relu_run(image * C, image_x, relu.data());
      hidden.add_image(n, relu.data(), grads.data(), true, true, &hidden_, gx, &for_hidden);
      relu_backward_run(image * C, image_x, gx);
    }
  }

 private:
  PixelHeadShapes shapes_;
  TapsProduct hidden_, output_;
};

}  // namespace fastgen
