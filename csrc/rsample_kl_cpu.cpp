// rsample_kl on the CPU: noise into a buffer that stays in L1, then one vector loop over the elements.
#include "philox_cpu.h"
#include "rsample_kl.h"
#include "rsample_kl_host.h"

namespace fastgen {
namespace {

constexpr int64_t kTile = 1024;  // elements whose noise is made at once
constexpr int64_t kLanes = 16;   // partial sums of a row, added in a fixed order on every instruction set
constexpr int64_t kGrainTiles = 6;

// A tile is several whole rows where they are short, or a part of one row where it is long.
struct Tiling {
  int64_t N, row, rows_per_tile, tiles_per_row, count;

  Tiling(int64_t N, int64_t row)
      : N(N),
        row(row),
        rows_per_tile(std::max<int64_t>(1, kTile / std::max<int64_t>(row, 1))),
        tiles_per_row(std::max<int64_t>(1, ceil_div(row, kTile))),
        count(tiles_per_row > 1 ? N * tiles_per_row : ceil_div(N, rows_per_tile)) {}

  int64_t begin(int64_t tile) const {
    return tiles_per_row > 1 ? tile / tiles_per_row * row + tile % tiles_per_row * kTile : tile * rows_per_tile * row;
  }
  int64_t end(int64_t tile) const {
    return tiles_per_row > 1 ? std::min(begin(tile) + kTile, (tile / tiles_per_row + 1) * row)
                             : std::min((tile + 1) * rows_per_tile, N) * row;
  }
};

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

// sums[r] = sum of the r-th `row` values: sixteen partial sums, then a tree; the same order on every instruction set.
template <typename acc_t>
FG_VECTOR_CLONES void sum_rows(int64_t rows, int64_t row, const acc_t* __restrict values, acc_t* __restrict sums) {
  typedef acc_t Lanes __attribute__((vector_size(kLanes * sizeof(acc_t))));
  typedef acc_t Unaligned __attribute__((vector_size(kLanes * sizeof(acc_t)), aligned(alignof(acc_t)), may_alias));
  for (int64_t r = 0; r < rows; ++r, values += row) {
    Lanes v = {};
    int64_t i = 0;
    for (; i + kLanes <= row; i += kLanes) v += *reinterpret_cast<const Unaligned*>(values + i);
    if (i < row) {
      acc_t rest[kLanes] = {};
      std::copy(values + i, values + row, rest);
      v += *reinterpret_cast<const Unaligned*>(rest);
    }
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
    sums[r] = v[0] + v[1];
  }
}

// Start loading a tile; it arrives while the noise is made.
template <typename... T>
void prefetch_tile(int64_t begin, int64_t end, const T*... tensors) {
  constexpr int64_t kLine = 64;
  const auto one = [&](const auto* tensor) {
    const char* last = reinterpret_cast<const char*>(tensor + end);
    for (const char* at = reinterpret_cast<const char*>(tensor + begin); at < last; at += kLine) __builtin_prefetch(at);
  };
  (one(tensors), ...);
}

template <typename T>
void forward(const Tiling& tiling, int64_t seed, const storage_t<T>* mu, const storage_t<T>* logvar, storage_t<T>* z,
             accumulation_t<T>* kl) {
  using acc_t = accumulation_t<T>;
  const PhiloxKey key(seed);
  std::vector<acc_t> partial(tiling.tiles_per_row > 1 ? tiling.count : 0);
  torch::stable::parallel_for(0, tiling.count, kGrainTiles, [&](int64_t first, int64_t last) {
    NormalsBuffer<acc_t, kTile> normals;
    acc_t kl_terms[kTile];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      prefetch_tile(begin, end, mu, logvar, z);
      const acc_t* noise = normals.fill(begin, end, key);
      forward_elements<T>(end - begin, mu + begin, logvar + begin, noise, z + begin, kl_terms);
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
              int64_t grad_kl_stride, const storage_t<T>* mu, const storage_t<T>* logvar, storage_t<T>* grad_mu,
              storage_t<T>* grad_logvar) {
  using acc_t = accumulation_t<T>;
  const PhiloxKey key(seed);
  torch::stable::parallel_for(0, tiling.count, kGrainTiles, [&](int64_t first, int64_t last) {
    NormalsBuffer<acc_t, kTile> normals;
    acc_t row_grad[kTile];  // grad_kl of each element's row: short rows would be loops too short to vectorise
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      prefetch_tile(begin, end, grad_z, mu, logvar, grad_mu, grad_logvar);
      const acc_t* noise = normals.fill(begin, end, key);
      for (int64_t at = begin; at < end;) {
        const int64_t n = at / tiling.row, next = std::min((n + 1) * tiling.row, end);
        std::fill(row_grad + (at - begin), row_grad + (next - begin), grad_kl[n * grad_kl_stride]);
        at = next;
      }
      backward_elements<T>(end - begin, grad_z + begin, row_grad, mu + begin, logvar + begin, noise, grad_mu + begin,
                           grad_logvar + begin);
    }
  });
}

int64_t value_of(const Tensor& seed) { return *seed.const_data_ptr<int64_t>(); }

std::tuple<Tensor, Tensor> rsample_kl_cpu(const Tensor& mu_any, const Tensor& logvar_any, const Tensor& seed) {
  const RsampleShape shape(mu_any, logvar_any, seed);
  const std::vector<int64_t> sizes = shape_of(mu_any), kl_sizes = {shape.N};
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  Tensor z = empty(mu, sizes);
  if (mu.numel() == 0) return {z, torch::stable::new_zeros(mu, kl_sizes, accumulation_dtype(mu.scalar_type()))};
  Tensor kl = empty(mu, kl_sizes, accumulation_dtype(mu.scalar_type()));
  const Tiling tiling(shape.N, shape.R);
  FG_DISPATCH_FLOATING(mu, "rsample_kl",
                       forward<scalar_t>(tiling, value_of(seed), data<scalar_t>(mu), data<scalar_t>(logvar),
                                         mutable_data<scalar_t>(z), mutable_data<accumulation_t<scalar_t>>(kl)));
  return {z, kl};
}

std::tuple<Tensor, Tensor> rsample_kl_backward_cpu(const Tensor& grad_z_any, const Tensor& grad_kl,
                                                   const Tensor& mu_any, const Tensor& logvar_any, const Tensor& seed) {
  const RsampleShape shape(mu_any, logvar_any, seed);
  shape.check_grads(grad_z_any, grad_kl, mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const Tensor grad_z = as_contiguous(grad_z_any);
  const std::vector<int64_t> sizes = shape_of(mu);
  Tensor grad_mu = empty(mu, sizes), grad_logvar = empty(mu, sizes);
  if (mu.numel() == 0) return {grad_mu, grad_logvar};
  const Tiling tiling(shape.N, shape.R);
  FG_DISPATCH_FLOATING(
      mu, "rsample_kl_backward",
      backward<scalar_t>(tiling, value_of(seed), data<scalar_t>(grad_z), data<accumulation_t<scalar_t>>(grad_kl),
                         grad_kl.stride(0), data<scalar_t>(mu), data<scalar_t>(logvar), mutable_data<scalar_t>(grad_mu),
                         mutable_data<scalar_t>(grad_logvar)));
  return {grad_mu, grad_logvar};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl_cpu));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward_cpu));
}

}  // namespace fastgen
