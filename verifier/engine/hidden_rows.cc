#include "verifier/engine/hidden_rows.h"

#include <utility>

namespace tandem::verifier {

void HiddenRows::Use(std::unique_ptr<models::RowProjection> projection, std::vector<int32_t> taps,
                     const std::string& hash) {
  projection_ = std::move(projection);
  taps_ = std::move(taps);
  store_->UseProjection(hash);
  waiting_.clear();  // of another projection
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
      projection_->Add(taps, rows.first_row + i);
      waiting_.push_back(place);
    }
  }
}

// In the order in which positions were computed: a block that changed hands meanwhile ends up with the rows
// of who has it now.
void HiddenRows::Project() {
  if (waiting_.empty()) return;
  const absl::Duration begin = clock_.Now();
  projection_->Project(projected_);
  for (size_t i = 0; i < waiting_.size(); ++i) {
    store_->Write(waiting_[i].block, waiting_[i].slot, projected_.data() + i * store_->width());
  }
  waiting_.clear();
  project_time_ += clock_.Now() - begin;
}

}  // namespace tandem::verifier
