// sample on the CPU: images split over threads, each thread walks the whole plan for its own; no barrier between
// layers.
#include "sample.h"
#include "sample_host.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastgen {
namespace {

constexpr int64_t kPackedHeader = 16;  // floats; the first three say for which tiles the weights were packed

// Weights that are read at every pixel lie in large pages, where the system offers them: fewer address translations.
void advise_large_pages(Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kLargePage = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t end = begin + uintptr_t(tensor.numel()) * sizeof(float);
  const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage, last = end / kLargePage * kLargePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only a hint
#endif
}

void check(const Tensor& tensor, ScalarType dtype, const std::vector<int64_t>& shape, const char* name) {
  check_tensor(tensor, name, shape, dtype, tensor);
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous memory");
}

// What is written may be nothing that is read beside it: a plan that changes after its checks leads anywhere.
void check_apart(const Tensor& written, const Tensor& other, const char* name) {
  const auto begin = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()); };
  const auto end = [&](const Tensor& t) { return begin(t) + uintptr_t(t.numel()) * t.element_size(); };
  const bool apart = end(written) <= begin(other) || end(other) <= begin(written);
  STD_TORCH_CHECK(apart || written.numel() == 0 || other.numel() == 0, name, ": expected memory of its own");
}

SamplePlan decode(const Tensor& codes, const Tensor& constants) {
  check(codes, ScalarType::Long, {codes.numel()}, "codes");
  check(constants, ScalarType::Float, {constants.numel()}, "constants");
  return {data<int64_t>(codes), codes.numel(), data<float>(constants), constants.numel()};
}

// The instruction set of that name; the best that this machine has for "".
SampleIsa isa_of(const std::string& name) {
  for (const SampleIsa& isa : sample_isas())
    if (name == isa.pairs.name) return isa;
  STD_TORCH_CHECK(name.empty(), "isa: expected one that this machine has, got ", name);
  return sample_isas().back();
}

SampleIsa isa_of(const Tensor& packed) {
  check(packed, ScalarType::Float, {packed.numel()}, "packed");
  STD_TORCH_CHECK(packed.numel() >= kPackedHeader, "packed: expected packed weights");
  const float *header = data<float>(packed), which = header[1];
  const auto& isas = sample_isas();
  const bool known = which >= 0 && which < float(isas.size());
  STD_TORCH_CHECK(known && header[0] == float(isas[size_t(which)].floats.lanes) &&
                      header[2] == float(isas[size_t(which)].halves.lanes),
                  "packed: expected weights packed on this machine");
  return isas[size_t(which)];
}

int64_t sample_format_cpu(const Tensor&) { return int64_t(plan_format()); }

Tensor sample_pack_cpu(const Tensor& codes, const Tensor& constants, Text isa) {
  const SamplePlan plan = decode(codes, constants);
  const SampleIsa tiles = isa_of(isa);
  const SampleProducts products(plan, tiles);
  const std::vector<int64_t> sizes = {kPackedHeader + products.packed_size};
  Tensor packed = empty(constants, sizes);
  advise_large_pages(packed);
  float* floats = mutable_data<float>(packed);
  std::fill_n(floats, kPackedHeader, 0.0f);
  floats[0] = float(tiles.floats.lanes);
  floats[1] = float(&tiles.pairs - tile_sets<bfloat16>().data());
  floats[2] = float(tiles.halves.lanes);
  products.pack(floats + kPackedHeader);
  return packed;
}

Tensor sample_state_cpu(const Tensor& codes, const Tensor& constants, int64_t images, int64_t chunk) {
  STD_TORCH_CHECK(images >= 0, "images: expected at least 0, got ", images);
  STD_TORCH_CHECK(chunk > 0, "chunk: expected at least 1, got ", chunk);
  const SamplePlan plan = decode(codes, constants);
  const SampleLayout layout(plan);
  return empty(constants, {checked_multiply(ceil_div(images, chunk), layout.state_size(chunk))});
}

void take_given(const SamplePlan& plan, const std::vector<Tensor>& given, int64_t N, SampleBatch& batch) {
  for (const PlanBuffer& b : plan.buffers) {
    if (b.kind != PlanKind::kGiven) continue;
    STD_TORCH_CHECK(batch.given.size() < given.size(), "given: expected a tensor for each given buffer");
    const Tensor& tensor = given[batch.given.size()];
    check(tensor, ScalarType::Float, {N, b.rows, b.columns, b.channels}, "given");
    batch.given.push_back(data<float>(tensor));
  }
}

