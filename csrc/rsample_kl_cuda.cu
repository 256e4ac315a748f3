// rsample_kl: from tensors to launches.
#include "cuda_utils.cuh"
#include "rsample_kl_cuda.cuh"

namespace fastgen {
namespace {

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
  const int64_t N = mu.size(0), R = product(sizes, 1), parts = RsampleRows(N, R).parts;
  Tensor kl = empty(mu, kl_sizes, accumulation_dtype(mu.scalar_type()));
  Tensor partial = parts > 1 ? empty(mu, {N, parts}, accumulation_dtype(mu.scalar_type())) : kl;
  FG_DISPATCH_FLOATING_CUDA(
      mu, "rsample_kl",
      rsample_kl_launch(scope.launcher("rsample_kl"), N, R, data<cuda_t>(mu), data<cuda_t>(logvar),
                        seed.const_data_ptr<int64_t>(), mutable_data<cuda_t>(z),
                        mutable_data<accumulation_t<cuda_t>>(kl), mutable_data<accumulation_t<cuda_t>>(partial)));
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
  FG_DISPATCH_FLOATING_CUDA(
      mu, "rsample_kl_backward",
      rsample_kl_backward_launch(scope.launcher("rsample_kl_backward"), mu.size(0), product(sizes, 1),
                                 data<cuda_t>(grad_z), data<accumulation_t<cuda_t>>(grad_kl), grad_kl.stride(0),
                                 data<cuda_t>(mu), data<cuda_t>(logvar), seed.const_data_ptr<int64_t>(),
                                 mutable_data<cuda_t>(grad_mu), mutable_data<cuda_t>(grad_logvar)));
  return {grad_mu, grad_logvar};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CUDA, m) {
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl_cuda));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward_cuda));
}

}  // namespace fastgen
