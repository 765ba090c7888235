#include "verifier/engine/row_store.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/base/status.h"
#include "common/kernels/half.h"

namespace tandem::verifier {

using speculation::RowType;

void RowStore::Free::operator()(std::byte* p) const { std::free(p); }

int64_t RowStore::BlockBytes(RowType type, int32_t width) {
  return int64_t{kBlock} * width * speculation::RowTypeBytes(type);
}

RowStore::RowStore(RowType type, int32_t width, int32_t num_blocks)
    : type_(type),
      width_(width),
      row_bytes_(int64_t{width} * speculation::RowTypeBytes(type)),
      states_(num_blocks) {}

absl::StatusOr<std::unique_ptr<RowStore>> RowStore::Create(RowType type, int32_t width, int32_t num_blocks) {
  TANDEM_CHECK(width > 0 && num_blocks > 0);
  std::unique_ptr<RowStore> store(new RowStore(type, width, num_blocks));
  const int64_t bytes = BlockBytes(type, width) * num_blocks;
  // Untouched pages take no memory, so an idle store costs nothing.
  store->data_.reset(static_cast<std::byte*>(std::malloc(bytes)));
  if (store->data_ == nullptr) {
    return ResourceExhausted("no memory for hidden rows of {} blocks, {} bytes", num_blocks, bytes);
  }
  return store;
}

void RowStore::UseProjection(const std::string& hash) {
  if (hash == projection_) return;
  projection_ = hash;
  ++generation_;
}

bool RowStore::Mark(int32_t block, int32_t slot) {
  State& state = states_[block];
  if (slot == 0) state = {generation_, 0};
  if (state.generation != generation_ || slot > state.rows) return false;
  state.rows = std::max(state.rows, slot + 1);
  return true;
}

void RowStore::Write(int32_t block, int32_t slot, const float* row) {
  std::byte* const to = At(block, slot);
  if (type_ == RowType::kF32) {
    std::memcpy(to, row, row_bytes_);
    return;
  }
  for (int32_t i = 0; i < width_; ++i) {
    const uint16_t half = kernels::BF16FromFloat(row[i]);
    std::memcpy(to + int64_t{i} * 2, &half, sizeof(half));
  }
}

void RowStore::Void(int32_t block) { states_[block] = {}; }

bool RowStore::Has(int32_t block, int32_t num_slots) const {
  const State& state = states_[block];
  return state.generation == generation_ && generation_ > 0 && state.rows >= num_slots;
}

std::span<const std::byte> RowStore::Row(int32_t block, int32_t slot) const {
  TANDEM_CHECK(Has(block, slot + 1));
  return {At(block, slot), static_cast<size_t>(row_bytes_)};
}

void RowStore::Adopt(int32_t block, int32_t twin) {
  if (!Has(twin, 1) || Has(block, states_[twin].rows)) return;
  states_[block] = states_[twin];
  std::memcpy(At(block, 0), At(twin, 0), states_[twin].rows * row_bytes_);
}

}  // namespace tandem::verifier
