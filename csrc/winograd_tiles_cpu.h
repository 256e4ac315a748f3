// The transforms of winograd.h on the CPU: of pixels, taps and products, 16 channels at a time. No torch headers.
#pragma once

#include "conv_transpose2d_weight_cpu.h"
#include "winograd.h"

namespace fastgen {

constexpr int64_t kChannels = 16;  // that are transformed together: all channels are a multiple

typedef float WinogradV __attribute__((vector_size(4 * kChannels)));
typedef float WinogradUnaligned __attribute__((vector_size(4 * kChannels), aligned(4), may_alias));

FG_HD void load_channels(WinogradV* v, const float* from) { *v = *reinterpret_cast<const WinogradUnaligned*>(from); }
FG_HD void store_channels(float* to, const WinogradV* v) { *reinterpret_cast<WinogradUnaligned*>(to) = *v; }

// Pixels of one phase of the large image, 3×3, to components `apart` from one another; `step` to the next channels.
FG_VECTOR_CLONES inline void transform_large(int64_t channels, const float* const* from, float* to, int64_t step,
                                             int64_t apart) {
  for (int64_t c = 0; c < channels; c += kChannels, to += step) {
    WinogradV d[9], e[9];
    for (int k = 0; k < 9; ++k) load_channels(&d[k], from[k] + c);
    for (int v = 0; v < 3; ++v) {
      e[v] = d[v] - d[3 + v];
      e[3 + v] = d[3 + v];
      e[6 + v] = d[6 + v] - d[3 + v];
    }
    for (int u = 0; u < 9; u += 3) {
      const WinogradV first = e[u] - e[u + 1], last = e[u + 2] - e[u + 1];
      store_channels(to + u * apart, &first);
      store_channels(to + (u + 1) * apart, &e[u + 1]);
      store_channels(to + (u + 2) * apart, &last);
    }
  }
}

// 2×2 numbers of rows to 3×3: the first, both together, the second, along either axis. Taps of a phase, and pixels of
// the small image where its gradients come from.
FG_HD void spread(const WinogradV* g, WinogradV* found) {
  for (int v = 0; v < 2; ++v) {
    const WinogradV both = g[v] + g[2 + v];
    found[2 * v] = g[v];
    found[3 + 2 * v] = both;
    found[6 + 2 * v] = g[2 + v];
  }
  for (int u = 0; u < 9; u += 3) found[u + 1] = found[u] + found[u + 2];
}

// Its transpose: 3×3 sums of products to 2×2.
FG_HD void gather(const WinogradV* m, WinogradV* found) {
  WinogradV e[6];
  for (int v = 0; v < 3; ++v) {
    e[v] = m[v] + m[3 + v];
    e[3 + v] = m[3 + v] + m[6 + v];
  }
  for (int u = 0; u < 2; ++u) {
    found[2 * u] = e[3 * u] + e[3 * u + 1];
    found[2 * u + 1] = e[3 * u + 1] + e[3 * u + 2];
  }
}

FG_VECTOR_CLONES inline void transform_small(int64_t channels, const float* const* from, float* to, int64_t apart) {
  for (int64_t c = 0; c < channels; c += kChannels) {
    WinogradV g[4], found[9];
    for (int k = 0; k < 4; ++k) load_channels(&g[k], from[k] + c);
    spread(g, found);
    for (int k = 0; k < 9; ++k) store_channels(to + k * apart + c, &found[k]);
  }
}

// Components to the pixels of a tile, those that are not null; bias may be.
FG_VECTOR_CLONES inline void finish_small(int64_t channels, const float* from, int64_t apart, const float* bias,
                                          float* const* to) {
  for (int64_t c = 0; c < channels; c += kChannels) {
    WinogradV m[9], found[4], offset = {};
    for (int k = 0; k < 9; ++k) load_channels(&m[k], from + k * apart + c);
    if (bias) load_channels(&offset, bias + c);
    gather(m, found);
    for (int k = 0; k < 4; ++k) {
      found[k] += offset;
      if (to[k]) store_channels(to[k] + c, &found[k]);
    }
  }
}

// A pixel of the large image: Σ signs·components; bias may be null.
FG_VECTOR_CLONES inline void finish_large(int64_t channels, int terms, const float* const* from, const float* signs,
                                          const float* bias, float* to) {
  for (int64_t c = 0; c < channels; c += kChannels) {
    WinogradV sum = {}, term;
    if (bias) load_channels(&sum, bias + c);
    for (int k = 0; k < terms; ++k) {
      load_channels(&term, from[k] + c);
      sum += signs[k] * term;
    }
    store_channels(to + c, &sum);
  }
}

// ---- 16 kernels: their taps lie together, 16 numbers, from one to the next `apart`

// (16 kernels, taps) → (taps, 16 kernels)
FG_HD void taps_to_vectors(const float* from, int64_t apart, float* taps) {
  for (int64_t kernel = 0; kernel < kChannels; kernel += 4)
    for (int64_t tap = 0; tap < kKernelTaps; tap += 4)
      transpose_square(from + kernel * apart + tap, apart, taps + tap * kChannels + kernel, kChannels);
}
FG_HD void vectors_to_taps(const float* taps, float* to, int64_t apart) {
  for (int64_t kernel = 0; kernel < kChannels; kernel += 4)
    for (int64_t tap = 0; tap < kKernelTaps; tap += 4)
      transpose_square(taps + tap * kChannels + kernel, kChannels, to + kernel * apart + tap, apart);
}

// Tap (u, v) of a phase, of the kernel's.
FG_HD int64_t tap_of(int64_t phase, int k) { return (phase / 2 + 2 * (k / 2)) * 4 + phase % 2 + 2 * (k % 2); }

// found: (phases, components, 16 kernels)
FG_VECTOR_CLONES inline void transform_taps(const float* from, int64_t apart, float* found) {
  alignas(64) float taps[kKernelTaps * kChannels];
  taps_to_vectors(from, apart, taps);
  for (int64_t phase = 0; phase < kPhases; ++phase, found += kComponents * kChannels) {
    WinogradV g[4], spreaded[9];
    for (int k = 0; k < 4; ++k) load_channels(&g[k], taps + tap_of(phase, k) * kChannels);
    spread(g, spreaded);
    for (int k = 0; k < 9; ++k) store_channels(found + k * kChannels, &spreaded[k]);
  }
}

// Of sums of outer products: components `apart`, phases `phase_apart`.
FG_VECTOR_CLONES inline void finish_taps(const float* from, int64_t apart, int64_t phase_apart, float* to,
                                         int64_t to_apart) {
  alignas(64) float taps[kKernelTaps * kChannels];
  for (int64_t phase = 0; phase < kPhases; ++phase, from += phase_apart) {
    WinogradV m[9], found[4];
    for (int k = 0; k < 9; ++k) load_channels(&m[k], from + k * apart);
    gather(m, found);
    for (int k = 0; k < 4; ++k) store_channels(taps + tap_of(phase, k) * kChannels, &found[k]);
  }
  vectors_to_taps(taps, to, to_apart);
}

}  // namespace fastgen
