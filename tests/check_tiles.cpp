// The tiles of every instruction set of this machine, of floats, of pairs of bfloat16 and of float16, against plain
// loops; a line for each set: its name, the largest error in units of the sum's magnitude, and how many numbers outside
// were written.
#include <cmath>
#include <cstdio>

#include "tile_sets_cpu.h"

namespace {

using namespace fastgen;

uint32_t next_random() {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

template <typename T>
std::vector<T> random_numbers(int64_t count) {
  std::vector<T> found(static_cast<size_t>(count));
  for (T& each : found) each = from_float<T>(float(next_random()) / 8388608.0f - 1.0f);
  return found;
}

struct Errors {
  double worst = 0;
  int64_t outside = 0;

  void compare(float found, double right, double magnitude) {
    worst = std::fmax(worst, std::isnan(found) ? INFINITY : std::fabs(found - right) / (magnitude + 1e-30));
  }
};

// Numbers k of a run that lie together, by `rows` pixels and `columns` of the weight.
template <typename T>
Errors check(const TileSet<T>& set) {
  constexpr int64_t kNumbers = Word<T>::kNumbers, kRuns = 3;
  const int64_t lengths[kRuns] = {5, 0, 8}, K = 13 * kNumbers;
  const float kUntouched = 777.0f;
  constexpr int64_t kSkipped = 5;
  Errors errors;
  for (int rows = 1; rows <= set.rows; ++rows)
    for (int vectors = 1; vectors <= set.vectors; ++vectors) {
      const int64_t columns = int64_t(vectors) * set.lanes, pitch = columns + 3;
      const std::vector<T> w = random_numbers<T>(K * columns);
      const std::vector<input_t<T>> x = random_numbers<input_t<T>>(rows * K + 1);
      std::vector<word_t<T>> packed(size_t(K / kNumbers * columns));
      for (int64_t k = 0; k < K; ++k)
        for (int64_t j = 0; j < columns; ++j)
          reinterpret_cast<T*>(packed.data())[(k / kNumbers * columns + j) * kNumbers + k % kNumbers] =
              w[size_t(k * columns + j)];
      std::vector<const input_t<T>*> at;
      std::vector<word_t<T>> apart;  // with words between the runs
      for (int64_t run = 0, first = 0; run < kRuns; first += lengths[run++] * kNumbers) {
        for (int r = 0; r < rows; ++r) at.push_back(&x[size_t(r * K + first + 1)]);  // at an odd address
        const auto begin = packed.begin() + first / kNumbers * columns;
        apart.insert(apart.end(), begin, begin + lengths[run] * columns);
        apart.resize(apart.size() + kSkipped, word_t<T>(0x3f81));
      }
      std::vector<float> sums(size_t(rows * pitch), kUntouched), outer(sums.size(), 1.0f);
      set.tile[rows][vectors](kRuns, lengths, at.data(), apart.data(), sums.data(), pitch, kSkipped);
      if constexpr (std::is_same_v<T, input_t<T>>)
        set.outer[rows][vectors](1, K / kNumbers, at.data(), 0, 1, packed.data(), columns, outer.data(), pitch);
      for (int r = 0; r < rows; ++r)
        for (int64_t j = 0; j < pitch; ++j) {
          const float found = sums[size_t(r * pitch + j)], added = outer[size_t(r * pitch + j)];
          if (j >= columns) {
            errors.outside += (found != kUntouched) + (added != 1.0f);
            continue;
          }
          double right = 0, magnitude = 0;
          for (int64_t k = 0; k < K; ++k) {
            const double one = double(to_float(x[size_t(r * K + k + 1)])) * to_float(w[size_t(k * columns + j)]);
            right += one, magnitude += std::fabs(one);
          }
          errors.compare(found, right, magnitude);
          if (set.outer[rows][vectors]) errors.compare(added, right + 1, magnitude + 1);
        }
    }
  return errors;
}

// Rows by rows, of lengths below a vector, of whole ones, and with a rest; numbers outside are none.
Errors check_dot(const GemmIsa& set) {
  Errors errors;
  for (int rows = 1; rows <= set.rows; ++rows)
    for (int columns = 1; columns <= set.vectors; ++columns)
      for (int64_t length : {1, 3, 4, 15, 16, 17, 32, 47, 100}) {
        const int64_t x_pitch = length + 5, w_pitch = length + 2, pitch = columns + 3;
        std::vector<float> x = random_numbers<float>(rows * x_pitch), w = random_numbers<float>(columns * w_pitch);
        for (int r = 0; r < rows; ++r) std::fill_n(&x[size_t(r * x_pitch + length)], 5, NAN);
        for (int c = 0; c < columns; ++c) std::fill_n(&w[size_t(c * w_pitch + length)], 2, NAN);
        std::vector<float> sums(size_t(rows * pitch), 777.0f);
        set.dot[rows][columns](length, x.data(), x_pitch, w.data(), w_pitch, sums.data(), pitch);
        for (int r = 0; r < rows; ++r)
          for (int64_t c = 0; c < pitch; ++c) {
            if (c >= columns) {
              errors.outside += sums[size_t(r * pitch + c)] != 777.0f;
              continue;
            }
            double right = 0, magnitude = 0;
            for (int64_t k = 0; k < length; ++k) {
              const double one = double(x[size_t(r * x_pitch + k)]) * w[size_t(c * w_pitch + k)];
              right += one, magnitude += std::fabs(one);
            }
            errors.compare(sums[size_t(r * pitch + c)], float(right), float(magnitude));
          }
      }
  return errors;
}

// Of counts around whole vectors, what lies in memory added or not, with a ReLU or without.
template <typename T>
void check_finish(const TileSet<T>& set, Errors* errors) {
  for (int64_t count = 1; count < 40; ++count)
    for (int form = 0; form < 4; ++form) {
      const std::vector<float> sums = random_numbers<float>(count);
      const std::vector<input_t<T>> more = random_numbers<input_t<T>>(count);
      std::vector<input_t<T>> y(size_t(count + 1), input_t<T>(7));
      set.finish(count, sums.data(), form & 1 ? more.data() : nullptr, form & 2, y.data());
      for (int64_t i = 0; i < count; ++i) {
        float right = sums[size_t(i)] + (form & 1 ? to_float(more[size_t(i)]) : 0.0f);
        if (form & 2 && right < 0) right = 0;
        if (y[size_t(i)] != rounded_input<T>(right)) errors->worst = INFINITY;
      }
      errors->outside += y[size_t(count)] != input_t<T>(7);
    }
}

// Every number of float16 is loaded as what it is; what lies around it, and half way to the next, is rounded as half.h
// does, whose own roundings check_math.cpp sees.
void check_numbers(const TileSet<float16>& set, Errors* errors) {
  const auto same = [](float a, float b) { return float_to_bits(a) == float_to_bits(b) || (a != a && b != b); };
  const int64_t length = 1;
  const float one = 1.0f, *x = &one;
  std::vector<uint16_t> w(size_t(set.lanes));
  std::vector<float> found(w.size());
  for (uint32_t bits = 0; bits < 65536; bits += uint32_t(set.lanes)) {
    for (size_t j = 0; j < w.size(); ++j) w[j] = uint16_t(bits + j);
    set.tile[1][1](1, &length, &x, w.data(), found.data(), set.lanes, 0);
    for (size_t j = 0; j < w.size(); ++j) {
      const float right = float16_to_float(w[j]) + 0.0f;  // a sum with nothing has no negative zero
      if (!same(found[j], right)) errors->worst = INFINITY;
      const float next = float16_to_float(uint16_t(bits + j + 1)), middle = 0.5f * (right + next);
      const float around[] = {right,  std::nextafter(right, next),  middle, std::nextafter(middle, right),
                              -right, std::nextafter(middle, next), next,   2.0f * next};
      float y[8];
      set.finish(8, around, nullptr, false, y);
      for (int i = 0; i < 8; ++i)
        if (!same(y[i], rounded_input<float16>(around[i]))) errors->worst = INFINITY;
    }
  }
}

template <typename T>
void print(const char* kind) {
  for (const TileSet<T>& set : tile_sets<T>()) {
    Errors errors = check(set);
    check_finish(set, &errors);
    if constexpr (std::is_same_v<T, float16>) check_numbers(set, &errors);
    printf("%s_%s %g %lld\n", kind, set.name, errors.worst, static_cast<long long>(errors.outside));
  }
}

}  // namespace

int main() {
  for (const GemmIsa& set : gemm_isas()) {
    const Errors errors = check_dot(set);
    printf("dot_%s %g %lld\n", set.name, errors.worst, static_cast<long long>(errors.outside));
  }
  print<float>("float");
  print<bfloat16>("bfloat16");
  print<float16>("float16");
}
