#include "verifier/warm_up.h"

#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/base/status.h"

namespace tandem::verifier {

absl::Status WarmUp(StepLoop& loop, absl::Duration patience) {
  absl::Mutex mu;
  std::optional<SequenceReport> last;
  const StreamId stream = loop.OpenStream([&](Report report) {
    absl::MutexLock lock(&mu);
    for (SequenceReport& sequence : report.sequences) {
      if (sequence.end != SequenceEnd::kRunning) last = std::move(sequence);
    }
  });
  Plan plan;
  plan.number = 1;
  Admission admission;
  admission.id = 1;
  admission.tokens = {0};
  admission.prompt_length = 1;
  admission.max_tokens = 2;
  plan.admissions.push_back(std::move(admission));
  loop.PostPlan(stream, std::move(plan));
  {
    absl::MutexLock lock(&mu);
    const auto ended = [&] { return last.has_value(); };
    mu.AwaitWithTimeout(absl::Condition(&ended), patience);
  }
  loop.CloseStream(stream);  // from here on the sink is not called
  if (!last)
    return absl::DeadlineExceededError(fmt::format("no step within {}", absl::FormatDuration(patience)));
  if (last->end == SequenceEnd::kLength) return absl::OkStatus();
  if (last->end == SequenceEnd::kFailed) return Annotate(last->error, "warm-up step");
  return Internal("the warm-up sequence ended in an unexpected way ({})", static_cast<int>(last->end));
}

}  // namespace tandem::verifier
