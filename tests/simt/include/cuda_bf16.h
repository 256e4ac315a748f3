// __nv_bfloat16 as kernels use it: stored in 16 bits, computed as float, rounded to nearest even.
#pragma once

#include "half.h"

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) : bits(fastgen::float_to_bfloat16(value)) {}
  operator float() const { return fastgen::bfloat16_to_float(bits); }
};
