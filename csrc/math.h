// Scalar math for kernels: one name per function, for CPU and CUDA, float and double. No torch headers.
//
// On the CPU the float versions are short polynomials without branches or table look-ups, so that a loop over them
// becomes vector code on every instruction set (glibc's are calls, one element at a time). Errors are below 3 ulp;
// exp saturates outside [−87, 88]; NaN stays NaN, but for log, whose argument must be positive. Double goes to the
// standard library, CUDA to its own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FG_HD __host__ __device__ __forceinline__
#else
#define FG_HD inline __attribute__((always_inline))
#endif

// Functions marked so are compiled once per instruction set; the loader picks one for the machine it runs on.
#if defined(FG_VECTOR_CLONES)
// chosen on the command line
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__CUDACC__)
#define FG_VECTOR_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FG_VECTOR_CLONES
#endif

namespace fastgen {

// The type that a kernel computes in: float for the half types.
template <typename T>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};
template <typename T>
using accumulation_t = typename Accumulation<T>::type;

FG_HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FG_HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <typename T>
FG_HD T clamp(T x, T low, T high) {  // NaN passes through
  x = x < low ? low : x;
  return x > high ? high : x;
}

// ---- float on the CPU: argument reduction and polynomials of Cephes (Moshier), evaluated without branches

namespace detail {

// Where exp saturates. No constants for a CPU's compiler: it would give what lies outside a path of its own through all
// of a loop, whose vector code then computes masks and blends where a minimum and a maximum are one instruction each.
#if defined(__CUDACC__)
constexpr float kExpLow = -87.3f, kExpHigh = 88.02f;
#else
inline float kExpLow = -87.3f, kExpHigh = 88.02f;
#endif

constexpr float kRoundToInt = 12582912.0f;  // 1.5·2²³: adding it rounds a float below 2²² to an integer

struct ExpParts {
  float scale;  // 2ⁿ, x = n·ln 2 + r
  float expm1;  // exp(r) − 1, |r| ≤ ½ ln 2
};

FG_HD ExpParts exp_parts(float x) {
  const float shifted = x * 1.44269504f + kRoundToInt;
  const float n = shifted - kRoundToInt;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return {bits_to_float((float_to_bits(shifted) + 127u) << 23), p * r * r + r};
}

FG_HD float vector_exp(float x) {
  const ExpParts e = exp_parts(clamp(x, kExpLow, kExpHigh));
  return e.scale + e.scale * e.expm1;
}

FG_HD float vector_expm1(float x) {
  const ExpParts e = exp_parts(clamp(x, kExpLow, kExpHigh));
  return (e.scale - 1.0f) + e.scale * e.expm1;
}

FG_HD float vector_log(float x) {                        // x > 0, not subnormal
  const uint32_t bits = float_to_bits(x) - 0x3f3504f3u;  // mantissa range [√½, √2)
  const float n = float(int32_t(bits) >> 23);
  const float m = bits_to_float((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float m2 = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return m + (m * m2 * p - 2.12194440e-4f * n - 0.5f * m2) + 0.693359375f * n;
}

FG_HD float vector_log1p_of_unit(float x) {  // 2·artanh(s), by its series: s² ≤ 1/9
  const float s = x / (x + 2.0f), s2 = s * s;
  float p = 1.0f / 15.0f;
  p = p * s2 + 1.0f / 13.0f;
  p = p * s2 + 1.0f / 11.0f;
  p = p * s2 + 1.0f / 9.0f;
  p = p * s2 + 1.0f / 7.0f;
  p = p * s2 + 1.0f / 5.0f;
  p = p * s2 + 1.0f / 3.0f;
  return 2.0f * (s * s2 * p + s);
}

FG_HD void vector_sincospi(float x, float* sine, float* cosine) {  // |x| ≤ 1
  const float shifted = 2.0f * x + kRoundToInt;
  const uint32_t quadrant = float_to_bits(shifted);
  const float r = (x - 0.5f * (shifted - kRoundToInt)) * 3.14159265f;
  const float r2 = r * r;
  float s = -1.9515295891e-4f;
  s = s * r2 + 8.3321608736e-3f;
  s = s * r2 - 1.6666654611e-1f;
  s = s * r2 * r + r;
  float c = 2.443315711809948e-5f;
  c = c * r2 - 1.388731625493765e-3f;
  c = c * r2 + 4.166664568298827e-2f;
  c = c * r2 * r2 - 0.5f * r2 + 1.0f;
  const bool swap = quadrant & 1;
  const uint32_t sine_sign = (quadrant & 2) << 30, cosine_sign = ((quadrant + 1) & 2) << 30;
  *sine = bits_to_float(float_to_bits(swap ? c : s) ^ sine_sign);
  *cosine = bits_to_float(float_to_bits(swap ? s : c) ^ cosine_sign);
}

}  // namespace detail

// ---- the names that kernels use

#if defined(__CUDA_ARCH__)
FG_HD float exp(float x) { return ::expf(x); }
FG_HD float expm1(float x) { return ::expm1f(x); }
FG_HD float log(float x) { return ::logf(x); }
FG_HD float log1p_of_unit(float x) { return ::log1pf(x); }
FG_HD void sincospi(float x, float* sine, float* cosine) { ::sincospif(x, sine, cosine); }
FG_HD void sincospi(double x, double* sine, double* cosine) { ::sincospi(x, sine, cosine); }
#else
FG_HD float exp(float x) { return detail::vector_exp(x); }
FG_HD float expm1(float x) { return detail::vector_expm1(x); }
FG_HD float log(float x) { return detail::vector_log(x); }
FG_HD float log1p_of_unit(float x) { return detail::vector_log1p_of_unit(x); }  // 0 ≤ x ≤ 1
FG_HD void sincospi(float x, float* sine, float* cosine) { detail::vector_sincospi(x, sine, cosine); }
FG_HD void sincospi(double x, double* sine, double* cosine) {
  *sine = ::sin(3.14159265358979323846 * x);
  *cosine = ::cos(3.14159265358979323846 * x);
}
#endif
FG_HD double exp(double x) { return ::exp(x); }
FG_HD double expm1(double x) { return ::expm1(x); }
FG_HD double log(double x) { return ::log(x); }
FG_HD double log1p_of_unit(double x) { return ::log1p(x); }
FG_HD float sqrt(float x) { return ::sqrtf(x); }
FG_HD double sqrt(double x) { return ::sqrt(x); }

template <typename T>
FG_HD T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

template <typename T>
FG_HD T tanh(T x) {
  const T e = expm1(clamp(T(2) * x, T(-40), T(40)));  // at ±40 the quotient is ±1 in float and in double
  return e / (e + T(2));
}

}  // namespace fastgen
