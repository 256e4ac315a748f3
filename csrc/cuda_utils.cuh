// From torch to a launch: the device guard, the current stream, a check afterwards. Included by .cu files only.
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

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(
      error != cudaErrorNoKernelImageForDevice, op,
      ": not built for this GPU; rebuild with its target in FASTGEN_CUDA_ARCHS (`fastgen info` lists both)");
  STD_TORCH_CHECK(error == cudaSuccess, op, ": launch failed: ", cudaGetErrorString(error));
}

inline dim3 grid_of(int64_t x, unsigned y = 1) {
  STD_TORCH_CHECK(x <= INT32_MAX, "tensor too large: ", x, " blocks, a grid holds ", INT32_MAX);
  return {static_cast<unsigned>(x), y};
}

// What a `<op>_launch` calls for every kernel. No blocks, as for an empty tensor: nothing is launched.
struct Launcher {
  const char* op;
  cudaStream_t stream;

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), Grid grid, int threads, Arguments... arguments) const {
    if (grid.x == 0) return;
    kernel<<<grid_of(grid.x, grid.y), threads, 0, stream>>>(arguments...);
    check_launch(op);
  }

  // All blocks at once, so that they may wait for one another; refused where they do not fit.
  template <typename... Parameters, typename... Arguments>
  void cooperative(void (*kernel)(Parameters...), Grid grid, int threads, Arguments... arguments) const {
    if (grid.x == 0) return;
    cudaLaunchAttribute together = {};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid_of(grid.x, grid.y);
    config.blockDim = dim3(unsigned(threads));
    config.stream = stream;
    config.attrs = &together;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, arguments...);
    check_launch(op);
  }
};

// Makes the tensor's device current while it lives; its launchers use torch's current stream there.
struct CudaScope {
  explicit CudaScope(const Tensor& tensor) : guard(tensor.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch was built without CUDA");
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }

  Launcher launcher(const char* op) const { return {op, stream}; }

  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
};

}  // namespace fastgen
