// Hidden rows beside the KV blocks: for each position of a block the projected hidden state that a drafter
// conditions on. The only source for feeding, rejoining, prefix hits and moves to another drafter.
//
// A row belongs to the projection it was made with. A block's rows count as there from its first position on,
// as far as they were made with the present one; a block that was begun under another has none until it is
// computed anew. Rows of rejected drafts are overwritten with their positions, like their KV.
//
// Not thread-safe: only the step loop calls it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/kernels/kv_cache.h"
#include "common/speculation/messages.h"

namespace tandem::verifier {

class RowStore {
 public:
  // Bytes that a block of 16 positions takes.
  static int64_t BlockBytes(speculation::RowType type, int32_t width);
  // kResourceExhausted with the sizes if the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<RowStore>> Create(speculation::RowType type, int32_t width,
                                                          int32_t num_blocks);

  speculation::RowType type() const { return type_; }
  int32_t width() const { return width_; }
  int64_t row_bytes() const { return row_bytes_; }

  // From now on rows are of the projection with this hash; those of another are void.
  void UseProjection(const std::string& hash);
  const std::string& projection() const { return projection_; }  // empty: none yet

  // Position `slot` of `block` was computed with the present projection at hand. Whether its row will ever be
  // asked for: only then it need be written.
  bool Mark(int32_t block, int32_t slot);
  // The row of a marked position, before anybody reads it; row [width] is rounded to type(), nearest even.
  void Write(int32_t block, int32_t slot, const float* row);
  // Positions of `block` were computed without a projection at hand.
  void Void(int32_t block);
  // Whether the first `num_slots` positions of the block have rows of the present projection.
  bool Has(int32_t block, int32_t num_slots) const;
  // Bytes of one row; valid until the next Write into the block.
  std::span<const std::byte> Row(int32_t block, int32_t slot) const;
  // `twin` holds the same tokens behind the same prefix as `block`: what it has and `block` lacks is copied.
  void Adopt(int32_t block, int32_t twin);

 private:
  static constexpr int32_t kBlock = kernels::kKvBlockPositions;

  struct State {
    uint64_t generation = 0;  // of the projection; 0 = no rows
    int32_t rows = 0;         // leading positions that have one
  };
  struct Free {
    void operator()(std::byte* p) const;
  };

  RowStore(speculation::RowType type, int32_t width, int32_t num_blocks);
  std::byte* At(int32_t block, int32_t slot) const {
    return data_.get() + (int64_t{block} * kBlock + slot) * row_bytes_;
  }

  const speculation::RowType type_;
  const int32_t width_;
  const int64_t row_bytes_;
  std::string projection_;
  uint64_t generation_ = 0;
  std::vector<State> states_;  // by block
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace tandem::verifier
