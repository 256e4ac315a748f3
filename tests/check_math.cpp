// Checks csrc/math.h, half.h and philox_cpu.h on the instruction set this file is compiled for. Prints one line per
// check: its name and a number, which test_math.py judges.
#include <bit>
#include <cstdio>
#include <vector>

#include "half.h"
#include "philox_cpu.h"

namespace {

double ulps(float got, double want) {
  if (std::isnan(want)) return std::isnan(got) ? 0 : INFINITY;
  const float rounded = float(want);
  if (got == rounded) return 0;
  const float spacing = std::nextafter(std::fabs(rounded), INFINITY) - std::fabs(rounded);
  return std::fabs(double(got) - want) / spacing;
}

template <class F, class G>
void sweep(const char* name, float low, float high, F ours, G exact) {
  constexpr int64_t kCount = 1 << 22;
  std::vector<float> x(kCount), y(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = low + (high - low) * (float(i) + 0.5f) / float(kCount);
  for (int64_t i = 0; i < kCount; ++i) y[i] = ours(x[i]);  // a vector loop, as in the kernels
  double worst = 0;
  for (int64_t i = 0; i < kCount; ++i) worst = std::max(worst, ulps(y[i], exact(double(x[i]))));
  std::printf("%s %.3f\n", name, worst);
}

void half_types() {
  int64_t wrong = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {  // every value survives the way to float and back
    const float f16 = fastgen::float16_to_float(uint16_t(bits)), bf16 = fastgen::bfloat16_to_float(uint16_t(bits));
    wrong += !std::isnan(f16) && fastgen::float_to_float16(f16) != bits;
    wrong += !std::isnan(bf16) && fastgen::float_to_bfloat16(bf16) != bits;
    wrong += std::isnan(f16) != std::isnan(fastgen::float16_to_float(fastgen::float_to_float16(f16)));
    if (std::isnan(f16) || std::isinf(f16) || (bits & 0x7fff) >= 0x7bff) continue;
    const float next = fastgen::float16_to_float(uint16_t(bits + 1)), middle = 0.5f * (f16 + next);  // ties to even
    wrong += fastgen::float_to_float16(middle) != (bits & 1 ? bits + 1 : bits);
    wrong += fastgen::float_to_float16(std::nextafter(middle, f16)) != bits;
    wrong += fastgen::float_to_float16(std::nextafter(middle, next)) != bits + 1;
  }
  wrong += fastgen::float_to_float16(65520.0f) != 0x7c00 || fastgen::float_to_float16(65519.996f) != 0x7bff;
  std::printf("half_types %lld\n", static_cast<long long>(wrong));
}

using Words = void (*)(int64_t, int64_t, fastgen::PhiloxKey, uint64_t*, uint64_t*);

void philox(const char* name, Words words) {
  constexpr int64_t kCount = 3 * fastgen::kPhiloxBatch;
  int64_t wrong = 0;
  for (int64_t first : {int64_t(0), int64_t(5), (int64_t(1) << 32) - 7, (int64_t(1) << 40) + 3}) {
    const fastgen::PhiloxKey key(-0x123456789abcdef);
    uint64_t radius[kCount], angle[kCount];
    words(first, kCount, key, radius, angle);
    for (int64_t i = 0; i < kCount; ++i) {
      const uint64_t block = uint64_t(first + i);
      const auto w = fastgen::philox4x32({uint32_t(block), uint32_t(block >> 32), 0, 0}, key);
      wrong += radius[i] != (w.x | uint64_t(w.z) << 32) || angle[i] != (w.y | uint64_t(w.w) << 32);
    }
  }
  std::printf("%s %lld\n", name, static_cast<long long>(wrong));
}

}  // namespace

int main() {
  using namespace fastgen;
  sweep("exp", -87, 88, [](float x) { return fastgen::exp(x); }, [](double x) { return std::exp(x); });
  sweep("expm1", -30, 88, [](float x) { return fastgen::expm1(x); }, [](double x) { return std::expm1(x); });
  sweep(
      "expm1_small", -1e-3f, 1e-3f, [](float x) { return fastgen::expm1(x); }, [](double x) { return std::expm1(x); });
  sweep("log", 1e-10f, 1, [](float x) { return fastgen::log(x); }, [](double x) { return std::log(x); });
  const auto log1p = [](float x) { return fastgen::log1p_of_unit(x); };
  sweep("log1p", 0, 1, log1p, [](double x) { return std::log1p(x); });
  sweep("log1p_small", 0, 1e-3f, log1p, [](double x) { return std::log1p(x); });
  sweep("tanh", -12, 12, [](float x) { return fastgen::tanh(x); }, [](double x) { return std::tanh(x); });
  sweep("sigmoid", -80, 80, [](float x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); });
  const auto sine = [](float x) {
    float s, c;
    sincospi(x, &s, &c);
    return s;
  };
  const auto cosine = [](float x) {
    float s, c;
    sincospi(x, &s, &c);
    return c;
  };
  // against 1, not against the value: near a zero of the function the argument's own rounding is larger
  sweep("sinpi", -1, 1, [&](float x) { return 3 + sine(x); }, [](double x) { return 3 + std::sin(M_PI * x); });
  sweep("cospi", -1, 1, [&](float x) { return 3 + cosine(x); }, [](double x) { return 3 + std::cos(M_PI * x); });
  half_types();
  philox("philox_portable", philox_words_portable);
#if defined(FG_X86)
  if (__builtin_cpu_supports("avx2")) philox("philox_avx2", philox_words_avx2);
  if (__builtin_cpu_supports("avx512f")) philox("philox_avx512", philox_words_avx512);
#endif
  const float nan = NAN;
  std::printf("nan %d\n",
              !(std::isnan(fastgen::exp(nan)) && std::isnan(fastgen::expm1(nan)) && std::isnan(fastgen::tanh(nan)) &&
                std::isnan(fastgen::log1p_of_unit(nan)) && std::isnan(sigmoid(nan))));
}
