// A checked view of one tensor in a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tandem::formats {

// Element types of GGUF (ggml) and safetensors files. Quantised ones store blocks along the last dimension.
enum class DType {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,  // blocks of 32
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,  // blocks of 256
  kIQ4_NL,
  kIQ4_XS,  // blocks of 32 and 256, 4-bit indices into a table
  kI8,
  kI16,
  kI32,
  kI64,
  kU8,
  kF64,
  kBool,
};

const char* DTypeName(DType dtype);  // as ggml spells it: "Q4_1", "BF16"
int64_t BlockElements(DType dtype);  // 1 for plain types
int64_t BlockBytes(DType dtype);
bool IsQuantised(DType dtype);

// `data` borrows from the file's mapping: row-major, outermost dimension first ([out, in] for a linear layer,
// also for GGUF, whose own order is reversed). Its size has been checked against dtype and shape, and the
// number of elements fits 63 bits. Dimensions of 0 occur in safetensors files only.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;

  int64_t num_elements() const;
  // Elements of the last dimension, and how many such rows there are.
  int64_t row_elements() const { return shape.empty() ? 1 : shape.back(); }
  int64_t num_rows() const { return row_elements() == 0 ? 0 : num_elements() / row_elements(); }
  int64_t row_bytes() const { return row_elements() / BlockElements(dtype) * BlockBytes(dtype); }
  std::span<const std::byte> row(int64_t r) const { return data.subspan(r * row_bytes(), row_bytes()); }
};

// "[64,32]", for messages.
std::string ShapeText(const std::vector<int64_t>& shape);

// Whether Dequantize knows the type: all but the integer types, F64 and BOOL.
bool CanDequantize(DType dtype);

// out[i] = element i as float32, computed in float32 in the order of ggml's reference code (golden/gguf).
// `in` holds out.size() elements; out.size() is a multiple of BlockElements(dtype). Requires CanDequantize.
void Dequantize(DType dtype, std::span<const std::byte> in, std::span<float> out);

}  // namespace tandem::formats
