// A convolution's products in bfloat16, shared out over threads: of images that lie in channels_last, as a
// perceptron's rows do, which are images of one pixel.
#pragma once

#include "conv2d_products_cpu.h"
#include "conv2d_weight_cpu.h"
#include "tensor_utils.h"

namespace fastgen {

// y: the convolution of `image` with `weight`, in float or bfloat16; bias: O numbers, or null
template <typename W>
void convolve_pixels(const ImageConvolution& shape, const KernelLayout& kernel, const bfloat16* image, const W* weight,
                     const float* bias, LayerActivation activation, bfloat16* y) {
  const ConvolvedPixels<W> product(shape, kernel, bias, activation);
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, product.items(), ceil_div(product.items(), threads),
                              [&](int64_t first, int64_t last) { product.run(first, last, image, weight, y); });
}

// The sums of few items, as an image of few colours has: a thread takes blocks, of parts that no number of threads
// changes, and adds each part apart.
inline void add_blocks(const ConvolutionWeight& product, const bfloat16* image, const bfloat16* grad, float* weight) {
  constexpr int64_t kParts = 16;
  const int64_t blocks = product.blocks(), each = ceil_div(blocks, kParts), size = product.sums_size();
  const auto sums = unwritten<float>(ceil_div(blocks, each) * size);
  torch::stable::parallel_for(0, ceil_div(blocks, each), 1, [&](int64_t part, int64_t end) {
    const auto pixels = unwritten<uint32_t>(product.image_size()), grads = unwritten<uint32_t>(product.grad_size());
    for (; part < end; ++part)
      for (int64_t block = part * each; block < std::min((part + 1) * each, blocks); ++block) {
        product.pack(block, 0, product.packed_rows(), image, grad, pixels.get(), grads.get());
        product.add(block, 0, product.items(), pixels.get(), grads.get(), block == part * each,
                    sums.get() + part * size, nullptr);
      }
  });
  for (int64_t part = 1; part < ceil_div(blocks, each); ++part)
    for (int64_t i = 0; i < size; ++i) sums[size_t(i)] += sums[size_t(part * size + i)];
  product.answer(sums.get(), weight);
}

// What ConvolutionWeight answers of images and gradients, of which there are some; like: of the device.
inline void add_weight_products(const ImageConvolution& shape, bool as_added, const bfloat16* image,
                                const bfloat16* grad, const Tensor& like, float* weight) {
  constexpr int64_t kRowsOfThread = 4;  // worth a thread's while
  constexpr int64_t kFew = 8;
  const ConvolutionWeight product(shape, as_added);
  if (product.items() < kFew && product.blocks() > 1) return add_blocks(product, image, grad, weight);
  const auto words = [&](int64_t count) { return empty(like, {count}, ScalarType::Float); };  // of 32 bits
  Tensor x = words(product.image_size()), y = words(product.grad_size()), kept = words(product.sums_size());
  uint32_t* const pixels = static_cast<uint32_t*>(x.mutable_data_ptr());
  uint32_t* const grads = static_cast<uint32_t*>(y.mutable_data_ptr());
  float* const sums = mutable_data<float>(kept);
  for (int64_t block = 0; block < product.blocks(); ++block) {
    torch::stable::parallel_for(0, product.packed_rows(), kRowsOfThread, [&](int64_t first, int64_t last) {
      product.pack(block, first, last, image, grad, pixels, grads);
    });
    float* const answer = block == product.blocks() - 1 ? weight : nullptr;
    torch::stable::parallel_for(0, product.items(), 1, [&](int64_t first, int64_t last) {
      const auto own = unwritten<float>(product.sums_size() ? 0 : product.item_size());
      product.add(block, first, last, pixels, grads, block == 0, product.sums_size() ? sums : own.get(), answer);
    });
  }
}

}  // namespace fastgen
