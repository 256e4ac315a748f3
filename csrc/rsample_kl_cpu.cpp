// rsample_kl on the CPU: noise into a buffer that stays in L1, then one vector loop over the elements.
//
// μ and log σ² are often halves of one tensor, whose rows lie apart. Short rows are brought together, tile by tile, in
// L1 as well: a pass of its own would cost a call and memory that a product has left to no cache.
#include "philox_cpu.h"
#include "row_tiles_cpu.h"
#include "rsample_kl.h"
#include "rsample_kl_host.h"

namespace fastgen {
namespace {

constexpr int64_t kGrainTiles = 6;

template <typename T>
FG_VECTOR_CLONES void forward_elements(int64_t count, const storage_t<T>* __restrict mu,
                                       const storage_t<T>* __restrict logvar, const accumulation_t<T>* __restrict noise,
                                       storage_t<T>* __restrict z, accumulation_t<T>* __restrict kl) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i) {
    accumulation_t<T> sample;
    rsample_kl(S::load(mu[i]), S::load(logvar[i]), noise[i], &sample, &kl[i]);
    z[i] = S::store(sample);
  }
}

template <typename T>
FG_VECTOR_CLONES void backward_elements(int64_t count, const storage_t<T>* __restrict grad_z,
                                        const accumulation_t<T>* __restrict grad_kl, const storage_t<T>* __restrict mu,
                                        const storage_t<T>* __restrict logvar,
                                        const accumulation_t<T>* __restrict noise, storage_t<T>* __restrict grad_mu,
                                        storage_t<T>* __restrict grad_logvar) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i) {
    accumulation_t<T> dmu, dlogvar;
    rsample_kl_backward(S::load(grad_z[i]), grad_kl[i], S::load(mu[i]), S::load(logvar[i]), noise[i], &dmu, &dlogvar);
    grad_mu[i] = S::store(dmu);
    grad_logvar[i] = S::store(dlogvar);
  }
}

// Start loading a part of a tile; it arrives while the noise is made.
template <typename T>
void prefetch_run(const T* begin, const T* end) {
  constexpr int64_t kLine = 64;
  const char* line = reinterpret_cast<const char*>(begin);
  for (; line < reinterpret_cast<const char*>(end); line += kLine) __builtin_prefetch(line);
}

// Rows of a tensor, each contiguous, `stride` elements apart.
template <typename S>
struct Rows {
  S* values;
  int64_t stride;

  bool lie_together(const Tiling& tiling) const { return stride == tiling.row || tiling.tiles_per_row > 1; }
  S* at(const Tiling& tiling, int64_t element) const {
    return values + element / tiling.row * stride + element % tiling.row;
  }

  void prefetch(const Tiling& tiling, int64_t begin, int64_t end) const {
    const int64_t run = lie_together(tiling) ? end - begin : tiling.row;
    for (int64_t first = begin; first < end; first += run) prefetch_run(at(tiling, first), at(tiling, first) + run);
  }

  // The elements of a tile one behind the other: where they are, or else in `buffer`.
  const S* read(const Tiling& tiling, int64_t begin, int64_t end, std::remove_const_t<S>* buffer) const {
    if (lie_together(tiling)) return at(tiling, begin);
    for (int64_t row = begin; row < end; row += tiling.row)
      std::copy_n(at(tiling, row), tiling.row, buffer + (row - begin));
    return buffer;
  }

  // Where to write them, before finish(): where they belong, or else `buffer`.
  S* place(const Tiling& tiling, int64_t begin, S* buffer) const {
    return lie_together(tiling) ? at(tiling, begin) : buffer;
  }
  void finish(const Tiling& tiling, int64_t begin, int64_t end, const S* buffer) const {
    if (lie_together(tiling)) return;
    for (int64_t row = begin; row < end; row += tiling.row)
      std::copy_n(buffer + (row - begin), tiling.row, at(tiling, row));
  }
};

template <typename T>
using Read = Rows<const storage_t<T>>;
template <typename T>
using Written = Rows<storage_t<T>>;

