// The head of a plan's records, from the tensor that holds them.
#pragma once

#include "sample_program.h"
#include "tensor_utils.h"

namespace fastgen {

inline ProgramHeader program_header(const Tensor& words) {
  STD_TORCH_CHECK(words.device().is_cpu() && words.scalar_type() == ScalarType::Int && words.is_contiguous() &&
                      words.dim() == 1 && words.numel() >= kWordsOf<ProgramHeader>,
                  "words: expected those of sample_program");
  ProgramHeader header;
  std::memcpy(&header, words.const_data_ptr(), sizeof header);
  STD_TORCH_CHECK(header.magic == kProgramMagic && header.words == words.numel(),
                  "words: expected those of sample_program");
  return header;
}

}  // namespace fastgen
