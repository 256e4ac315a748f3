// Sizes that cannot wrap: a product or sum of int64 beyond 2^63 is an error, not another size. No torch headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace fastgen {

[[noreturn]] inline void size_overflow() { throw std::overflow_error("expected sizes whose product fits in 64 bits"); }

inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result)) size_overflow();
  return result;
}

inline int64_t checked_subtract(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_sub_overflow(a, b, &result)) size_overflow();
  return result;
}

inline int64_t checked_multiply(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) size_overflow();
  return result;
}

// ⌈a / b⌉ for a ≥ 0, b > 0.
inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

}  // namespace fastgen
