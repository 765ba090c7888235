// What a checked view of a tensor promises.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/formats/tensor.h"

namespace tandem::fuzz {

inline void UseTensor(const formats::TensorView& tensor, std::span<const std::byte> file) {
  const std::byte* begin = tensor.data.data();
  TANDEM_CHECK(begin >= file.data() && begin + tensor.data.size() <= file.data() + file.size());
  TANDEM_CHECK(tensor.num_rows() * tensor.row_bytes() == static_cast<int64_t>(tensor.data.size()));
  // A long row of empty data cannot be: its bytes are in the file.
  if (!formats::CanDequantize(tensor.dtype) || tensor.num_rows() == 0) return;
  std::vector<float> row(tensor.row_elements());
  formats::Dequantize(tensor.dtype, tensor.row(tensor.num_rows() - 1), row);
}

}  // namespace tandem::fuzz
