// checksum on the CPU: a thread takes blocks of one tensor, one tensor after the other.
#include "checksum.h"
#include "tensor_utils.h"

namespace fastgen {
namespace {

constexpr int64_t kFewestMultipliers = 4;  // a block's sum is two words: fewer would never come to one
constexpr int64_t kGrainBytes = int64_t(1) << 18;

uint64_t checksum_of(const Tensor& tensor, const uint64_t* multipliers, int64_t block) {
  const char* bytes = static_cast<const char*>(tensor.const_data_ptr());
  int64_t count = checked_multiply(tensor.numel(), int64_t(tensor.element_size()));
  std::vector<uint64_t> sums, read;
  do {
    read.swap(sums);  // what `bytes` points to from the second time on
    sums.resize(size_t(std::max<int64_t>(1, (count + block - 1) / block)));
    torch::stable::parallel_for(
        0, int64_t(sums.size()), std::max<int64_t>(1, kGrainBytes / block), [&](int64_t b, int64_t end) {
          for (; b < end; ++b)
            sums[size_t(b)] = block_checksum(std::min(block, count - b * block), bytes + b * block, multipliers);
        });
    bytes = reinterpret_cast<const char*>(sums.data());
    count = int64_t(sums.size() * sizeof(uint64_t));
  } while (sums.size() > 1);
  return sums[0];
}

Tensor checksum_cpu(std::vector<Tensor> tensors, const Tensor& multipliers_any) {
  STD_TORCH_CHECK(multipliers_any.dim() == 1 && multipliers_any.numel() >= kFewestMultipliers,
                  "multipliers: expected shape (M,), M at least 4");
  check_tensor(multipliers_any, "multipliers", multipliers_any.sizes(), ScalarType::Long, multipliers_any);
  const Tensor multipliers = as_contiguous(multipliers_any);
  const auto* of = reinterpret_cast<const uint64_t*>(data<int64_t>(multipliers));
  Tensor sums = empty(multipliers, {int64_t(tensors.size())});
  int64_t* to = mutable_data<int64_t>(sums);
  for (const Tensor& tensor : tensors) {
    STD_TORCH_CHECK(tensor.device().is_cpu(), "tensors: expected them on the CPU");
    *to++ = int64_t(checksum_of(as_contiguous(tensor), of, kWord * multipliers.numel()));
  }
  return sums;
}

}  // namespace

FG_KERNELS(CPU, m) { m.impl("checksum", TORCH_BOX(&checksum_cpu)); }

}  // namespace fastgen
