// The launches of csrc/*_cuda.cuh, made on the machine of simt.h. A new kernel adds its header and a line to `run`.
#include "kernels.h"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstddef>
#include <limits>
#include <map>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "simt.h"

#define __noinline__ __attribute__((noinline))  // a name that standard headers use

// Unnamed, so that everything inside has internal linkage: GCC's AddressSanitizer leaves out the variables of templates
// that a linker might merge with those of another file, and __shared__ arrays are such variables. All standard headers
// that these need are included above.
namespace {
#include "gated_activation_cuda.cuh"
#include "plants.cuh"
#include "rsample_kl_cuda.cuh"
#include "sample_cuda.cuh"
}  // namespace

namespace {

struct Launcher {
  simt::Schedule schedule;

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), fastgen::Grid grid, int threads, Arguments... arguments) const {
    if (grid.x == 0) return;  // as csrc/cuda_utils.cuh has it
    simt::launch({unsigned(grid.x), grid.y}, {unsigned(threads)}, schedule, [=] { kernel(arguments...); });
  }
  template <typename... Parameters, typename... Arguments>
  void cooperative(void (*kernel)(Parameters...), fastgen::Grid grid, int threads, Arguments... arguments) const {
    simt::launch_cooperative({unsigned(grid.x), grid.y}, {unsigned(threads)}, schedule, [=] { kernel(arguments...); });
  }
};

template <typename T>
void gated_activation(const Launcher& launch, const Call& c) {
  fastgen::gated_activation_launch(launch, c.sizes.at(0), c.sizes.at(1), c.in<T>(0), c.out<T>(0));
}

template <typename T>
void gated_activation_backward(const Launcher& launch, const Call& c) {
  fastgen::gated_activation_backward_launch(launch, c.sizes.at(0), c.sizes.at(1), c.in<T>(0), c.in<T>(1), c.out<T>(0));
}

template <typename T>
void rsample_kl(const Launcher& launch, const Call& c) {
  using acc_t = fastgen::accumulation_t<T>;
  fastgen::rsample_kl_launch(launch, c.sizes.at(0), c.sizes.at(1), c.in<T>(0), c.in<T>(1), c.in<int64_t>(2),
                             c.out<T>(0), c.out<acc_t>(1), c.out<acc_t>(2));
}

template <typename T>
void rsample_kl_backward(const Launcher& launch, const Call& c) {
  fastgen::rsample_kl_backward_launch(launch, c.sizes.at(0), c.sizes.at(1), c.in<T>(0),
                                      c.in<fastgen::accumulation_t<T>>(1), c.sizes.at(2), c.in<T>(2), c.in<T>(3),
                                      c.in<int64_t>(4), c.out<T>(0), c.out<T>(1));
}

// Inputs and sizes as the op sample_program_run has them; what it writes comes in, and goes out.
template <typename T>
void sample(const Launcher& launch, const Call& c) {
  enum {
    kImages,
    kChunk,
    kBlocks,
    kLevels,
    kComponents,
    kFirst,
    kLast,
    kState,
    kTeams,
    kValues,
    kParams,
    kKnown,
    kGiven
  };
  const auto size = [&](int at) { return size_t(c.sizes.at(size_t(at))); };
  std::copy_n(c.in<float>(3), size(kState), c.out<float>(0));
  std::copy_n(c.in<int32_t>(4), size(kTeams), c.out<int32_t>(1));
  std::copy_n(c.in<int64_t>(5), size(kValues), c.out<int64_t>(2));
  std::copy_n(c.in<float>(6), size(kParams), c.out<float>(3));
  std::vector<unsigned> arrivals(size(kTeams) * fastgen::kArrivalsApart, 0u);
  fastgen::SampleArguments a{};
  a.program = c.in<int32_t>(0), a.constants = c.in<float>(1), a.packed = c.in<uint32_t>(2);
  a.state = c.out<float>(0), a.arrivals = arrivals.data(), a.bad_rows = c.out<int32_t>(1);
  a.values = c.out<int64_t>(2), a.params = size(kParams) ? c.out<float>(3) : nullptr;
  a.temperature = *c.in<double>(7), a.uniforms = c.in<double>(8), a.table = c.in<float>(9);
  if (size(kKnown)) a.known = c.in<int64_t>(10), a.keep = c.in<bool>(11);
  for (size_t g = 0; g < size(kGiven); ++g) a.given[g] = c.in<float>(12 + g);
  a.N = c.sizes[kImages], a.levels = c.sizes[kLevels], a.components = c.sizes[kComponents];
  a.first = c.sizes[kFirst], a.last = c.sizes[kLast], a.blocks = int(c.sizes[kBlocks]);
  fastgen::sample_launch<T>(launch, a, c.sizes[kChunk]);
}

template <typename T>
bool run_op(const Launcher& launch, const Call& c) {
  if (c.op == "gated_activation") return gated_activation<T>(launch, c), true;
  if (c.op == "gated_activation_backward") return gated_activation_backward<T>(launch, c), true;
  if (c.op == "rsample_kl") return rsample_kl<T>(launch, c), true;
  if (c.op == "rsample_kl_backward") return rsample_kl_backward<T>(launch, c), true;
  return false;
}

bool run_plant(const Launcher& launch, const Call& c) {
#define PLANT(name)  \
  if (c.op == #name) \
  return launch(plants::name, fastgen::Grid{1}, plants::kThreads, c.in<float>(0), c.out<float>(0)), true
  PLANT(good);
  PLANT(missing_barrier);
  PLANT(shared_overrun);
  PLANT(shared_index);
  PLANT(global_read);
  PLANT(global_write);
  PLANT(misaligned_vector);
  PLANT(divergent_barrier);
  PLANT(lane_outside_mask);
  PLANT(unwritten_shared);
  PLANT(overflow);
#undef PLANT
  return false;
}

}  // namespace

void run(const Call& call) {
  const Launcher launch = {simt::Schedule(call.schedule)};
  if (run_plant(launch, call)) return;
  if (call.op == "sample")
    return call.dtype == "bfloat16"  ? sample<__nv_bfloat16>(launch, call)
           : call.dtype == "float16" ? sample<__half>(launch, call)
                                     : sample<float>(launch, call);
  if (call.dtype == "float32" && run_op<float>(launch, call)) return;
  if (call.dtype == "float64" && run_op<double>(launch, call)) return;
  if (call.dtype == "float16" && run_op<__half>(launch, call)) return;
  if (call.dtype == "bfloat16" && run_op<__nv_bfloat16>(launch, call)) return;
  throw std::invalid_argument(call.op + ": not here for " + call.dtype);
}

int64_t rsample_kl_parts(int64_t N, int64_t R) { return fastgen::RsampleRows(N, R).parts; }
