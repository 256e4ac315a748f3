// binary_cross_entropy and its backward on the CPU: a thread takes tiles of rows.
#include <atomic>

#include "binary_cross_entropy.h"
#include "row_tiles_cpu.h"
#include "tensor_utils.h"

namespace fastgen {
namespace {

template <typename T>
FG_VECTOR_CLONES void forward_elements(int64_t count, const storage_t<T>* __restrict logits,
                                       const accumulation_t<T>* __restrict targets,
                                       accumulation_t<T>* __restrict nats) {
  for (int64_t i = 0; i < count; ++i)
    nats[i] = binary_cross_entropy(accumulation_t<T>(Storage<T>::load(logits[i])), targets[i]);
}

template <typename acc_t>
FG_VECTOR_CLONES bool lie_in_unit(int64_t count, const acc_t* __restrict targets) {
  int32_t outside = 0;
  for (int64_t i = 0; i < count; ++i)
    outside |= int32_t(!(targets[i] >= acc_t(0))) | int32_t(!(targets[i] <= acc_t(1)));
  return outside == 0;
}

template <typename T>
FG_VECTOR_CLONES void backward_elements(int64_t count, const accumulation_t<T>* __restrict grad,
                                        const storage_t<T>* __restrict logits,
                                        const accumulation_t<T>* __restrict targets,
                                        storage_t<T>* __restrict grad_logits) {
  using acc_t = accumulation_t<T>;
  for (int64_t i = 0; i < count; ++i)
    grad_logits[i] =
        Storage<T>::store(grad[i] * binary_cross_entropy_backward(acc_t(Storage<T>::load(logits[i])), targets[i]));
}

// logits (*S, N, *D) and targets (N, *D), which are read again for each of S.
struct Batch {
  std::vector<int64_t> rows;  // (*S, N)
  Tiling tiling;
  int64_t targets;
  bool together;  // the colours of a pixel lie together, in both

  Batch(const Tensor& logits, const Tensor& target)
      : rows(rows_of(logits, target)),
        tiling(product(rows), product(shape_of(target), 1)),
        targets(target.numel()),
        together(logits.dim() == 4 && target.dim() == 4 && is_channels_last(logits)) {}

  // Calls body(where in logits, where in targets, how many) for parts of a tile that follow each other in both.
  template <class F>
  void over(int64_t begin, int64_t end, const F& body) const {
    for (int64_t at = begin; at < end;) {
      const int64_t target = at % targets, count = std::min(end - at, targets - target);
      body(at, target, count);
      at += count;
    }
  }

 private:
  static std::vector<int64_t> rows_of(const Tensor& logits, const Tensor& target) {
    check_floating(logits, "logits");
    const int64_t dims = target.dim(), first = logits.dim() - dims;
    STD_TORCH_CHECK(dims > 0, "target: expected shape (N, *), got a scalar");
    std::vector<int64_t> sizes = shape_of(logits);
    STD_TORCH_CHECK(first >= 0, "logits: expected the shape of target, or more dimensions before it");
    check_tensor(target, "target", std::vector<int64_t>(sizes.begin() + first, sizes.end()),
                 accumulation_dtype(logits.scalar_type()), logits);
    sizes.resize(size_t(first + 1));
    return sizes;
  }
};

int64_t grain(const Tiling& tiling) {
  const int64_t elements = tiling.tiles_per_row > 1 ? kTile : tiling.rows_per_tile * tiling.row;
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
}

template <typename T>
void forward(const Batch& batch, const storage_t<T>* logits, const accumulation_t<T>* targets,
             accumulation_t<T>* nats) {
  using acc_t = accumulation_t<T>;
  const Tiling& tiling = batch.tiling;
  const bool parts = tiling.tiles_per_row > 1;
  std::vector<acc_t> partial(parts ? tiling.count : 0);
  std::atomic<bool> fit = true;
  torch::stable::parallel_for(0, tiling.count, grain(tiling), [&](int64_t first, int64_t last) {
    acc_t terms[kTile];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      batch.over(begin, end, [&](int64_t at, int64_t target, int64_t count) {
        forward_elements<T>(count, logits + at, targets + target, terms + (at - begin));
        if (!lie_in_unit(count, targets + target)) fit = false;
      });
      sum_rows(parts ? 1 : (end - begin) / tiling.row, parts ? end - begin : tiling.row, terms,
               parts ? &partial[tile] : nats + begin / tiling.row);
    }
  });
  STD_TORCH_CHECK(fit, "target: expected values in [0, 1], got others");
  if (parts) sum_rows(tiling.N, tiling.tiles_per_row, partial.data(), nats);
}

template <typename T>
void backward(const Batch& batch, const accumulation_t<T>* grad, int64_t stride, const storage_t<T>* logits,
              const accumulation_t<T>* targets, storage_t<T>* grad_logits) {
  const Tiling& tiling = batch.tiling;
  torch::stable::parallel_for(0, tiling.count, grain(tiling), [&](int64_t first, int64_t last) {
    accumulation_t<T> of_row[kTile];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tiling.begin(tile), end = tiling.end(tile);
      repeat_by_row(tiling, begin, end, grad, stride, of_row);
      batch.over(begin, end, [&](int64_t at, int64_t target, int64_t count) {
        backward_elements<T>(count, of_row + (at - begin), logits + at, targets + target, grad_logits + at);
      });
    }
  });
}

Tensor binary_cross_entropy_cpu(const Tensor& logits_any, const Tensor& target_any) {
  const Batch batch(logits_any, target_any);
  const ScalarType dtype = accumulation_dtype(logits_any.scalar_type());
  if (logits_any.numel() == 0) return torch::stable::new_zeros(logits_any, batch.rows, dtype);
  const Tensor logits = in_layout(logits_any, batch.together), target = in_layout(target_any, batch.together);
  Tensor nats = empty(logits, batch.rows, dtype);
  FG_DISPATCH_FLOATING(logits, "binary_cross_entropy",
                       forward<scalar_t>(batch, data<scalar_t>(logits), data<accumulation_t<scalar_t>>(target),
                                         mutable_data<accumulation_t<scalar_t>>(nats)));
  return nats;
}

Tensor binary_cross_entropy_backward_cpu(const Tensor& grad_any, const Tensor& logits_any, const Tensor& target_any) {
  const Batch batch(logits_any, target_any);
  check_tensor(grad_any, "grad", batch.rows, accumulation_dtype(logits_any.scalar_type()), logits_any);
  const Tensor logits = in_layout(logits_any, batch.together), target = in_layout(target_any, batch.together);
  const Tensor grad = grad_any.dim() == 1 ? grad_any : as_contiguous(grad_any);
  const int64_t stride = grad.dim() == 1 ? grad.stride(0) : 1;
  Tensor grad_logits = empty(logits, shape_of(logits), logits.scalar_type(), batch.together);
  if (logits.numel() == 0) return grad_logits;
  FG_DISPATCH_FLOATING(logits, "binary_cross_entropy_backward",
                       backward<scalar_t>(batch, data<accumulation_t<scalar_t>>(grad), stride, data<scalar_t>(logits),
                                          data<accumulation_t<scalar_t>>(target), mutable_data<scalar_t>(grad_logits)));
  return grad_logits;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("binary_cross_entropy", TORCH_BOX(&binary_cross_entropy_cpu));
  m.impl("binary_cross_entropy_backward", TORCH_BOX(&binary_cross_entropy_backward_cpu));
}

}  // namespace fastgen
