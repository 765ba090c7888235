// What one rendering may use. Everything that takes time or memory in proportion to its operands asks here
// first.
#pragma once

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/text/chat_template.h"
#include "common/text/jinja_text.h"

namespace tandem::text::jinja {

class Budget {
 public:
  // Borrows the clock.
  Budget(const TemplateLimits& limits, const Clock& clock);

  // `count` statements, expressions or elements. kResourceExhausted beyond the limits on steps and time.
  absl::Status Steps(int64_t count);
  // Copying or scanning `bytes`; 256 of them count as one step, so total memory is bounded by the steps.
  absl::Status Bytes(size_t bytes) { return Steps(1 + static_cast<int64_t>(bytes / 256)); }
  // A string of this size is about to exist.
  absl::Status StringSize(size_t bytes) const;

 private:
  const TemplateLimits limits_;
  const Clock& clock_;
  const absl::Duration deadline_;
  int64_t steps_ = 0;
  int64_t next_clock_check_ = 0;
};

// Joins text within a budget.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(&budget) {}
  absl::Status Append(std::string_view bytes, bool trusted);
  absl::Status Append(const Text& text) { return AppendPart(text, 0, text.size()); }
  absl::Status AppendPart(const Text& text, size_t begin, size_t end);
  Text Take() { return std::move(text_); }

 private:
  absl::Status Reserve(size_t bytes);
  Budget* budget_;
  Text text_;
};

}  // namespace tandem::text::jinja
