// categorical_cross_entropy: −Σᵤ q(u) log softmax(l)[u], where q is (1 − ε)·[u = v] + ε / L, and its gradient
// Shapes   l (N, C·L, H, W), those of a colour side by side; v (N, C, H, W)
// Traffic  forward reads l once, backward reads it once and writes its gradient: a run of levels, or what 32 pixels
// have
//          of them, is in the caches when it is read again
// Numerics in float, or double; of l − its largest, as log_softmax has it; sums by lanes in one order, so that bits
//          depend on the layout alone
// Kept     Σ exp(l − largest) of each value; the largest is looked for again
// S: how numbers lie in memory, its `type`, and `load` and `store`. No torch headers.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "math.h"

namespace fastgen {

constexpr int64_t kLevelLanes = 16, kLevelPixels = 32;  // pixels of planes at a time

// What levels come to.
template <typename acc_t>
struct LevelSums {
  acc_t most, sum, total;  // the largest, Σ exp(l − largest), Σ l

  FG_HD acc_t cross_entropy(acc_t logit, acc_t smoothing, int64_t levels) const {
    const acc_t log_sum = log(sum) + (sum - sum);  // log(NaN) is not NaN
    const acc_t nats = log_sum - (logit - most);
    return smoothing == 0 ? nats : nats + smoothing * (logit - total / acc_t(levels));
  }
};

// ---- levels that lie together

template <typename acc_t, class F>
FG_HD void over_lanes(int64_t levels, const acc_t* l, acc_t* lanes, const F& add) {
  const int64_t whole = levels / kLevelLanes * kLevelLanes;
  for (int64_t k = 0; k < whole; k += kLevelLanes)
    for (int64_t j = 0; j < kLevelLanes; ++j) lanes[j] = add(lanes[j], l[k + j]);
  for (int64_t j = 0; j < levels - whole; ++j) lanes[j] = add(lanes[j], l[whole + j]);
}

template <typename acc_t>
FG_HD acc_t largest_of_run(int64_t levels, const acc_t* l) {
  acc_t lanes[kLevelLanes];
  std::fill_n(lanes, kLevelLanes, -std::numeric_limits<acc_t>::infinity());
  over_lanes(levels, l, lanes, [](acc_t a, acc_t b) { return a < b ? b : a; });
  return *std::max_element(lanes, lanes + kLevelLanes);
}

template <typename acc_t>
FG_HD acc_t sum_of_lanes(const acc_t* lanes) {
  acc_t sum = 0;
  for (int64_t j = 0; j < kLevelLanes; ++j) sum += lanes[j];
  return sum;
}

// A run as it is computed with, in `room` for so many levels if it does not lie so: the vectors of 16 bits are half as
// long, and would cut those of the sums in two.
template <class S, typename acc_t>
FG_HD const acc_t* widened(int64_t levels, const typename S::type* __restrict l, acc_t* __restrict room) {
  if constexpr (std::is_same_v<typename S::type, acc_t>) return l;
  for (int64_t u = 0; u < levels; ++u) room[u] = S::load(l[u]);
  return room;
}

// Of `runs` that follow each other.
template <class S, typename acc_t>
FG_VECTOR_CLONES void sum_runs(int64_t runs, int64_t levels, bool smooths, const typename S::type* __restrict numbers,
                               acc_t* __restrict room, LevelSums<acc_t>* __restrict found) {
  for (int64_t run = 0; run < runs; ++run, numbers += levels) {
    acc_t sums[kLevelLanes] = {}, totals[kLevelLanes] = {};
    const acc_t* const l = widened<S>(levels, numbers, room);
    const acc_t most = largest_of_run(levels, l);
    over_lanes(levels, l, sums, [&](acc_t a, acc_t b) { return a + exp(b - most); });
    if (smooths) over_lanes(levels, l, totals, [](acc_t a, acc_t b) { return a + b; });
    found[run] = {most, sum_of_lanes(sums), sum_of_lanes(totals)};
  }
}

// grad[u] ← scale·exp(l[u] − largest) − even, of `runs` that follow each other; most: the largest of each
template <class S, typename acc_t>
FG_VECTOR_CLONES void spread_runs(int64_t runs, int64_t levels, const acc_t* __restrict scale,
                                  const acc_t* __restrict even, const typename S::type* __restrict numbers,
                                  acc_t* __restrict room, acc_t* __restrict most, typename S::type* __restrict grad) {
  for (int64_t run = 0; run < runs; ++run, numbers += levels, grad += levels) {
    const acc_t* const l = widened<S>(levels, numbers, room);
    const acc_t by = scale[run], less = even[run], from = largest_of_run(levels, l);
    for (int64_t u = 0; u < levels; ++u) grad[u] = S::store(by * exp(l[u] - from) - less);
    most[run] = from;
  }
}

// ---- levels in planes, `apart` from each other, of up to kLevelPixels pixels that lie together

template <class S, typename acc_t>
FG_HD void largest_of_planes(int64_t levels, int64_t apart, int64_t pixels, const typename S::type* l, acc_t* most) {
  std::fill_n(most, kLevelPixels, -std::numeric_limits<acc_t>::infinity());
  for (int64_t u = 0; u < levels; ++u, l += apart)
    for (int64_t i = 0; i < pixels; ++i) {
      const acc_t logit = S::load(l[i]);
      most[i] = most[i] < logit ? logit : most[i];
    }
}

template <class S, typename acc_t>
FG_VECTOR_CLONES void sum_planes(int64_t levels, int64_t apart, int64_t pixels, const typename S::type* __restrict l,
                                 LevelSums<acc_t>* __restrict found) {
  acc_t most[kLevelPixels], sums[kLevelPixels] = {}, totals[kLevelPixels] = {};
  largest_of_planes<S>(levels, apart, pixels, l, most);
  for (int64_t u = 0; u < levels; ++u, l += apart)
    for (int64_t i = 0; i < pixels; ++i) {
      const acc_t logit = S::load(l[i]);
      sums[i] += exp(logit - most[i]);
      totals[i] += logit;
    }
  for (int64_t i = 0; i < pixels; ++i) found[i] = {most[i], sums[i], totals[i]};
}

template <class S, typename acc_t>
FG_VECTOR_CLONES void spread_planes(int64_t levels, int64_t apart, int64_t pixels, const acc_t* __restrict scale,
                                    const acc_t* __restrict even, const typename S::type* __restrict l,
                                    acc_t* __restrict most, typename S::type* __restrict grad) {
  largest_of_planes<S>(levels, apart, pixels, l, most);
  for (int64_t u = 0; u < levels; ++u, l += apart, grad += apart)
    for (int64_t i = 0; i < pixels; ++i) grad[i] = S::store(scale[i] * exp(acc_t(S::load(l[i])) - most[i]) - even[i]);
}

}  // namespace fastgen
