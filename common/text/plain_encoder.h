// Ids of text in which no added token is left: the part of a tokenizer that differs from family to family.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer_model.h"
#include "common/text/vocabulary.h"

namespace tandem::text {

// Thread-safe after creation.
class PlainEncoder {
 public:
  virtual ~PlainEncoder() = default;
  // Appends the ids of `text`, which is UTF-8 and normalised.
  virtual absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const = 0;
};

// GPT-2's way: words by pattern, each byte a symbol, a byte without a token is lost. kInvalidArgument names
// the merge or token that does not fit; kUnimplemented is the pre-tokenizer's.
absl::StatusOr<std::unique_ptr<PlainEncoder>> CreateByteLevelEncoder(const TokenizerModel& model,
                                                                     const Vocabulary& vocabulary);

// SentencePiece's way: no words, each character a symbol, one without a token becomes its bytes' tokens.
// Errors as above.
absl::StatusOr<std::unique_ptr<PlainEncoder>> CreateSentencePieceEncoder(const TokenizerModel& model,
                                                                         const Vocabulary& vocabulary);

}  // namespace tandem::text
