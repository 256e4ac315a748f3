// Kernels for NumPy: arrays come and go as bytes. Not sanitized itself; the memory it hands to kernels is.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "kernels.h"

namespace py = pybind11;
using Bytes = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;

namespace {

constexpr size_t kAlignment = 256;  // as a GPU's allocator gives, at least

// `size` bytes at `offset` behind an aligned address, and not one byte more: the sanitizer guards the end, and the
// beginning where the offset is 0.
class Memory {
 public:
  Memory(size_t size, size_t offset) : offset_(offset) {
    void* pointer = nullptr;
    if (posix_memalign(&pointer, kAlignment, offset + size) != 0) throw std::bad_alloc();
    memory_.reset(static_cast<char*>(pointer));
    std::memset(data(), 0xff, size);  // NaN, where a kernel does not write
  }
  char* data() const { return memory_.get() + offset_; }

 private:
  struct Free {
    void operator()(char* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t offset_;
};

std::vector<Bytes> call(const std::string& op, const std::string& dtype, const std::vector<int64_t>& sizes,
                        const std::vector<std::pair<Bytes, size_t>>& inputs,    // with its offset
                        const std::vector<std::pair<size_t, size_t>>& outputs,  // size and offset
                        int schedule) {
  std::vector<Memory> memory;
  Call one = {op, dtype, sizes, {}, {}, schedule};
  for (const auto& [bytes, offset] : inputs) {
    memory.emplace_back(bytes.size(), offset);
    if (bytes.size() > 0) std::memcpy(memory.back().data(), bytes.data(), bytes.size());
    one.inputs.push_back(memory.back().data());
  }
  for (const auto& [size, offset] : outputs) {
    memory.emplace_back(size, offset);
    one.outputs.push_back(memory.back().data());
  }
  run(one);
  std::vector<Bytes> results;
  for (size_t i = 0; i < outputs.size(); ++i)
    results.emplace_back(outputs[i].first, static_cast<const uint8_t*>(one.outputs[i]));
  return results;
}

}  // namespace

PYBIND11_MODULE(simt_kernels, m) {
  m.def("call", &call);
  m.def("rsample_kl_parts", &rsample_kl_parts);
}
