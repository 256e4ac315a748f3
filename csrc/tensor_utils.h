// What the torch side of every op needs, over the LibTorch Stable ABI. The only helper that knows torch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "activation.h"
#include "checked.h"
#include "half.h"
#include "layouts_cpu.h"

namespace fastgen {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An argument of type str. As std::string torch's headers (2.11 to 2.13) would make one on the heap that nobody
// deletes, in each call: 48 bytes, behind which the allocator then finds no place for an image that it has freed.
struct Text : std::string {
  using std::string::string;
  explicit Text(const std::string& text) : std::string(text) {}
};

// As STABLE_TORCH_LIBRARY_IMPL, for both namespaces of fastgen/ops/_registry.py.
#define FG_KERNELS(key, m)                                                              \
  static void kernels_of_##key(torch::stable::detail::StableLibrary&);                  \
  STABLE_TORCH_LIBRARY_IMPL(fastgen, key, library) { kernels_of_##key(library); }       \
  STABLE_TORCH_LIBRARY_IMPL(fastgen_below, key, library) { kernels_of_##key(library); } \
  static void kernels_of_##key(torch::stable::detail::StableLibrary& m)

// Run `...`, one call, with scalar_t bound to the tensor's floating-point type.
#define FG_DISPATCH_FLOATING(tensor, name, ...)                                                              \
  THO_DISPATCH_V2((tensor).scalar_type(), name, AT_WRAP([&] { __VA_ARGS__; }), AT_EXPAND(AT_FLOATING_TYPES), \
                  torch::headeronly::ScalarType::Half, torch::headeronly::ScalarType::BFloat16)

// How a CPU loop reads and writes a tensor of scalar_t: half types as bit patterns, which compilers can vectorise.
template <typename T>
struct Storage {
  using type = T;
  static FG_HD T load(T value) { return value; }
  static FG_HD T store(T value) { return value; }
};
template <>
struct Storage<torch::headeronly::BFloat16> {
  using type = uint16_t;
  static FG_HD float load(uint16_t bits) { return bfloat16_to_float(bits); }
  static FG_HD uint16_t store(float value) { return float_to_bfloat16(value); }
};
template <>
struct Storage<torch::headeronly::Half> {
  using type = uint16_t;
  static FG_HD float load(uint16_t bits) { return float16_to_float(bits); }
  static FG_HD uint16_t store(float value) { return float_to_float16(value); }
};
template <typename T>
using storage_t = typename Storage<T>::type;

template <typename T>
const storage_t<T>* data(const Tensor& tensor) {
  return static_cast<const storage_t<T>*>(tensor.const_data_ptr());
}
template <typename T>
storage_t<T>* mutable_data(Tensor& tensor) {
  return static_cast<storage_t<T>*>(tensor.mutable_data_ptr());
}

inline ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

inline int64_t product(const std::vector<int64_t>& sizes, size_t first = 0) {
  int64_t result = 1;
  for (size_t i = first; i < sizes.size(); ++i) result = checked_multiply(result, sizes[i]);
  return result;
}

// Uninitialised memory on the device of `like`, by a direct call: through the dispatcher's boxed path it would cost
// more than a small op. In torch's deterministic mode it is filled with NaN, which tests rely on.
inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype,
                    bool channels_last = false) {
  int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  const std::vector<int64_t> memory =  // the order in which it lies
      channels_last ? std::vector<int64_t>{sizes[0], sizes[2], sizes[3], sizes[1]} : sizes;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(like.get(), memory.data(), static_cast<int64_t>(memory.size()),
                                                   &code, nullptr, nullptr, 0, nullptr, &handle));
  const Tensor flat(handle);
  if (!channels_last) return flat;
  const int64_t C = std::max<int64_t>(sizes[1], 1), H = std::max<int64_t>(sizes[2], 1),
                W = std::max<int64_t>(sizes[3], 1), strides[] = {H * W * C, 1, W * C, C};
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(flat.get(), 4, sizes.data(), strides, 0, &handle));
  return Tensor(handle);
}

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes) {
  return empty(like, sizes, like.scalar_type());
}

// Of a side of an image or a kernel, so that none of what is made of two overflows.
constexpr int64_t kMost = int64_t(1) << 24;

// ---- what every op checks of its tensors at its entry, for whoever calls it past the public function

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline void check_pair(const std::vector<int64_t>& values, const char* name, int64_t least) {
  STD_TORCH_CHECK(values.size() == 2, name, ": expected two values, got ", values.size());
  for (int64_t value : values)
    STD_TORCH_CHECK(value >= least && value < kMost, name, ": expected at least ", least, " and less than ", kMost,
                    ", got ", value);
}

inline void check_floating(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(is_floating(tensor.scalar_type()), name, ": expected float32, float64, float16 or bfloat16");
}

