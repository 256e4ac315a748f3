// rsample_kl: z = μ + exp(½λ)·ε, KL = ½ Σ (μ² + expm1(λ) − λ), λ = clamp(log σ²)   arXiv:1312.6114 §2.4, appendix B
// The formulas, for CPU and CUDA. No torch headers.
#pragma once

#include "philox.h"

namespace fastgen {

// As in fastgen/ops/rsample_kl.py: exp(20) and exp(−30) leave float room to square and sum.
constexpr double kLogvarMin = -30.0, kLogvarMax = 20.0;

// σ = exp(½λ) and expm1(λ) from one exponential: with m = expm1(½λ), expm1(λ) = m·(m + 2), exact also near λ = 0.
FG_HD void sigma_terms(float logvar, float* sigma, float* expm1_logvar) {
#if defined(__CUDA_ARCH__)
  const float m = ::expm1f(0.5f * logvar);
  *sigma = m + 1.0f;
#else
  const detail::ExpParts e = detail::exp_parts(0.5f * logvar);  // λ is clamped: no overflow
  const float m = (e.scale - 1.0f) + e.scale * e.expm1;
  *sigma = e.scale + e.scale * e.expm1;
#endif
  *expm1_logvar = m * (m + 2.0f);
}
FG_HD void sigma_terms(double logvar, double* sigma, double* expm1_logvar) {
  *sigma = ::exp(0.5 * logvar);
  *expm1_logvar = ::expm1(logvar);
}

template <typename T>
FG_HD void rsample_kl(T mu, T logvar, T noise, T* z, T* kl) {
  const T clamped = clamp(logvar, T(kLogvarMin), T(kLogvarMax));
  T sigma, expm1_logvar;
  sigma_terms(clamped, &sigma, &expm1_logvar);
  *z = mu + sigma * noise;
  *kl = T(0.5) * (mu * mu + (expm1_logvar - clamped));
}

template <typename T>
FG_HD void rsample_kl_backward(T grad_z, T grad_kl, T mu, T logvar, T noise, T* grad_mu, T* grad_logvar) {
  const T clamped = clamp(logvar, T(kLogvarMin), T(kLogvarMax));
  T sigma, expm1_logvar;
  sigma_terms(clamped, &sigma, &expm1_logvar);
  *grad_mu = grad_z + grad_kl * mu;
  *grad_logvar = clamped == logvar ? T(0.5) * (grad_z * noise * sigma + grad_kl * expm1_logvar) : T(0);
}

}  // namespace fastgen
