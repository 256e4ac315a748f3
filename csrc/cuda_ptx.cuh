// Single instructions of the GPU that CUDA C++ has no name for. On the host machine of tests/simt, simt.h has them.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

// c (16, 8) += a (16, 16) · b (16, 8), halves in pairs and float sums, over a warp: lane g·4 + q has of a rows g and
// g + 8, columns 2q and 2q + 8 and their neighbours, of b column g, of c columns 2q and 2q + 1.
__device__ __forceinline__ void mma_bfloat16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_float16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two rounded numbers, the first in the lower half.
__device__ __forceinline__ uint32_t bfloat16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ uint32_t float16_pair(float low, float high) {  // beyond 65504: infinity
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Between blocks: what was written before one arrives is seen by whoever has awaited it.
__device__ __forceinline__ void arrive(unsigned* counter) {
  asm volatile("fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
__device__ __forceinline__ void await(const unsigned* counter, unsigned count) {
  unsigned arrived;
  do {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
  } while (int(arrived - count) < 0);
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

#endif
