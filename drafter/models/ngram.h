// Prompt lookup: what followed the last time the text's latest tokens occurred. Good where output repeats its
// input (summaries, edits, code), worthless elsewhere; costs next to nothing. Fits every target.
#pragma once

#include <cstdint>
#include <memory>

#include "drafter/models/token_drafter.h"

namespace tandem::drafter {

struct NgramOptions {
  int32_t block_size = 7;  // 1..speculation::kMaxBlockSize
};

// No confidence: how long the match was says too little about whether it goes on.
std::unique_ptr<DraftModel> NewNgramDrafter(const NgramOptions& options);

// Tokens that match at most, longest first.
inline constexpr int32_t kMaxNgram = 4;

// Where in `text` the longest earlier match of its end (1..kMaxNgram tokens) is continued, the latest of
// equally long ones; 0 if even the last token has not occurred before. One pass, O(size * kMaxNgram).
int32_t FindContinuation(std::span<const int32_t> text);

}  // namespace tandem::drafter
