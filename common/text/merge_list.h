// The merges of a tokenizer's description, by id.
#pragma once

#include "absl/status/statusor.h"
#include "common/text/byte_pairs.h"
#include "common/text/tokenizer_model.h"
#include "common/text/vocabulary.h"

namespace tandem::text {

// From the list of merges, or from scores if there are any. kInvalidArgument names the merge that is of
// unknown tokens, comes twice, or has a token that merging must not make or use (special ones: otherwise what
// a user types could become a control token; byte tokens), or the score that is none.
absl::StatusOr<BytePairMerges> BuildMerges(const TokenizerModel& model, const Vocabulary& vocabulary);

}  // namespace tandem::text
