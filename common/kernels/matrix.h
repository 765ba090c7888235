// Weights of one linear layer, repacked once at load for the matrix product.
//
//   ASSIGN_OR_RETURN(Matrix w, Matrix::Pack(view, {.type = WeightType::kInt4}));
//
// Layout: panels of 16 output rows; inside a panel the 16 rows lie in vector lanes and columns follow each
// other (f32, bf16: column by column; int8 and 4-bit: groups of 4 columns per row, blocks of 32 with their
// scales), so that one pass over a panel serves every token of a step and no sum crosses lanes. Rows beyond
// the last are zero. Owns its memory (64-byte aligned). Immutable after Pack, hence thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/tensor.h"
#include "common/kernels/types.h"
#include "common/kernels/weight_memory.h"

namespace tandem {
class ThreadPool;
}

namespace tandem::kernels {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlockColumns = 32;

// The packed type that holds a tensor without loss, or the smallest of those: Q4_0, Q4_1 -> kInt4; Q8_0,
// Q5_0, Q5_1 -> kInt8; BF16 -> kBF16; everything else kF32 (F16 and Q6_K have values that none of the smaller
// types can hold).
WeightType LosslessWeightType(formats::DType dtype);

class Matrix {
 public:
  struct PackOptions {
    WeightType type = WeightType::kF32;
    // Packed row r is the tensor's row source_row[r]; empty = as they are. Undoes GGUF's permutation of q and
    // k.
    std::span<const int32_t> source_row = {};
    ThreadPool* pool = nullptr;      // null = the calling thread alone
    WeightMemory* memory = nullptr;  // of the model's matrices; null = the matrix has memory of its own
  };

  // From a 2-d tensor [rows, cols] whose type CanDequantize. Exact where `type` can hold the source (above),
  // otherwise rounded: bf16 to nearest even; int8 and int4 per block of 32 columns (int8 symmetric, int4 with
  // a minimum). kInvalidArgument names the tensor: not 2-d; kInt8 or kInt4 with cols not a multiple of 32;
  // not finite weights.
  static absl::StatusOr<Matrix> Pack(const formats::TensorView& tensor, const PackOptions& options);

  Matrix() = default;
  Matrix(Matrix&&) = default;
  Matrix& operator=(Matrix&&) = default;

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t num_panels() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
  WeightType type() const { return type_; }
  bool has_minimum() const { return has_minimum_; }
  int64_t bytes() const { return bytes_; }
  const std::byte* panel(int64_t p) const { return data_.get() + p * panel_bytes_; }
  int64_t panel_bytes() const { return panel_bytes_; }

  // out [cols] f32 = row r as the product sees it. For embeddings, tests and reference kernels.
  void DequantizeRow(int64_t r, std::span<float> out) const;

 private:
  WeightType type_ = WeightType::kF32;
  bool has_minimum_ = false;
  int64_t rows_ = 0, cols_ = 0, panel_bytes_ = 0, bytes_ = 0;
  std::shared_ptr<std::byte> data_;
};

}  // namespace tandem::kernels