template <typename T>
void forward(const Tiling& tiling, int64_t seed, Read<T> mu, Read<T> logvar, storage_t<T>* z, accumulation_t<T>* kl) {
  using acc_t = accumulation_t<T>;
  const PhiloxKey key(seed);
  std::vector<acc_t> partial(tiling.tiles_per_row > 1 ? tiling.count : 0);
  torch::stable::parallel_for(0, tiling.count, kGrainTiles, [&](int64_t first, int64_t last) {
    NormalsBuffer<acc_t, kTile> normals;
    storage_t<T> means[kTile], logvars[kTile];
    acc_t kl_terms[kTile];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      mu.prefetch(tiling, begin, end);
      logvar.prefetch(tiling, begin, end);
      prefetch_run(z + begin, z + end);
      const acc_t* noise = normals.fill(begin, end, key);
      forward_elements<T>(end - begin, mu.read(tiling, begin, end, means), logvar.read(tiling, begin, end, logvars),
                          noise, z + begin, kl_terms);
      if (tiling.tiles_per_row > 1)
        sum_rows(1, end - begin, kl_terms, &partial[tile]);
      else
        sum_rows((end - begin) / tiling.row, tiling.row, kl_terms, kl + begin / tiling.row);
    }
  });
  if (tiling.tiles_per_row > 1) sum_rows(tiling.N, tiling.tiles_per_row, partial.data(), kl);
}

template <typename T>
void backward(const Tiling& tiling, int64_t seed, const storage_t<T>* grad_z, const accumulation_t<T>* grad_kl,
              int64_t grad_kl_stride, Read<T> mu, Read<T> logvar, Written<T> grad_mu, Written<T> grad_logvar) {
  using acc_t = accumulation_t<T>;
  const PhiloxKey key(seed);
  torch::stable::parallel_for(0, tiling.count, kGrainTiles, [&](int64_t first, int64_t last) {
    NormalsBuffer<acc_t, kTile> normals;
    storage_t<T> means[kTile], logvars[kTile], grad_means[kTile], grad_logvars[kTile];
    acc_t row_grad[kTile];  // grad_kl of each element's row: short rows would be loops too short to vectorise
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      prefetch_run(grad_z + begin, grad_z + end);
      for (const Read<T>& each : {mu, logvar}) each.prefetch(tiling, begin, end);
      for (const Written<T>& each : {grad_mu, grad_logvar}) each.prefetch(tiling, begin, end);
      const acc_t* noise = normals.fill(begin, end, key);
      repeat_by_row(tiling, begin, end, grad_kl, grad_kl_stride, row_grad);
      backward_elements<T>(end - begin, grad_z + begin, row_grad, mu.read(tiling, begin, end, means),
                           logvar.read(tiling, begin, end, logvars), noise, grad_mu.place(tiling, begin, grad_means),
                           grad_logvar.place(tiling, begin, grad_logvars));
      grad_mu.finish(tiling, begin, end, grad_means);
      grad_logvar.finish(tiling, begin, end, grad_logvars);
    }
  });
}

bool has_contiguous_rows(const Tensor& tensor) {
  int64_t expected = 1;
  for (int64_t dim = tensor.dim() - 1; dim > 0; --dim) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != expected) return false;
    expected *= tensor.size(dim);
  }
  return true;
}

// μ and log σ² of N rows of R elements: two tensors, or the halves of each row of one.
struct Parameters {
  int64_t N, R, second;
  Tensor mu, logvar;

  Parameters(const RsampleShape& shape, const Tensor& mu, const Tensor& logvar)
      : N(shape.N), R(shape.R), second(0), mu(in_rows(mu)), logvar(in_rows(logvar)) {}
  Parameters(const RsampleShape& shape, const Tensor& h)
      : N(shape.N), R(shape.R), second(shape.R), mu(as_contiguous(h)), logvar(mu) {}

  template <typename T>
  Read<T> means() const {
    return {data<T>(mu), stride(mu)};
  }
  template <typename T>
  Read<T> logvars() const {
    return {data<T>(logvar) + second, stride(logvar)};
  }

 private:
  static Tensor in_rows(const Tensor& tensor) { return has_contiguous_rows(tensor) ? tensor : as_contiguous(tensor); }
  int64_t stride(const Tensor& tensor) const { return tensor.is_contiguous() ? R + second : tensor.stride(0); }
};

int64_t value_of(const Tensor& seed) { return *seed.const_data_ptr<int64_t>(); }

// What torch.randint(-2**63, 2**63 - 1, (1,)) draws from torch's generator.
Tensor drawn_seed(const Tensor& like) {
  using torch::stable::detail::from;
  const std::optional<int64_t> last = std::numeric_limits<int64_t>::max();
  StableIValue stack[] = {from(empty(like, {1}, ScalarType::Long)), from(std::numeric_limits<int64_t>::min()),
                          from(last), from(std::nullopt)};
  return call_aten("aten::random_", "from", stack, 1)[0];
}

