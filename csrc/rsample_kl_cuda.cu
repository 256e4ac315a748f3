// rsample_kl: from tensors to launches.
#include "cuda_utils.cuh"
#include "rsample_kl_cuda.cuh"
#include "rsample_kl_host.h"

namespace fastgen {
namespace {

std::tuple<Tensor, Tensor> rsample_kl_cuda(const Tensor& mu_any, const Tensor& logvar_any, const Tensor& seed) {
  const RsampleShape shape(mu_any, logvar_any, seed);
  const int64_t N = shape.N, R = shape.R;  // a structured binding cannot be captured in C++17
  const CudaScope scope(mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const std::vector<int64_t> sizes = shape_of(mu), kl_sizes = {N};
  Tensor z = empty(mu, sizes);
  const int64_t parts = RsampleRows(N, R).parts;
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
  const RsampleShape shape(mu_any, logvar_any, seed);
  shape.check_grads(grad_z_any, grad_kl, mu_any);
  const CudaScope scope(mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const Tensor grad_z = as_contiguous(grad_z_any);
  const std::vector<int64_t> sizes = shape_of(mu);
  Tensor grad_mu = empty(mu, sizes), grad_logvar = empty(mu, sizes);
  FG_DISPATCH_FLOATING_CUDA(
      mu, "rsample_kl_backward",
      rsample_kl_backward_launch(scope.launcher("rsample_kl_backward"), shape.N, shape.R, data<cuda_t>(grad_z),
                                 data<accumulation_t<cuda_t>>(grad_kl), grad_kl.stride(0), data<cuda_t>(mu),
                                 data<cuda_t>(logvar), seed.const_data_ptr<int64_t>(), mutable_data<cuda_t>(grad_mu),
                                 mutable_data<cuda_t>(grad_logvar)));
  return {grad_mu, grad_logvar};
}

}  // namespace

FG_KERNELS(CUDA, m) {
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl_cuda));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward_cuda));
}

}  // namespace fastgen
