#include "verifier/engine/hidden_rows.h"

#include <cstring>
#include <utility>

namespace tandem::verifier {

void HiddenRows::Use(std::unique_ptr<models::RowProjection> projection, std::vector<int32_t> taps,
                     const std::string& hash) {
  projection_ = std::move(projection);
  taps_ = std::move(taps);
  store_->UseProjection(hash);
  waiting_.clear();  // of another projection
  waiting_taps_.assign(taps_.size(), std::vector<float>(size_t{kMaxWaiting} * hidden_size_));
  tap_views_.assign(waiting_taps_.begin(), waiting_taps_.end());
  projected_.resize(size_t{kMaxWaiting} * store_->width());
}

void HiddenRows::Add(std::span<const kernels::SequenceRows> sequences,
                     std::span<const std::span<const float>> taps) {
  constexpr int32_t kBlock = kernels::kKvBlockPositions;
  for (const kernels::SequenceRows& rows : sequences) {
    for (int32_t i = 0; i < rows.num_rows; ++i) {
      const int32_t position = rows.first_position + i;
      const Place place = {rows.blocks[position / kBlock], position % kBlock};
      if (projection_ == nullptr) {
        store_->Void(place.block);
        continue;
      }
      if (!store_->Mark(place.block, place.slot)) continue;
      if (waiting_.size() == kMaxWaiting) Project();
      for (size_t tap = 0; tap < taps.size(); ++tap) {
        std::memcpy(waiting_taps_[tap].data() + waiting_.size() * hidden_size_,
                    taps[tap].data() + int64_t{rows.first_row + i} * hidden_size_,
                    hidden_size_ * sizeof(float));
      }
      waiting_.push_back(place);
    }
  }
}

// In the order in which positions were computed: a block that changed hands meanwhile ends up with the rows
// of who has it now.
void HiddenRows::Project() {
  if (waiting_.empty()) return;
  const absl::Duration begin = clock_.Now();
  projection_->Project(tap_views_, static_cast<int32_t>(waiting_.size()), projected_);
  for (size_t i = 0; i < waiting_.size(); ++i) {
    store_->Write(waiting_[i].block, waiting_[i].slot, projected_.data() + i * store_->width());
  }
  waiting_.clear();
  project_time_ += clock_.Now() - begin;
}

}  // namespace tandem::verifier
