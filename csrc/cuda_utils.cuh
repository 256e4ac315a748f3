// What every launch needs: the device guard, the current stream, a check afterwards. Included by .cu files only.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda_types.cuh"
#include "tensor_utils.h"

// Weak: the library also loads beside a torch without CUDA, where no launch can happen.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace fastgen {

// torch's half types, as CUDA names them: the same bits.
template <typename T>
struct CudaType {
  using type = T;
};
template <>
struct CudaType<torch::headeronly::Half> {
  using type = __half;
};
template <>
struct CudaType<torch::headeronly::BFloat16> {
  using type = __nv_bfloat16;
};

// Run `...`, one call, with cuda_t bound to the tensor's floating-point type.
#define FG_DISPATCH_FLOATING_CUDA(tensor, name, ...)  \
  FG_DISPATCH_FLOATING(tensor, name, [&] {            \
    using cuda_t = typename CudaType<scalar_t>::type; \
    __VA_ARGS__;                                      \
  }())

// Makes the tensor's device current while it lives; `stream` is torch's current stream there.
struct CudaScope {
  explicit CudaScope(const Tensor& tensor) : guard(tensor.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch was built without CUDA");
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }

  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
};

inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(
      error != cudaErrorNoKernelImageForDevice, kernel,
      ": not built for this GPU; rebuild with its target in FASTGEN_CUDA_ARCHS (`fastgen info` lists both)");
  STD_TORCH_CHECK(error == cudaSuccess, kernel, ": launch failed: ", cudaGetErrorString(error));
}

// A grid of `blocks` blocks, refused where it would overflow; kernels that loop may ask for fewer.
inline dim3 grid_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "tensor too large: ", blocks, " blocks, a grid holds ", INT32_MAX);
  return dim3(static_cast<unsigned>(blocks));
}

// Whether every pointer allows packs of V elements.
template <int V, typename... T>
bool aligned_for(const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % (V * sizeof(T)) == 0) && ...);
}

}  // namespace fastgen
