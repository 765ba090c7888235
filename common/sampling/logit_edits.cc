#include "common/sampling/logit_edits.h"

#include <limits>

#include "common/base/status.h"

namespace tandem::sampling {
namespace {

absl::Status CheckId(const char* field, int32_t id, size_t vocab_size) {
  if (id >= 0 && static_cast<size_t>(id) < vocab_size) return absl::OkStatus();
  return InvalidArgument("{}: token id {} outside [0, {})", field, id, vocab_size);
}

absl::Status ApplyPenalties(const SamplingParams& params, const TokenCounts& history, std::span<float> row) {
  for (const auto& [id, count] : history.counts()) {
    RETURN_IF_ERROR(CheckId("history", id, row.size()));
    float& z = row[static_cast<size_t>(id)];
    z = z > 0 ? z / params.repetition_penalty : z * params.repetition_penalty;
    if (count.output > 0) {
      z -= params.frequency_penalty * static_cast<float>(count.output) + params.presence_penalty;
    }
  }
  return absl::OkStatus();
}

bool HasPenalties(const Position& position) {
  return position.params->has_penalties() && position.history != nullptr && !position.history->empty();
}

}  // namespace

bool HasLogitEdits(const Position& position) {
  return !position.params->logit_bias.empty() || HasPenalties(position) || !position.masked.empty();
}

absl::Status ApplyLogitEdits(const Position& position, std::span<float> row) {
  for (const auto& [id, bias] : position.params->logit_bias) {
    RETURN_IF_ERROR(CheckId("logit_bias", id, row.size()));
    row[static_cast<size_t>(id)] += bias;
  }
  if (HasPenalties(position)) RETURN_IF_ERROR(ApplyPenalties(*position.params, *position.history, row));
  for (const int32_t id : position.masked) {
    RETURN_IF_ERROR(CheckId("masked", id, row.size()));
    row[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
  }
  return absl::OkStatus();
}

}  // namespace tandem::sampling
