#include "common/text/jinja_budget.h"

#include "common/base/status.h"

namespace tandem::text::jinja {
namespace {

constexpr int64_t kStepsBetweenClockReads = 64;

}  // namespace

Budget::Budget(const TemplateLimits& limits, const Clock& clock)
    : limits_(limits), clock_(clock), deadline_(clock.Now() + absl::Milliseconds(limits.max_milliseconds)) {}

absl::Status Budget::Steps(int64_t count) {
  steps_ += count;
  if (steps_ > limits_.max_steps)
    return ResourceExhausted("chat template takes more than {} steps", limits_.max_steps);
  if (steps_ < next_clock_check_) return absl::OkStatus();
  next_clock_check_ = steps_ + kStepsBetweenClockReads;
  if (clock_.Now() > deadline_) {
    return ResourceExhausted("chat template takes more than {} milliseconds", limits_.max_milliseconds);
  }
  return absl::OkStatus();
}

absl::Status Budget::StringSize(size_t bytes) const {
  if (bytes > static_cast<size_t>(limits_.max_output_bytes)) {
    return ResourceExhausted("chat template makes a string of more than {} bytes", limits_.max_output_bytes);
  }
  return absl::OkStatus();
}

// Counts what is appended, not the appends: many small pieces cost their callers a step each.
absl::Status TextBuilder::Reserve(size_t bytes) {
  RETURN_IF_ERROR(budget_->StringSize(text_.size() + bytes));
  return bytes < 256 ? absl::OkStatus() : budget_->Bytes(bytes);
}

absl::Status TextBuilder::Append(std::string_view bytes, bool trusted) {
  RETURN_IF_ERROR(Reserve(bytes.size()));
  text_.Append(bytes, trusted);
  return absl::OkStatus();
}

absl::Status TextBuilder::AppendPart(const Text& text, size_t begin, size_t end) {
  RETURN_IF_ERROR(Reserve(end - begin));
  text_.AppendPart(text, begin, end);
  return absl::OkStatus();
}

}  // namespace tandem::text::jinja