std::tuple<Tensor, Tensor> sample(const Parameters& given, const std::vector<int64_t>& sizes, const Tensor& seed) {
  const Tensor& like = given.mu;
  const std::vector<int64_t> kl_sizes = {given.N};
  Tensor z = empty(like, sizes);
  if (z.numel() == 0) return {z, torch::stable::new_zeros(like, kl_sizes, accumulation_dtype(like.scalar_type()))};
  Tensor kl = empty(like, kl_sizes, accumulation_dtype(like.scalar_type()));
  const Tiling tiling(given.N, given.R);
  FG_DISPATCH_FLOATING(like, "rsample_kl",
                       forward<scalar_t>(tiling, value_of(seed), given.means<scalar_t>(), given.logvars<scalar_t>(),
                                         mutable_data<scalar_t>(z), mutable_data<accumulation_t<scalar_t>>(kl)));
  return {z, kl};
}

// grad_mu and grad_logvar: two tensors, or one whose rows have both.
void sample_backward(const Parameters& given, const Tensor& grad_z_any, const Tensor& grad_kl, const Tensor& seed,
                     Tensor& grad_mu, Tensor& grad_logvar) {
  if (grad_z_any.numel() == 0) return;
  const Tensor grad_z = as_contiguous(grad_z_any);
  const Tiling tiling(given.N, given.R);
  const int64_t stride = given.R + given.second;
  FG_DISPATCH_FLOATING(
      grad_z, "rsample_kl_backward",
      backward<scalar_t>(tiling, value_of(seed), data<scalar_t>(grad_z), data<accumulation_t<scalar_t>>(grad_kl),
                         grad_kl.stride(0), given.means<scalar_t>(), given.logvars<scalar_t>(),
                         Written<scalar_t>{mutable_data<scalar_t>(grad_mu), stride},
                         Written<scalar_t>{mutable_data<scalar_t>(grad_logvar) + given.second, stride}));
}

std::tuple<Tensor, Tensor> rsample_kl_cpu(const Tensor& mu, const Tensor& logvar, const Tensor& seed) {
  return sample(Parameters(RsampleShape(mu, logvar, seed), mu, logvar), shape_of(mu), seed);
}

std::tuple<Tensor, Tensor, Tensor> rsample_kl_drawn_cpu(const Tensor& mu, const Tensor& logvar, int64_t) {
  const Tensor seed = drawn_seed(mu);
  const auto [z, kl] = rsample_kl_cpu(mu, logvar, seed);
  return {z, kl, seed};
}

std::tuple<Tensor, Tensor, Tensor> rsample_kl_halves_cpu(const Tensor& h, int64_t) {
  const RsampleShape shape(h);
  const Tensor seed = drawn_seed(h);
  const auto [z, kl] = sample(Parameters(shape, h), shape.sizes, seed);
  return {z, kl, seed};
}

std::tuple<Tensor, Tensor> rsample_kl_backward_cpu(const Tensor& grad_z, const Tensor& grad_kl, const Tensor& mu,
                                                   const Tensor& logvar, const Tensor& seed) {
  const RsampleShape shape(mu, logvar, seed);
  shape.check_grads(grad_z, grad_kl, mu);
  Tensor grad_mu = empty(mu, shape.sizes), grad_logvar = empty(mu, shape.sizes);
  sample_backward(Parameters(shape, mu, logvar), grad_z, grad_kl, seed, grad_mu, grad_logvar);
  return {grad_mu, grad_logvar};
}

Tensor rsample_kl_halves_backward_cpu(const Tensor& grad_z, const Tensor& grad_kl, const Tensor& h,
                                      const Tensor& seed) {
  const RsampleShape shape(h);
  shape.check_grads(grad_z, grad_kl, h);
  RsampleShape::check_seed(seed, h);
  Tensor grad_h = empty(h, shape_of(h));
  sample_backward(Parameters(shape, h), grad_z, grad_kl, seed, grad_h, grad_h);
  return grad_h;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl_cpu));
  m.impl("rsample_kl_drawn", TORCH_BOX(&rsample_kl_drawn_cpu));
  m.impl("rsample_kl_halves", TORCH_BOX(&rsample_kl_halves_cpu));
  m.impl("rsample_kl_halves_backward", TORCH_BOX(&rsample_kl_halves_backward_cpu));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward_cpu));
}

}  // namespace fastgen
