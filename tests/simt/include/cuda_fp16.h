// __half as kernels use it: stored in 16 bits, computed as float, rounded to nearest even.
#pragma once

#include "half.h"

struct __half {
  uint16_t bits;
  __half() = default;
  __half(float value) : bits(fastgen::float_to_float16(value)) {}
  operator float() const { return fastgen::float16_to_float(bits); }
};
