// From the tapped layers of a step to hidden rows in the store. Rows wait and are projected together, when
// somebody reads them or kMaxWaiting have gathered: a sequence that is not drafted then costs a small part of
// reading the projection's weights once a step, and products at the speed of prefill.
//
//   hidden_rows.Add(batch.sequences, outputs.taps);     // behind each Forward
//   hidden_rows.Project();                              // before rows of the store are read
//
// Not thread-safe: only the step loop calls it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/kernels/attention.h"
#include "common/models/row_projection.h"
#include "verifier/engine/row_store.h"

namespace tandem::verifier {

class HiddenRows {
 public:
  static constexpr int32_t kMaxWaiting = 192;

  // Borrows `clock`.
  HiddenRows(std::unique_ptr<RowStore> store, const Clock& clock) : store_(std::move(store)), clock_(clock) {}

  RowStore& store() { return *store_; }
  // From now on; rows of another projection are void.
  void Use(std::unique_ptr<models::RowProjection> projection, std::vector<int32_t> taps,
           const std::string& hash);
  bool projects() const { return projection_ != nullptr; }
  std::span<const int32_t> taps() const { return taps_; }  // that Forward is to give; none without projection

  // taps[i] [tokens, hidden size] of the batch whose rows these are; positions computed without a projection
  // void their block's rows.
  void Add(std::span<const kernels::SequenceRows> sequences, std::span<const std::span<const float>> taps);
  void Project();
  // What Project has taken since the last call of this.
  absl::Duration TakeProjectTime() { return std::exchange(project_time_, absl::ZeroDuration()); }

 private:
  struct Place {
    int32_t block = 0, slot = 0;
  };

  const std::unique_ptr<RowStore> store_;
  const Clock& clock_;
  std::unique_ptr<models::RowProjection> projection_;
  std::vector<int32_t> taps_;
  std::vector<Place> waiting_;    // where the rows go that wait in the projection
  std::vector<float> projected_;  // [kMaxWaiting, row width]
  absl::Duration project_time_;
};

}  // namespace tandem::verifier
