// run.proto's messages to the engine's plain values and back; here every number of a gateway is checked
// before anything uses it as an index, a size or a bound.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tandem/v1/run.pb.h"
#include "verifier/engine/messages.h"

namespace tandem::verifier {

// Limits of one plan and of an admission's text fields.
inline constexpr int kMaxAdmissions = 1024;
inline constexpr int kMaxCancellations = 65536;
inline constexpr int kMaxAcknowledgements = 65536;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxPriority = 4;
inline constexpr double kMaxTpotTargetMs = 60000;
inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr size_t kMaxTraceparentBytes = 55;
inline constexpr size_t kMaxTracestateBytes = 512;
inline constexpr size_t kMaxCacheOwnerBytes = 256;

struct PlanBounds {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
};

struct CheckedPlan {
  Plan plan;
  // Admissions left out of it, each ended kFailed with an error that names field, limit and value.
  std::vector<SequenceReport> refused;
};

// kInvalidArgument for what makes the whole plan malformed: too many entries, an id admitted twice, epochs of
// 0.
absl::StatusOr<CheckedPlan> CheckPlan(const v1::Plan& message, const PlanBounds& bounds);

void FillReport(const Report& report, uint64_t number, v1::Report& out);

}  // namespace tandem::verifier
