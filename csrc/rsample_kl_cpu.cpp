// rsample_kl on the CPU: noise into a buffer that stays in L1, then one vector loop over the elements.
#include "rsample_kl.h"
#include "tensor_utils.h"

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

// noise[i] is that of element first + i; whole Philox blocks, so up to three more are written on either side.
template <typename T>
FG_VECTOR_CLONES void make_noise(int64_t first_block, int64_t blocks, PhiloxKey key, T* __restrict noise) {
  for (int64_t i = 0; i < blocks; ++i) normal_block(first_block + i, key, noise + 4 * i);
}

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
FG_VECTOR_CLONES void backward_elements(int64_t count, const storage_t<T>* __restrict grad_z, accumulation_t<T> grad_kl,
                                        const storage_t<T>* __restrict mu, const storage_t<T>* __restrict logvar,
                                        const accumulation_t<T>* __restrict noise, storage_t<T>* __restrict grad_mu,
                                        storage_t<T>* __restrict grad_logvar) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i) {
    accumulation_t<T> dmu, dlogvar;
    rsample_kl_backward(S::load(grad_z[i]), grad_kl, S::load(mu[i]), S::load(logvar[i]), noise[i], &dmu, &dlogvar);
    grad_mu[i] = S::store(dmu);
    grad_logvar[i] = S::store(dlogvar);
  }
}

template <typename acc_t>
FG_VECTOR_CLONES acc_t sum_in_order(int64_t count, const acc_t* values) {
  acc_t lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane];
  for (int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += values[i];
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

// Noise of elements [begin, end), by way of the aligned Philox blocks that cover them.
template <typename acc_t>
const acc_t* tile_noise(int64_t begin, int64_t end, PhiloxKey key, acc_t* buffer) {
  const int64_t first_block = begin / 4;
  make_noise(first_block, ceil_div(end, 4) - first_block, key, buffer);
  return buffer + (begin - 4 * first_block);
}

template <typename T>
void forward(const Tiling& tiling, int64_t seed, const storage_t<T>* mu, const storage_t<T>* logvar, storage_t<T>* z,
             accumulation_t<T>* kl) {
  using acc_t = accumulation_t<T>;
  const PhiloxKey key(seed);
  std::vector<acc_t> partial(tiling.tiles_per_row > 1 ? tiling.count : 0);
  torch::stable::parallel_for(0, tiling.count, kGrainTiles, [&](int64_t first, int64_t last) {
    acc_t noise_buffer[kTile + 8], kl_terms[kTile];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      const acc_t* noise = tile_noise(begin, end, key, noise_buffer);
      forward_elements<T>(end - begin, mu + begin, logvar + begin, noise, z + begin, kl_terms);
      if (tiling.tiles_per_row > 1) {
        partial[tile] = sum_in_order(end - begin, kl_terms);
      } else {
        for (int64_t at = begin; at < end; at += tiling.row)
          kl[at / tiling.row] = sum_in_order(tiling.row, kl_terms + (at - begin));
      }
    }
  });
  if (tiling.tiles_per_row > 1)
    for (int64_t n = 0; n < tiling.N; ++n)
      kl[n] = sum_in_order(tiling.tiles_per_row, partial.data() + n * tiling.tiles_per_row);
}

template <typename T>
void backward(const Tiling& tiling, int64_t seed, const storage_t<T>* grad_z, const accumulation_t<T>* grad_kl,
              const storage_t<T>* mu, const storage_t<T>* logvar, storage_t<T>* grad_mu, storage_t<T>* grad_logvar) {
  using acc_t = accumulation_t<T>;
  const PhiloxKey key(seed);
  torch::stable::parallel_for(0, tiling.count, kGrainTiles, [&](int64_t first, int64_t last) {
    acc_t noise_buffer[kTile + 8];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      const acc_t* noise = tile_noise(begin, end, key, noise_buffer);
      for (int64_t at = begin; at < end;) {
        const int64_t n = at / tiling.row, count = std::min((n + 1) * tiling.row, end) - at;
        backward_elements<T>(count, grad_z + at, grad_kl[n], mu + at, logvar + at, noise + (at - begin), grad_mu + at,
                             grad_logvar + at);
        at += count;
      }
    }
  });
}

Tiling tiling_of(const Tensor& mu) {
  STD_TORCH_CHECK(mu.dim() >= 1, "mu: expected shape (N, *), got a scalar");
  return {mu.size(0), product(shape_of(mu), 1)};
}

std::tuple<Tensor, Tensor> rsample_kl_cpu(const Tensor& mu_any, const Tensor& logvar_any, const Tensor& seed) {
  check_same_shape(mu_any, logvar_any, "mu, logvar");
  const Tiling tiling = tiling_of(mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const std::vector<int64_t> sizes = shape_of(mu), kl_sizes = {tiling.N};
  Tensor z = torch::stable::new_empty(mu, sizes);
  if (mu.numel() == 0) return {z, torch::stable::new_zeros(mu, kl_sizes, accumulation_dtype(mu.scalar_type()))};
  Tensor kl = torch::stable::new_empty(mu, kl_sizes, accumulation_dtype(mu.scalar_type()));
  FG_DISPATCH_FLOATING(mu, "rsample_kl",
                       forward<scalar_t>(tiling, host_seed(seed), data<scalar_t>(mu), data<scalar_t>(logvar),
                                         mutable_data<scalar_t>(z), mutable_data<accumulation_t<scalar_t>>(kl)));
  return {z, kl};
}

std::tuple<Tensor, Tensor> rsample_kl_backward_cpu(const Tensor& grad_z_any, const Tensor& grad_kl_any,
                                                   const Tensor& mu_any, const Tensor& logvar_any, const Tensor& seed) {
  check_same_shape(mu_any, logvar_any, "mu, logvar");
  check_same_shape(grad_z_any, mu_any, "grad_z, mu");
  const Tiling tiling = tiling_of(mu_any);
  const Tensor mu = as_contiguous(mu_any), logvar = as_contiguous(logvar_any);
  const Tensor grad_z = as_contiguous(grad_z_any), grad_kl = as_contiguous(grad_kl_any);
  STD_TORCH_CHECK(grad_kl.numel() == tiling.N && grad_kl.scalar_type() == accumulation_dtype(mu.scalar_type()),
                  "grad_kl: expected the shape and dtype of kl");
  const std::vector<int64_t> sizes = shape_of(mu);
  Tensor grad_mu = torch::stable::new_empty(mu, sizes), grad_logvar = torch::stable::new_empty(mu, sizes);
  if (mu.numel() == 0) return {grad_mu, grad_logvar};
  FG_DISPATCH_FLOATING(
      mu, "rsample_kl_backward",
      backward<scalar_t>(tiling, host_seed(seed), data<scalar_t>(grad_z), data<accumulation_t<scalar_t>>(grad_kl),
                         data<scalar_t>(mu), data<scalar_t>(logvar), mutable_data<scalar_t>(grad_mu),
                         mutable_data<scalar_t>(grad_logvar)));
  return {grad_mu, grad_logvar};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CPU, m) {
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl_cpu));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward_cpu));
}

}  // namespace fastgen
