// A table of one short row per token, row by row in memory: for lookups and for products with a few rows,
// where a packed matrix (16 rows side by side) would touch a cache line per value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "drafter/models/draft_tensors.h"

namespace tandem::drafter {

// Values as stored in the file: f32, bf16, or int8 with a scale per row. Immutable after Read.
class TokenRows {
 public:
  // Rows `source_rows` of a 2-d tensor in this order; empty = all. kInvalidArgument names a tensor with a
  // value that is not finite.
  static absl::StatusOr<TokenRows> Read(const DraftTensor& tensor, std::span<const int32_t> source_rows);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t bytes() const { return static_cast<int64_t>(data_.size() + row_scales_.size() * sizeof(float)); }

  // out [cols] = row r.
  void Row(int64_t r, std::span<float> out) const;
  // Sum over c of row r's value times x[c], in f32 by 16 partial sums (c mod 16), which are then added in
  // order.
  float Dot(int64_t r, std::span<const float> x) const;

 private:
  formats::DType dtype_ = formats::DType::kF32;
  int64_t rows_ = 0, cols_ = 0;
  std::vector<std::byte> data_;
  std::vector<float> row_scales_;  // int8 only
};

}  // namespace tandem::drafter
