// Runs one batch through the torch-free executor, for sanitizers: plan and inputs from stdin, values to stdout, for
// every instruction set of this machine, in two chunks and row by row as the op does; and makes what a GPU reads.
#include <cstdio>

#include "sample.h"
#include "sample_program.h"

namespace {

template <typename T>
std::vector<T> read_vector() {
  int64_t size = 0;
  if (fread(&size, sizeof size, 1, stdin) != 1) throw std::runtime_error("expected a size");
  std::vector<T> values(static_cast<size_t>(size));
  if (fread(values.data(), sizeof(T), values.size(), stdin) != values.size())
    throw std::runtime_error("expected values");
  return values;
}

}  // namespace

int main() {
  using namespace fastgen;
  const std::vector<int64_t> codes = read_vector<int64_t>();
  const std::vector<float> constants = read_vector<float>();
  const std::vector<double> uniforms = read_vector<double>();
  const std::vector<float> table = read_vector<float>(), given = read_vector<float>();
  const int64_t components = read_vector<int64_t>().at(0);
  for (const SampleIsa& isa : sample_isas()) {
    const SamplePlan plan(codes.data(), int64_t(codes.size()), constants.data(), int64_t(constants.size()));
    const SampleProducts products(plan, isa);
    const SampleLayout layout(plan);
    std::vector<float> packed(static_cast<size_t>(products.packed_size));
    products.pack(packed.data());
    const SampleProgram program(plan, layout, 3);  // for a GPU, made here
    std::vector<uint32_t> weights(static_cast<size_t>(program.packed_size));
    program.pack(weights.data());
    const int64_t N = int64_t(uniforms.size()) / ((components ? 2 : 1) * plan.C * plan.H * plan.W), chunk = (N + 1) / 2;
    std::vector<int64_t> values(static_cast<size_t>(N * plan.C * plan.H * plan.W));
    std::vector<float> params(static_cast<size_t>(N * plan.P * plan.H * plan.W));
    SampleBatch batch{};
    const float* next = given.data();
    for (const PlanBuffer& b : plan.buffers) {
      if (b.kind != PlanKind::kGiven) continue;
      batch.given.push_back(next);
      next += N * b.rows * b.columns * b.channels;
    }
    batch.uniforms = uniforms.data();
    batch.table = table.data();
    batch.levels = int64_t(table.size()) / plan.buffers[0].channels;
    batch.temperature = 1;
    batch.components = components;
    batch.values = values.data();
    batch.params = params.data();
    for (int64_t first = 0; first < N; first += chunk) {
      std::vector<float> state(static_cast<size_t>(layout.state_size(chunk)));
      for (int64_t t = 0; t < plan.ticks(); ++t) {
        SampleChunk run(plan, products, layout, packed.data(), batch, state.data(), first, std::min(chunk, N - first));
        if (t == 0) run.start();
        if (run.step(t) >= 0) return 2;
      }
    }
    fwrite(values.data(), sizeof values[0], values.size(), stdout);
  }
}
