// conv2d_image and conv2d_image_weight on the CPU, float32: a thread copies bands of the image's rows between zeros, so
// that every pixel of the result reads runs of numbers, and all of its channels come from one product. The gradient to
// the weight is a sum of outer products, in parts that are added in their order, whoever has computed them. In bfloat16
// the convolution multiplies pairs of pixels beside each other: a kernel's width is even. No torch headers.
#pragma once

#include <cmath>

#include "activation.h"
#include "conv2d_image.h"
#include "layouts_cpu.h"
#include "places_product_cpu.h"

namespace fastgen {

// The rows of an image that some rows of the result read.
template <typename T>
class ImageBand {
 public:
  ImageBand(const ImageConvolution& shape, int64_t rows)
      : shape_(shape),
        width_((shape.w - 1) * shape.stride[1] + shape.KW),
        plane_(checked_multiply((rows - 1) * shape.stride[0] + shape.KH, width_)),
        planes_(size_t(checked_multiply(shape.I, plane_)), T(0)) {}

  int64_t row() const { return width_; }
  // Of a run, a colour and a row of the kernel, from the first number on.
  int64_t at(int64_t run) const { return run / shape_.KH * plane_ + run % shape_.KH * width_; }
  const T* numbers() const { return planes_.data(); }

  // Those of rows [first, first + rows) of the result; x: the image
  void load(int64_t first, int64_t rows, const T* x) {
    const int64_t begin = std::min(shape_.padding[1], width_);
    const int64_t count = std::max<int64_t>(0, std::min(shape_.W, width_ - begin));
    for (int64_t i = 0; i < shape_.I; ++i)
      for (int64_t r = 0; r < (rows - 1) * shape_.stride[0] + shape_.KH; ++r) {
        const int64_t from = first * shape_.stride[0] - shape_.padding[0] + r;
        T* to = &planes_[size_t(i * plane_ + r * width_ + begin)];
        if (from < 0 || from >= shape_.H)
          std::fill_n(to, count, T(0));
        else
          std::copy_n(x + (i * shape_.H + from) * shape_.W, count, to);
      }
  }

 private:
  ImageConvolution shape_;
  int64_t width_, plane_;
  std::vector<T> planes_;  // zeros where there is no image
};

template <typename T>
class ConvolvedImage {
 public:
  // w (O, I, KH, KW), contiguous; bias may be null
  ConvolvedImage(const ImageConvolution& shape, const float* w, const float* bias, LayerActivation activation)
      : shape_(shape),
        activation_(activation),
        rows_(ceil_div(shape.h, ceil_div(shape.h, std::max<int64_t>(1, kPixels / shape.w)))),
        product_(lengths(shape, bias), shape.O, matrix(shape, w, bias)) {}

  int64_t items() const { return checked_multiply(shape_.N, bands()); }  // bands, image by image

  // x (N, I, H, W), y (N, h, w, O), or in planes (N, O, h, w)
  void run(int64_t first, int64_t last, const T* x, bool planes, T* y) const {
    const int64_t pixels = rows_ * shape_.w, rest = (shape_.h - (bands() - 1) * rows_) * shape_.w;  // of a last band
    const int64_t O = shape_.O, columns = product_.columns();
    ImageBand<T> band(shape_, rows_);
    const auto places = read(band, pixels), last_places = rest == pixels ? places : read(band, rest);
    constexpr bool kRounds = !std::is_same_v<T, float>;
    const bool there = columns == O && !planes && !kRounds;  // sums are where they belong
    std::vector<float> sums(size_t(there ? 0 : pixels * columns)), turned(size_t(planes && kRounds ? pixels * O : 0));
    for (int64_t item = first; item < last; ++item) {
      const int64_t n = item / bands(), r = item % bands() * rows_, count = std::min(pixels, (shape_.h - r) * shape_.w);
      const int64_t image = n * O * shape_.h * shape_.w, pixel = r * shape_.w;
      band.load(r, count / shape_.w, x + n * shape_.I * shape_.H * shape_.W);
      float* found = sums.data();
      if constexpr (!kRounds)
        if (there) found = y + image + pixel * O;
      product_.run(count, count == pixels ? places : last_places, found);
      activate_rows(activation_, 1, count * columns, 0, found);
      if (there) continue;
      if (planes) {
        T* const to = y + image + pixel;
        if constexpr (kRounds) {
          transpose_rows(O, count, found, columns, turned.data(), count);
          for (int64_t o = 0; o < O; ++o) store(count, &turned[size_t(o * count)], to + o * shape_.h * shape_.w);
        } else {
          transpose_rows(O, count, found, columns, to, shape_.h * shape_.w);
        }
      } else if (columns == O) {
        store(count * O, found, y + image + pixel * O);
      } else {
        for (int64_t m = 0; m < count; ++m) store(O, found + m * columns, y + image + (pixel + m) * O);
      }
    }
  }

 private:
  static constexpr int64_t kPixels = 128;  // of a band: what they read is in the first cache

  int64_t bands() const { return ceil_div(shape_.h, rows_); }  // of an image

  static void store(int64_t count, const float* sums, T* y) {
    if constexpr (std::is_same_v<T, float>)
      std::copy_n(sums, count, y);
    else
      tile_sets<T>().back().finish(count, sums, nullptr, false, y);
  }

