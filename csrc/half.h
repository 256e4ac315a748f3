// float16 and bfloat16 as bit patterns, converted without branches, so that a loop over them becomes vector code.
// Rounding is to nearest, ties to even; NaN stays NaN. For the CPU only. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

using bfloat16 = uint16_t;  // its bits
struct float16 {            // its bits, and a type of its own: templates have to tell it from bfloat16
  uint16_t bits;
};

FG_HD float bfloat16_to_float(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }

FG_HD uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

FG_HD float float16_to_float(uint16_t half) {
  const uint32_t magnitude = uint32_t(half & 0x7fffu) << 13, sign = uint32_t(half & 0x8000u) << 16;
  const float scaled = bits_to_float(magnitude) * 0x1p112f;  // rebases the exponent; exact, subnormals included
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : float_to_bits(scaled);
  return bits_to_float(bits | sign);
}

FG_HD uint16_t float_to_float16(float value) {
  const uint32_t bits = float_to_bits(value), sign = bits & 0x80000000u, magnitude = bits ^ sign;
  const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;  // the adder rounds
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return uint16_t(result | (sign >> 16));
}

// A number of a CPU's kernel, which computes in float, as it lies in memory.
FG_HD float to_float(float value) { return value; }
FG_HD float to_float(bfloat16 bits) { return bfloat16_to_float(bits); }
FG_HD float to_float(float16 number) { return float16_to_float(number.bits); }

template <typename T>
FG_HD T from_float(float value);
template <>
FG_HD float from_float<float>(float value) {
  return value;
}
template <>
FG_HD bfloat16 from_float<bfloat16>(float value) {
  return float_to_bfloat16(value);
}
template <>
FG_HD float16 from_float<float16>(float value) {
  return {float_to_float16(value)};
}

}  // namespace fastgen