// A mixture's parameters are those of all colours, at one place.
void check_mixture(const SamplePlan& plan, int64_t components) {
  STD_TORCH_CHECK(0 <= components && components < kLimit, "components: expected 0 or more, got ", components);
  if (components == 0) return;
  STD_TORCH_CHECK(plan.C == 1 || plan.C == 3, "components: expected a plan of 1 or 3 colours");
  for (const PlanRef& param : plan.params)
    STD_TORCH_CHECK(param.channels == (plan.C == 3 ? 10 : 3) * components,
                    "components: expected a plan whose colours read the parameters of that many");
}

int64_t sample_cpu(const Tensor& codes, const Tensor& constants, const Tensor& packed, Tensor state,
                   std::vector<Tensor> given, const Tensor& uniforms, const Tensor& table, const Tensor& known,
                   const Tensor& keep, double temperature, int64_t components, Tensor values, Tensor params,
                   int64_t chunk, int64_t first, int64_t last) {
  const SamplePlan plan = decode(codes, constants);
  const SampleProducts products(plan, isa_of(packed));
  check(packed, ScalarType::Float, {kPackedHeader + products.packed_size}, "packed");
  const SampleLayout layout(plan);
  STD_TORCH_CHECK(values.dim() == 4, "values: expected shape (N, C, H, W)");
  const int64_t N = values.size(0);
  const std::vector<int64_t> shape = {N, plan.C, plan.H, plan.W};
  check(values, ScalarType::Long, shape, "values");
  check_mixture(plan, components);
  const int64_t each = components > 0 ? 2 : 1, P = components > 0 ? plan.params[0].channels : plan.P;
  check(uniforms, ScalarType::Double, {N, plan.C * each, plan.H, plan.W}, "uniforms");
  STD_TORCH_CHECK(table.dim() == 3, "table: expected shape (C, levels, inputs)");
  check(table, ScalarType::Float, {plan.C, table.size(1), plan.inputs()}, "table");
  for (const PlanRef& param : plan.params)
    STD_TORCH_CHECK(table.size(1) >= std::max<int64_t>(2, components > 0 ? 2 : param.channels),
                    "table: expected an entry for each level");
  STD_TORCH_CHECK(chunk > 0, "chunk: expected at least 1, got ", chunk);
  STD_TORCH_CHECK(0 <= first && first <= last && last <= plan.ticks(), "first, last: expected ticks of the walk");
  const int64_t chunks = ceil_div(N, chunk), chunk_state = layout.state_size(chunk);
  check(state, ScalarType::Float, {checked_multiply(chunks, chunk_state)}, "state");

  SampleBatch batch{};
  take_given(plan, given, N, batch);
  if (keep.numel() > 0) {
    check(known, ScalarType::Long, shape, "known");
    check(keep, ScalarType::Bool, shape, "keep");
    batch.known = data<int64_t>(known);
    batch.keep = data<bool>(keep);
  }
  if (params.numel() > 0) {
    check(params, ScalarType::Float, {N, P, plan.H, plan.W}, "params");
    batch.params = mutable_data<float>(params);
  }
  batch.uniforms = data<double>(uniforms);
  batch.table = data<float>(table);
  batch.levels = table.size(1);
  batch.temperature = temperature;
  batch.components = components;
  batch.values = mutable_data<int64_t>(values);

  std::vector<const Tensor*> read = {&codes, &constants, &packed, &uniforms, &table, &known, &keep};
  for (const Tensor& tensor : given) read.push_back(&tensor);
  for (const Tensor* other : read) {
    check_apart(state, *other, "state");
    check_apart(values, *other, "values");
    check_apart(params, *other, "params");
  }
  check_apart(state, values, "state");
  check_apart(state, params, "state");
  check_apart(values, params, "values");

  std::vector<int64_t> bad_rows(size_t(chunks), -1);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const int64_t image = j * chunk;
      SampleChunk run(plan, products, layout, data<float>(packed) + kPackedHeader, batch,
                      mutable_data<float>(state) + j * chunk_state, image, std::min(chunk, N - image));
      if (first == 0) run.start();
      for (int64_t t = first; t < last && bad_rows[size_t(j)] < 0; ++t) bad_rows[size_t(j)] = run.step(t);
    }
  });
  int64_t bad_row = -1;
  for (const int64_t row : bad_rows)
    if (row >= 0 && (bad_row < 0 || row < bad_row)) bad_row = row;
  return bad_row;
}