  // Where so many pixels of a band read: found once, as the divisions would take as long as the products.
  std::vector<const T*> read(const ImageBand<T>& band, int64_t pixels) const {
    static const T ones[] = {from_float<T>(1.0f), from_float<T>(1.0f)};
    std::vector<int64_t> moved;
    for (int64_t m = 0; m < pixels; ++m)
      moved.push_back(m / shape_.w * shape_.stride[0] * band.row() + m % shape_.w * shape_.stride[1]);
    return product_.places(pixels, [&](int64_t run, int64_t m) {
      return run == shape_.runs() ? ones : band.numbers() + band.at(run) + moved[size_t(m)];
    });
  }

  static std::vector<int64_t> lengths(const ImageConvolution& shape, const float* bias) {
    std::vector<int64_t> found(size_t(shape.runs()), shape.KW / Word<T>::kNumbers);
    if (bias) found.push_back(1);  // the weight of a one
    return found;
  }

  static std::vector<float> matrix(const ImageConvolution& shape, const float* w, const float* bias) {
    std::vector<float> found;
    found.reserve(size_t((shape.taps() + 1) * shape.O));
    for (int64_t k = 0; k < shape.taps(); ++k)
      for (int64_t o = 0; o < shape.O; ++o) found.push_back(w[o * shape.taps() + k]);
    if (!bias) return found;
    found.insert(found.end(), bias, bias + shape.O);
    if constexpr (!std::is_same_v<T, float>)  // and what rounding leaves of it: of an infinite one nothing
      for (int64_t o = 0; o < shape.O; ++o) {
        const float rest = bias[o] - to_float(from_float<T>(bias[o]));
        found.push_back(std::isfinite(rest) ? rest : 0.0f);
      }
    return found;
  }

  ImageConvolution shape_;
  LayerActivation activation_;
  int64_t rows_;  // of a band's result
  PlacesProduct<T> product_;
};

// Of the weight, and of the bias as that of one tap more, which reads ones.
class ConvolvedImageGradient {
 public:
  explicit ConvolvedImageGradient(const ImageConvolution& shape)
      : shape_(shape),
        columns_(OuterProducts<float>(shape.w, shape.O).columns()),
        rows_(std::min(OuterProducts<float>(shape.w, shape.O).rows(), shape.h)),
        bands_(checked_multiply(shape.N, ceil_div(shape.h, rows_))),
        bands_of_part_(std::max<int64_t>(1, ceil_div(bands_, kMostParts))),
        sums_(size_t(checked_multiply(parts(), part())), 0.0f) {}

  int64_t parts() const { return ceil_div(bands_, bands_of_part_); }

  // Parts [first, last); x (N, I, H, W), grads (N, h, w, O), or in planes (N, O, h, w)
  void add(int64_t first, int64_t last, const float* x, bool planes, const float* grads) {
    const int64_t bands = bands_ / shape_.N, w = shape_.w;  // of an image
    ImageBand<float> band(shape_, rows_);
    OuterProducts<float> product(w, shape_.O);
    const int64_t run = shape_.stride[0] * band.row(), step = shape_.stride[1];
    const std::vector<float> ones(size_t((rows_ - 1) * run + (w - 1) * step + 1), 1.0f);
    std::vector<int64_t> read;
    for (int64_t k = 0; k < shape_.taps(); ++k) read.push_back(band.at(k / shape_.KW) + k % shape_.KW);
    const std::vector<int64_t> itself = {0};
    std::vector<float> pixels(size_t(planes ? rows_ * w * shape_.O : 0));
    for (int64_t b = first * bands_of_part_; b < std::min(last * bands_of_part_, bands_); ++b) {
      const int64_t n = b / bands, r = b % bands * rows_, rows = std::min(rows_, shape_.h - r);
      band.load(r, rows, x + n * shape_.I * shape_.H * shape_.W);
      float* const sums = &sums_[size_t(b / bands_of_part_ * part())];
      const float* from = grads + n * shape_.O * shape_.h * w + r * w * (planes ? 1 : shape_.O);
      if (planes) {
        transpose_rows(rows * w, shape_.O, from, shape_.h * w, pixels.data(), shape_.O);
        from = pixels.data();
      }
      product.add({band.numbers(), run, step}, rows, read, from, sums);
      product.add({ones.data(), run, step}, rows, itself, from, sums + shape_.taps() * columns_);
    }
  }

  // weight (O, I, KH, KW), bias (O)
  void finish(float* weight, float* bias) const {
    std::vector<float> sum(size_t(part()), 0.0f);
    for (int64_t p = 0; p < parts(); ++p)
      for (int64_t i = 0; i < part(); ++i) sum[size_t(i)] += sums_[size_t(p * part() + i)];
    for (int64_t o = 0; o < shape_.O; ++o) {
      for (int64_t k = 0; k < shape_.taps(); ++k) weight[o * shape_.taps() + k] = sum[size_t(k * columns_ + o)];
      bias[o] = sum[size_t(shape_.taps() * columns_ + o)];
    }
  }

 private:
  static constexpr int64_t kMostParts = 16;

  int64_t part() const { return (shape_.taps() + 1) * columns_; }

  ImageConvolution shape_;
  int64_t columns_, rows_, bands_, bands_of_part_;
  std::vector<float> sums_;
};

}  // namespace fastgen
