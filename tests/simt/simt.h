// A CUDA machine made of fibers, for tests: kernels of csrc/*_cuda.cuh, compiled as C++ and unchanged, run on the CPU
// under AddressSanitizer and UndefinedBehaviorSanitizer. One fiber per CUDA thread, in one OS thread: what a schedule
// does, it does again. One block at a time; those of a cooperative launch take turns, whenever all threads of one wait.
//
// What it sees: wrong results; reads and writes outside arrays, global and shared; misaligned vectors; integer
// overflow; a barrier that some threads do not reach; a missing barrier, where some schedule makes it matter; shared
// memory read before it is written (it begins as NaN); results that depend on the order of threads or blocks.
//
// What it does not: the memory model (a missing fence), bank conflicts, occupancy, speed; `extern __shared__`;
// clusters, TMA and matrix instructions but one; the last bits of the device's own exp, log, sin and cos, and the order
// in which a matrix instruction adds.
// A race inside one warp is seen only where a collective of the warp stands between the two accesses.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#define __CUDA_ARCH__ 800  // so that headers for both take the device's side
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// One array serves all blocks, which run in turn; it is poisoned for each. Kernels live in an unnamed namespace (see
// kernels.cpp), without which GCC's sanitizer does not watch the arrays of templates.
#define __shared__                         \
  simt::poison_shared(__FILE__, __LINE__); \
  static

#define threadIdx (simt::thread_index)
#define blockIdx (simt::block_index)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace simt {

// The order in which threads, and blocks, get their turns.
enum class Schedule { kInOrder, kReversed, kShuffled };

extern dim3 thread_index, block_index, block_size, grid_size;

// Run `body` once per thread of the grid. Throws what a thread throws, and where no thread can move on.
void launch(dim3 grid, dim3 block, Schedule schedule, const std::function<void()>& body);
// The same, where blocks may wait for one another.
void launch_cooperative(dim3 grid, dim3 block, Schedule schedule, const std::function<void()>& body);

void poison_shared(const char* file, int line);
void block_barrier();
void nap();  // the others have their turns

constexpr size_t kSlot = 16;  // bytes that a lane can publish

// Publish `value`, wait for every lane of `mask`, and return the slots of all 32 lanes.
using Slots = const unsigned char (*)[kSlot];
Slots warp_exchange(unsigned mask, const void* value, size_t size, const char* what);
unsigned lane();

template <typename T>
T shuffle(unsigned mask, T value, unsigned from, const char* what) {
  static_assert(sizeof(T) <= kSlot);
  const Slots slots = warp_exchange(mask, &value, sizeof value, what);
  if (from > 31 || !(mask >> from & 1)) throw std::runtime_error(std::string(what) + ": reads a lane outside its mask");
  std::memcpy(&value, slots[from], sizeof value);
  return value;
}

}  // namespace simt

// ---- what kernels call

inline void __syncthreads() { simt::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::warp_exchange(mask, nullptr, 0, "__syncwarp"); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  return simt::shuffle(mask, value, unsigned(from) % 32, "__shfl_sync");
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return simt::shuffle(mask, value, simt::lane() ^ unsigned(lanes), "__shfl_xor_sync");
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {  // past the last lane, a lane reads itself
  return simt::shuffle(mask, value, simt::lane() + by > 31 ? simt::lane() : simt::lane() + by, "__shfl_down_sync");
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  return simt::shuffle(mask, value, simt::lane() < by ? simt::lane() : simt::lane() - by, "__shfl_up_sync");
}

// Fibers change places at barriers and collectives only: every statement is atomic and every write is seen.
inline void __threadfence() {}
inline void __threadfence_block() {}
template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <typename T>
void __stwb(T* pointer, T value) {
  *pointer = value;
}
template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicMin(T* address, T value) {
  const T old = *address;
  *address = value < old ? value : old;
  return old;
}
template <typename T>
T atomicExch(T* address, T value) {
  const T old = *address;
  *address = value;
  return old;
}
template <typename T>
T atomicCAS(T* address, T expected, T value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

#define __builtin_assume(condition)
#define __isGlobal(pointer) true

using std::max;
using std::min;

// ---- csrc/cuda_ptx.cuh, from what its instructions are said to do, not from csrc/half.h

inline void arrive(unsigned* counter) { ++*counter; }
inline void await(const unsigned* counter, unsigned count) {
  while (int(*counter - count) < 0) simt::nap();
}

inline uint32_t bfloat16_pair(float low, float high) {
  const auto round = [](float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return std::isnan(value) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return round(low) | round(high) << 16;
}

inline uint32_t float16_pair(float low, float high) {
  const auto round = [](float value) {
    const double magnitude = std::fabs(double(value));
    if (std::isnan(value)) return 0x7fffu;
    const uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
    if (magnitude >= 65520) return sign | 0x7c00u;
    const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);  // subnormal numbers are -14's
    const double digits = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
    return sign | ((uint32_t(exponent + 14) << 10) + uint32_t(digits));
  };
  return round(low) | round(high) << 16;
}

// number(pair, half): the float that one half of a pair stands for.
template <typename Number>
void mma(float c[4], const uint32_t a[4], const uint32_t b[2], const Number& number) {
  const int lane = int(simt::lane()), g = lane / 4, q = lane % 4;
  uint32_t rows[4][4], columns[2];  // of the lanes that hold columns 2·from, 2·from + 1 and those 8 further
  const simt::Slots of_a = simt::warp_exchange(0xffffffffu, a, 16, "mma's a");
  for (int from = 0; from < 4; ++from) std::memcpy(rows[from], of_a[g * 4 + from], 16);
  const simt::Slots of_b = simt::warp_exchange(0xffffffffu, b, 8, "mma's b");
  for (int from = 0; from < 4; ++from)
    for (int n = 0; n < 2; ++n) {
      std::memcpy(columns, of_b[(q * 2 + n) * 4 + from], 8);
      for (int half = 0; half < 2; ++half)
        for (int j = 0; j < 2; ++j)
          for (int row = 0; row < 2; ++row)
            c[row * 2 + n] += number(rows[from][j * 2 + row], half) * number(columns[j], half);
    }
}

inline void mma_bfloat16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  mma(c, a, b, [](uint32_t pair, int half) {
    const uint32_t bits = half ? pair & 0xffff0000u : pair << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  });
}

inline void mma_float16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  mma(c, a, b, [](uint32_t pair, int half) {
    const uint32_t bits = half ? pair >> 16 : pair & 0xffffu;
    const int exponent = int(bits >> 10 & 31u), digits = int(bits & 1023u);
    const float magnitude = exponent == 31 ? digits ? NAN : INFINITY
                            : exponent     ? std::ldexp(float(1024 + digits), exponent - 25)
                                           : std::ldexp(float(digits), -24);
    return bits & 0x8000u ? -magnitude : magnitude;
  });
}

inline void sincospi(double x, double* sine, double* cosine) {
  const double halves = std::nearbyint(2.0 * x);
  const long double angle = 3.14159265358979323846L * (x - 0.5 * halves);  // |angle| ≤ ¼π
  const double s = double(std::sin(angle)), c = double(std::cos(angle));
  const int quadrant = int(std::fmod(halves, 4.0) + 4.0) % 4;
  *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
  *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}
inline void sincospif(float x, float* sine, float* cosine) {
  double s, c;
  sincospi(x, &s, &c);
  *sine = float(s);
  *cosine = float(c);
}