template <typename Sizes>
bool has_sizes(const Tensor& tensor, const Sizes& sizes) {
  const auto own = tensor.sizes();
  return std::equal(own.begin(), own.end(), sizes.begin(), sizes.end());
}

// Shape, dtype and device: those of a tensor that belongs to `like`, which may be itself of any shape and dtype.
template <typename Sizes>
void check_tensor(const Tensor& tensor, const char* name, const Sizes& sizes, ScalarType dtype, const Tensor& like) {
  STD_TORCH_CHECK(has_sizes(tensor, sizes), name, ": expected another shape");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, ": expected another dtype");
  STD_TORCH_CHECK(tensor.device() == like.device(), name, ": expected the device of the other tensors");
}

inline void check_same(const Tensor& tensor, const char* name, const Tensor& like) {
  check_tensor(tensor, name, like.sizes(), like.scalar_type(), like);
}

inline Pointwise checked_pointwise(const Text& name) {
  const Pointwise kind = pointwise(name);
  STD_TORCH_CHECK(kind != Pointwise::kUnknown, "activation: expected none, relu, leaky_relu or tanh, got ", name);
  return kind;
}

inline LayerActivation checked_layer(const Text& name, double slope) { return {checked_pointwise(name), float(slope)}; }

// Through the dispatcher, which takes over what `stack` refers to.
inline std::vector<Tensor> call_aten(const char* name, const char* overload, StableIValue* stack, size_t results) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack, TORCH_ABI_VERSION));
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < results; ++i) tensors.push_back(torch::stable::detail::to<Tensor>(stack[i]));
  return tensors;
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline std::optional<Tensor> checked_bias(const std::optional<Tensor>& bias, const char* name, int64_t O,
                                          const Tensor& x) {
  if (!bias) return std::nullopt;
  check_tensor(*bias, name, std::vector<int64_t>{O}, ScalarType::Float, x);
  return as_contiguous(*bias);
}

// Where the numbers of a tensor are that may not be there.
inline const float* numbers(const std::optional<Tensor>& tensor) { return tensor ? data<float>(*tensor) : nullptr; }

inline bool is_channels_last(const Tensor& x) {  // and not contiguous as well: the layout contract of the ops
  if (x.is_contiguous()) return false;
  int64_t expected = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (x.size(dim) == 1) continue;
    if (x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

// ---- CPU loops over rows of runs

constexpr int64_t kGrain = 8192;  // elements worth a thread's while

// Split rows·run elements over threads and call body(row, first, count) for pieces that stay within one run.
template <typename F>
void parallel_over_runs(int64_t rows, int64_t run, const F& body) {
  torch::stable::parallel_for(0, rows * run, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row = begin / run, first = begin % run, count = std::min(run - first, end - begin);
      body(row, first, count);
      begin += count;
    }
  });
}

// ---- layouts of images

template <typename T>
void planes_to_pixels(int64_t N, int64_t C, int64_t pixels, const T* x, T* y) {
  const int64_t strips = (pixels + kSquare - 1) / kSquare, image = C * pixels;
  const int64_t grain = std::max<int64_t>(1, kGrain / (kSquare * C));
  torch::stable::parallel_for(0, N * strips, grain, [&](int64_t at, int64_t end) {
    for (; at < end; ++at) {
      const int64_t n = at / strips, first = at % strips * kSquare, last = std::min(first + kSquare, pixels);
      planes_to_pixels(C, pixels, first, last, x + n * image, y + n * image);
    }
  });
}

inline Tensor in_channels_last(const Tensor& image) {
  const int64_t N = image.size(0), C = image.size(1), H = image.size(2), W = image.size(3);
  const bool planes = image.is_contiguous() && image.device().is_cpu() && is_floating(image.scalar_type());
  if (!planes || image.numel() == 0 || C == 1 || H * W == 1)  // as it is, or as torch does it
    return torch::stable::contiguous(image, torch::headeronly::MemoryFormat::ChannelsLast);
  Tensor found = empty(image, {N, C, H, W}, image.scalar_type(), true);
  FG_DISPATCH_FLOATING(image, "channels_last",
                       planes_to_pixels(N, C, H * W, data<scalar_t>(image), mutable_data<scalar_t>(found)));
  return found;
}

inline Tensor in_layout(const Tensor& image, bool channels_last) {
  return channels_last ? in_channels_last(image) : as_contiguous(image);
}

}  // namespace fastgen

// How TORCH_BOX reads a Text: the handle is its own, and is deleted.
template <>
struct torch::stable::detail::ToImpl<fastgen::Text> {
  static fastgen::Text call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = torch::stable::detail::to<StringHandle>(value);
    size_t length;
    const char* text;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
    fastgen::Text result(text, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return result;
  }
};
