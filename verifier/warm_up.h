// The first step of a verifier, taken before it says that it is ready.
#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "verifier/engine/step_loop.h"

namespace tandem::verifier {

// Runs a sequence of one token for two more through the loop, as a gateway would: touches every weight once
// and proves that the whole path works. kInternal if the sequence does not end as it should,
// kDeadlineExceeded after `patience`.
absl::Status WarmUp(StepLoop& loop, absl::Duration patience);

}  // namespace tandem::verifier
