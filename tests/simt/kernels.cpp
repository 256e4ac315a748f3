// The launches of csrc/*_cuda.cuh, made on the machine of simt.h. A new kernel adds its header and a line to `run`.
#include "kernels.h"

#include "simt.h"

// Unnamed, so that everything inside has internal linkage: GCC's AddressSanitizer leaves out the variables of templates
// that a linker might merge with those of another file, and __shared__ arrays are such variables. All standard headers
// that these need are included above.
namespace {
#include "gated_activation_cuda.cuh"
#include "plants.cuh"
#include "rsample_kl_cuda.cuh"
}  // namespace

namespace {

struct Launcher {
  simt::Schedule schedule;

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), fastgen::Grid grid, int threads, Arguments... arguments) const {
    if (grid.x == 0) return;  // as csrc/cuda_utils.cuh has it
    simt::launch({unsigned(grid.x), grid.y}, {unsigned(threads)}, schedule, [=] { kernel(arguments...); });
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
  if (call.dtype == "float32" && run_op<float>(launch, call)) return;
  if (call.dtype == "float64" && run_op<double>(launch, call)) return;
  if (call.dtype == "float16" && run_op<__half>(launch, call)) return;
  if (call.dtype == "bfloat16" && run_op<__nv_bfloat16>(launch, call)) return;
  throw std::invalid_argument(call.op + ": not here for " + call.dtype);
}

int64_t rsample_kl_parts(int64_t N, int64_t R) { return fastgen::RsampleRows(N, R).parts; }
