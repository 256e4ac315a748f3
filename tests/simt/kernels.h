// Between the kernels, which are sanitized, and Python, which is not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Call {
  std::string op, dtype;  // dtype as torch names it
  std::vector<int64_t> sizes;
  std::vector<void*> inputs, outputs;  // in the order of the launch function
  int schedule;                        // 0: in order, 1: reversed, 2: shuffled

  template <typename T>
  const T* in(size_t i) const {
    return static_cast<const T*>(inputs.at(i));
  }
  template <typename T>
  T* out(size_t i) const {
    return static_cast<T*>(outputs.at(i));
  }
};

void run(const Call& call);

// How many parts rsample_kl makes of a row: its third output holds so many for each of N rows.
int64_t rsample_kl_parts(int64_t N, int64_t R);
