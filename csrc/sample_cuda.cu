// sample on the GPU: from tensors to launches.
#include "cuda_utils.cuh"
#include "sample_cuda.cuh"
#include "sample_host.h"

namespace fastgen {
namespace {

// f of a number of the type that a program's products round to; of a float where they do not.
template <typename F>
void with_rounding(const ProgramHeader& header, const F& f) {
  switch (SamplePrecision(header.rounds)) {
    case SamplePrecision::kBfloat16:
      return f(__nv_bfloat16());
    case SamplePrecision::kFloat16:
      return f(__half());
    default:
      return f(0.0f);
  }
}

// Blocks of the kernel for teams that run at once on the tensor's GPU; 0 where blocks cannot wait for one another.
int64_t sample_program_blocks_cuda(const Tensor& words, const Tensor& program) {
  const CudaScope scope(program);
  int device = program.get_device_index(), processors = 0, together = 0, each = 0;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, device);
  with_rounding(program_header(words), [&](auto number) {
    const auto kernel = sample_kernel<decltype(number), false>;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, kSampleThreads, 0);
  });
  check_launch("sample_program_blocks");
  return together ? int64_t(processors) * each : 0;
}

// As sample on the CPU, of a program in `words` on the host and in `program` on the GPU, whose team of `blocks` blocks
// draws `chunk` images. It waits for nothing: bad_rows, begun as H, has the first rows that are not finite.
Tensor sample_program_run_cuda(const Tensor& words, const Tensor& program, const Tensor& constants,
                               const Tensor& packed, Tensor state, Tensor arrivals, Tensor bad_rows,
                               std::vector<Tensor> given, const Tensor& uniforms, const Tensor& table,
                               const Tensor& known, const Tensor& keep, double temperature, int64_t components,
                               Tensor values, Tensor params, int64_t blocks, int64_t first, int64_t last) {
  const ProgramHeader header = program_header(words);
  const auto check = [&](const Tensor& tensor, ScalarType dtype, const std::vector<int64_t>& shape, const char* name) {
    check_tensor(tensor, name, shape, dtype, program);
    STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous memory");
  };
  check(program, ScalarType::Int, {words.numel()}, "program");
  check(constants, ScalarType::Float, {header.constants}, "constants");
  check(packed, ScalarType::Int, {header.packed}, "packed");
  for (const Tensor* tensor : {&packed, static_cast<const Tensor*>(&state)})
    STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(tensor->const_data_ptr()) % 16 == 0,
                    "packed, state: expected memory that begins at 16 bytes");
  STD_TORCH_CHECK(values.dim() == 4, "values: expected shape (N, C, H, W)");
  STD_TORCH_CHECK(blocks > 0 && blocks < kLimit, "blocks: expected at least 1, got ", blocks);
  const int64_t N = values.size(0), C = header.C, H = header.H, W = header.W;
  const int64_t teams = ceil_div(N, header.images), each = components > 0 ? 2 : 1;
  const std::vector<int64_t> shape = {N, C, H, W};
  check(values, ScalarType::Long, shape, "values");
  check(state, ScalarType::Float, {checked_multiply(teams, sample_team_state(header, blocks))}, "state");
  check(arrivals, ScalarType::Int, {teams * kArrivalsApart}, "arrivals");
  check(bad_rows, ScalarType::Int, {teams}, "bad_rows");
  check(uniforms, ScalarType::Double, {N, C * each, H, W}, "uniforms");
  STD_TORCH_CHECK(table.dim() == 3 && table.size(1) > 1, "table: expected shape (C, levels, inputs)");
  check(table, ScalarType::Float, {C, table.size(1), header.inputs}, "table");
  const int32_t* host = static_cast<const int32_t*>(words.const_data_ptr());
  const auto* refs = reinterpret_cast<const ProgramRef*>(host + header.refs);
  STD_TORCH_CHECK(components == 0 || C == 1 || C == 3, "components: expected a plan of 1 or 3 colours");
  for (int64_t k = 0; k < C; ++k) {
    const int64_t channels = refs[header.params + k].channels;
    STD_TORCH_CHECK(components == 0 || channels == (C == 3 ? 10 : 3) * components,
                    "components: expected a plan whose colours read the parameters of that many");
    STD_TORCH_CHECK(components > 0 || table.size(1) >= channels, "table: expected an entry for each level");
  }
  const int64_t ticks =
      header.slope < 0 ? header.top + H : header.left + W + header.tail + int64_t(header.slope) * (header.top + H - 1);
  STD_TORCH_CHECK(0 <= first && first <= last && last <= ticks, "first, last: expected ticks of the walk");

  SampleArguments a{};
  const auto* fills = reinterpret_cast<const ProgramFill*>(host + header.fills);
  size_t next = 0;
  for (int32_t f = 0; f < header.fill_count; ++f) {
    if (fills[f].given < 0) continue;
    const ProgramBuffer& b = reinterpret_cast<const ProgramBuffer*>(host + header.buffers)[fills[f].buffer];
    STD_TORCH_CHECK(next < given.size() && next < kMaxGiven, "given: expected a tensor for each given buffer, ",
                    kMaxGiven, " at most");
    check(given[next], ScalarType::Float, {N, b.rows, b.columns, fills[f].channels}, "given");
    a.given[next] = data<float>(given[next]);
    ++next;
  }
  if (keep.numel() > 0) {
    check(known, ScalarType::Long, shape, "known");
    check(keep, ScalarType::Bool, shape, "keep");
    a.known = data<int64_t>(known);
    a.keep = data<bool>(keep);
  }
  if (params.numel() > 0) {
    check(params, ScalarType::Float, {N, components > 0 ? refs[header.params].channels : header.P, H, W}, "params");
    a.params = mutable_data<float>(params);
  }
  a.program = data<int32_t>(program);
  a.constants = data<float>(constants);
  a.packed = reinterpret_cast<const uint32_t*>(data<int32_t>(packed));
  a.state = mutable_data<float>(state);
  a.arrivals = reinterpret_cast<unsigned*>(mutable_data<int32_t>(arrivals));
  a.bad_rows = mutable_data<int32_t>(bad_rows);
  a.uniforms = data<double>(uniforms);
  a.table = data<float>(table);
  a.values = mutable_data<int64_t>(values);
  a.N = N, a.levels = table.size(1), a.components = components, a.temperature = temperature;
  a.first = first, a.last = last, a.blocks = int(blocks);

  if (N == 0) return bad_rows;
  const CudaScope scope(program);
  STD_TORCH_CHECK(
      cudaMemsetAsync(a.arrivals, 0, size_t(arrivals.numel()) * sizeof(unsigned), scope.stream) == cudaSuccess,
      "sample: the barriers could not be set");
  const Launcher launch = scope.launcher("sample");
  with_rounding(header, [&](auto number) { sample_launch<decltype(number)>(launch, a, header.images); });
  return bad_rows;
}

}  // namespace

FG_KERNELS(CUDA, m) {
  m.impl("sample_program_blocks", TORCH_BOX(&sample_program_blocks_cuda));
  m.impl("sample_program_run", TORCH_BOX(&sample_program_run_cuda));
}

}  // namespace fastgen
