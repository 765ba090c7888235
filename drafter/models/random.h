// Proposes uniform tokens: the worst honest drafter, for tests (text must not change) and as a lower bound in
// comparisons. The same sequence, epoch and round draws the same tokens.
#pragma once

#include <cstdint>
#include <memory>

#include "drafter/models/token_drafter.h"

namespace tandem::drafter {

struct RandomOptions {
  int32_t vocab_size = 0;  // of the target, >= 1
  int32_t block_size = 7;
  uint64_t seed = 0;
};

std::unique_ptr<DraftModel> NewRandomDrafter(const RandomOptions& options);

}  // namespace tandem::drafter
