// rsample_kl: launches.
#include "cuda_utils.cuh"
#include "rsample_kl_cuda.cuh"

namespace fastgen {
namespace {

constexpr int64_t kWarpRow = 512;  // rows up to here are one warp's work

template <typename T>
void forward(cudaStream_t stream, int64_t N, int64_t R, const T* mu, const T* logvar, const int64_t* seed, T* z,
             accumulation_t<T>* kl) {
  const bool vector = aligned_for<4>(mu, logvar, z);
  if (R <= kWarpRow)
    rsample_kl_kernel<T, 32><<<grid_of(ceil_div(N * 32, kRsampleThreads)), kRsampleThreads, 0, stream>>>(
        N, R, vector, mu, logvar, seed, z, kl);
  else
    rsample_kl_kernel<T, kRsampleThreads>
        <<<grid_of(N), kRsampleThreads, 0, stream>>>(N, R, vector, mu, logvar, seed, z, kl);
}

template <typename T>
void backward(cudaStream_t stream, int64_t N, int64_t R, const T* grad_z, const accumulation_t<T>* grad_kl,
              int64_t grad_kl_stride, const T* mu, const T* logvar, const int64_t* seed, T* grad_mu, T* grad_logvar) {
  const bool vector = aligned_for<4>(grad_z, mu, logvar, grad_mu, grad_logvar);
  rsample_kl_backward_kernel<T><<<grid_of(ceil_div(N * R, 4 * kRsampleThreads)), kRsampleThreads, 0, stream>>>(
      N * R, R, vector, grad_z, grad_kl, grad_kl_stride, mu, logvar, seed, grad_mu, grad_logvar);
}

void check_latent(const Tensor& mu, const Tensor& logvar, const Tensor& seed) {
  STD_TORCH_CHECK(mu.dim() >= 1, "mu: expected shape (N, *), got a scalar");
  check_same_shape(mu, logvar, "mu, logvar");
  STD_TORCH_CHECK(seed.is_cuda() && seed.numel() == 1 && seed.scalar_type() == ScalarType::Long,
                  "seed: expected one int64 on the device of mu");
}

std::tuple<Tensor, Tensor> rsample_kl_cuda(const Tensor& mu_any, const Tensor& logvar_any, const Tensor& seed) {
  check_latent(mu_any, logvar_any, seed);
  const CudaScope scope(mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const std::vector<int64_t> sizes = shape_of(mu), kl_sizes = {mu.size(0)};
  Tensor z = empty(mu, sizes);
  if (mu.numel() == 0) return {z, torch::stable::new_zeros(mu, kl_sizes, accumulation_dtype(mu.scalar_type()))};
  Tensor kl = empty(mu, kl_sizes, accumulation_dtype(mu.scalar_type()));
  FG_DISPATCH_FLOATING_CUDA(
      mu, "rsample_kl",
      forward(scope.stream, mu.size(0), product(sizes, 1), data<cuda_t>(mu), data<cuda_t>(logvar),
              seed.const_data_ptr<int64_t>(), mutable_data<cuda_t>(z), mutable_data<accumulation_t<cuda_t>>(kl)));
  check_launch("rsample_kl_kernel");
  return {z, kl};
}

std::tuple<Tensor, Tensor> rsample_kl_backward_cuda(const Tensor& grad_z_any, const Tensor& grad_kl,
                                                    const Tensor& mu_any, const Tensor& logvar_any,
                                                    const Tensor& seed) {
  check_latent(mu_any, logvar_any, seed);
  check_same_shape(grad_z_any, mu_any, "grad_z, mu");
  const CudaScope scope(mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const Tensor grad_z = as_contiguous(grad_z_any);
  STD_TORCH_CHECK(grad_kl.numel() == mu.size(0) && grad_kl.scalar_type() == accumulation_dtype(mu.scalar_type()),
                  "grad_kl: expected the shape and dtype of kl");
  const std::vector<int64_t> sizes = shape_of(mu);
  Tensor grad_mu = empty(mu, sizes), grad_logvar = empty(mu, sizes);
  if (mu.numel() == 0) return {grad_mu, grad_logvar};
  FG_DISPATCH_FLOATING_CUDA(
      mu, "rsample_kl_backward",
      backward(scope.stream, mu.size(0), product(sizes, 1), data<cuda_t>(grad_z), data<accumulation_t<cuda_t>>(grad_kl),
               grad_kl.stride(0), data<cuda_t>(mu), data<cuda_t>(logvar), seed.const_data_ptr<int64_t>(),
               mutable_data<cuda_t>(grad_mu), mutable_data<cuda_t>(grad_logvar)));
  check_launch("rsample_kl_backward_kernel");
  return {grad_mu, grad_logvar};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CUDA, m) {
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl_cuda));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward_cuda));
}

}  // namespace fastgen
