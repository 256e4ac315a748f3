// image_conv2d on the CPU, float32: a thread takes rows of pixels, whose planes it has copied between zeros, so that
// each pixel reads a few runs of numbers, and all of its channels come from one product. No torch headers.
#pragma once

#include "image_conv2d.h"
#include "places_product_cpu.h"

namespace fastgen {

class ImageConv2dProduct {
 public:
  // w cropped, (O, I, crop.KH, crop.KW); bias may be null
  ImageConv2dProduct(const ImageConv2dRuns& runs, int64_t H, int64_t W, const float* w, const float* bias)
      : runs_(runs), H_(H), W_(W), product_(lengths(runs, bias), runs.taps.O, matrix(runs, w, bias)) {}

  // Rows [first, last) of all images' rows; x (N, I, H, W), y (N, H, W, O)
  void run(int64_t first, int64_t last, const float* x, float* y) const {
    static constexpr float kOne = 1.0f;
    const int64_t I = runs_.taps.I, O = runs_.taps.O, top = runs_.crop.top, left = runs_.crop.left;
    const int64_t width = left + W_ + runs_.crop.right, plane = (top + std::min(H_, last - first)) * width;
    std::vector<float> planes(size_t(I * plane), 0.0f),
        sums(size_t(product_.columns() == O ? 0 : W_ * product_.columns()));
    const auto begin = product_.places(W_, [&](int64_t run, int64_t m) -> const float* {
      return run == runs_.count() ? &kOne
                                  : &planes[size_t(run / runs_.rows() * plane + run % runs_.rows() * width + m)];
    });
    for (int64_t row = first; row < last;) {
      const int64_t n = row / H_, r = row % H_, rows = std::min(H_ - r, last - row);
      for (int64_t i = 0; i < I; ++i)
        for (int64_t f = 0; f < top + rows; ++f) {
          float* to = &planes[size_t(i * plane + f * width + left)];
          const int64_t from = r - top + f;
          if (from < 0)
            std::fill_n(to, W_, 0.0f);
          else
            std::copy_n(x + ((n * I + i) * H_ + from) * W_, W_, to);
        }
      std::vector<const float*> read = begin;
      for (int64_t done = 0; done < rows; ++done, ++row) {
        float* const found = sums.empty() ? y + row * W_ * O : sums.data();
        product_.run(W_, read, found);
        for (int64_t m = 0; !sums.empty() && m < W_; ++m)
          std::copy_n(found + m * product_.columns(), O, y + (row * W_ + m) * O);
        for (int64_t run = 0; done + 1 < rows && run < runs_.count(); ++run)
          product_.move(W_, run, width, nullptr, &read);
      }
    }
  }

 private:
  static std::vector<int64_t> lengths(const ImageConv2dRuns& runs, const float* bias) {
    std::vector<int64_t> found;
    for (int64_t run = 0; run < runs.count(); ++run) found.push_back(runs.length(run % runs.rows()));
    if (bias) found.push_back(1);  // the weight of a one
    return found;
  }

  static std::vector<float> matrix(const ImageConv2dRuns& runs, const float* w, const float* bias) {
    const int64_t I = runs.taps.I, O = runs.taps.O, taps = runs.crop.KH * runs.crop.KW;
    std::vector<float> found;
    found.reserve(size_t((runs.numbers() + 1) * O));
    for (int64_t i = 0; i < I; ++i)
      for (int64_t tap = 0; tap < runs.crop.live; ++tap)
        for (int64_t o = 0; o < O; ++o) found.push_back(w[(o * I + i) * taps + tap]);
    if (bias) found.insert(found.end(), bias, bias + O);
    return found;
  }

  ImageConv2dRuns runs_;
  int64_t H_, W_;
  PlacesProduct<float> product_;
};

}  // namespace fastgen