int64_t sample_between_cpu(const Tensor& codes, const Tensor& constants, const Tensor& packed, Tensor state,
                           std::vector<Tensor> given, const Tensor& input, Tensor params, int64_t chunk, int64_t draw) {
  const SamplePlan plan = decode(codes, constants);
  const SampleProducts products(plan, isa_of(packed));
  check(packed, ScalarType::Float, {kPackedHeader + products.packed_size}, "packed");
  STD_TORCH_CHECK(plan.slope < 0, "plan: expected one that walks in raster order");
  STD_TORCH_CHECK(0 <= draw && draw < plan.C * plan.H * plan.W, "draw: expected one of the walk");
  const SampleLayout layout(plan);
  STD_TORCH_CHECK(params.dim() == 2, "params: expected shape (N, P / C)");
  const int64_t N = params.size(0), channels = plan.params[size_t(draw % plan.C)].channels;
  check(params, ScalarType::Float, {N, channels}, "params");
  check(input, ScalarType::Float, {N, plan.buffers[0].channels}, "input");
  STD_TORCH_CHECK(chunk > 0, "chunk: expected at least 1, got ", chunk);
  const int64_t chunks = ceil_div(N, chunk), chunk_state = layout.state_size(chunk);
  check(state, ScalarType::Float, {checked_multiply(chunks, chunk_state)}, "state");

  SampleBatch batch{};
  take_given(plan, given, N, batch);
  std::vector<const Tensor*> read = {&codes, &constants, &packed, &input};
  for (const Tensor& tensor : given) read.push_back(&tensor);
  for (const Tensor* other : read) {
    check_apart(state, *other, "state");
    check_apart(params, *other, "params");
  }
  check_apart(state, params, "state");

  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const int64_t image = j * chunk;
      SampleChunk run(plan, products, layout, data<float>(packed) + kPackedHeader, batch,
                      mutable_data<float>(state) + j * chunk_state, image, std::min(chunk, N - image));
      run.between(draw, data<float>(input) + image * plan.buffers[0].channels,
                  mutable_data<float>(params) + image * channels);
    }
  });
  return draw + 1;
}

// ---- what a GPU executes, made on the host

Tensor sample_program_cpu(const Tensor& codes, const Tensor& constants, int64_t images) {
  const SamplePlan plan = decode(codes, constants);
  const SampleLayout layout(plan);
  const SampleProgram program(plan, layout, images);
  Tensor words = empty(codes, {int64_t(program.words.size())}, ScalarType::Int);
  std::copy(program.words.begin(), program.words.end(), mutable_data<int32_t>(words));
  return words;
}

Tensor sample_program_weights_cpu(const Tensor& codes, const Tensor& constants) {
  const SamplePlan plan = decode(codes, constants);
  const SampleLayout layout(plan);
  const SampleProgram program(plan, layout, 1);
  Tensor packed = empty(codes, {program.packed_size}, ScalarType::Int);
  program.pack(reinterpret_cast<uint32_t*>(mutable_data<int32_t>(packed)));
  return packed;
}

Tensor sample_program_facts_cpu(const Tensor& words, int64_t blocks) {
  const ProgramHeader header = program_header(words);
  Tensor facts = empty(words, {2}, ScalarType::Long);
  int64_t* at = mutable_data<int64_t>(facts);
  at[0] = sample_team_state(header, blocks), at[1] = header.waits;
  return facts;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("sample_program", TORCH_BOX(&sample_program_cpu));
  m.impl("sample_program_weights", TORCH_BOX(&sample_program_weights_cpu));
  m.impl("sample_program_facts", TORCH_BOX(&sample_program_facts_cpu));
  m.impl("sample_format", TORCH_BOX(&sample_format_cpu));
  m.impl("sample_pack", TORCH_BOX(&sample_pack_cpu));
  m.impl("sample_state", TORCH_BOX(&sample_state_cpu));
  m.impl("sample_between", TORCH_BOX(&sample_between_cpu));
  m.impl("sample", TORCH_BOX(&sample_cpu));
}

}  // namespace fastgen
