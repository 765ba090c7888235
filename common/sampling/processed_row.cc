#include "common/sampling/processed_row.h"

#include <cmath>

#include "common/base/status.h"
#include "common/sampling/logit_edits.h"
#include "common/sampling/row_scan.h"

namespace tandem::sampling {
namespace {

absl::Status CheckRow(const RowMax& max) {
  if (max.has_nan) return InvalidArgument("logits: NaN");
  if (std::isinf(max.value) && max.value > 0) return InvalidArgument("logits: +inf at token id {}", max.id);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ProcessedRow> ProcessRow(std::span<const float> logits, const Position& position,
                                        std::vector<float>& buffer) {
  if (logits.empty() || logits.size() > static_cast<size_t>(kMaxVocabulary)) {
    return InvalidArgument("logits: {} values, must be 1 to {}", logits.size(), kMaxVocabulary);
  }
  RowMax max = FindMax(logits);
  RETURN_IF_ERROR(CheckRow(max));
  if (HasLogitEdits(position)) {
    buffer.assign(logits.begin(), logits.end());
    RETURN_IF_ERROR(ApplyLogitEdits(position, buffer));
    logits = buffer;
    max = FindMax(logits);
    RETURN_IF_ERROR(CheckRow(max));
  }
  if (std::isinf(max.value))
    return InvalidArgument("logits: no token is possible, all {} are -inf", logits.size());
  return ProcessedRow{logits, max.value, max.id};
}

}  // namespace tandem::sampling
