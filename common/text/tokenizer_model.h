// A byte-level BPE tokenizer as files describe it, and the tokenizer built from that description.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer.h"

namespace tandem::text {

// Limits on files. The largest vocabularies in use have 262,145 tokens and 514,906 merges.
inline constexpr int64_t kMaxTokens = 1 << 20;
inline constexpr int64_t kMaxMerges = 1 << 22;
inline constexpr int64_t kMaxTokenBytes = 4096;      // a vocabulary's longest run of dashes has some 256
inline constexpr int64_t kMaxAddedTokenBytes = 512;  // bounds the work per byte of looking for added tokens

enum class TokenKind {
  kNone,    // an id that stands for nothing
  kNormal,  // made by merging; its text is written in the byte-level alphabet
  kAdded,   // recognised as a whole in any text, before words are cut
  kSpecial  // recognised as a whole in trusted text only, and never made by merging
};

struct TokenEntry {
  TokenKind kind = TokenKind::kNone;
  std::string text;
  // Looked for after all other added tokens, in what they left over (`normalized` in tokenizer.json).
  bool second_pass = false;
};

struct TokenizerModel {
  std::vector<TokenEntry> tokens;  // by id
  std::vector<std::pair<std::string, std::string>> merges;
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::kGpt2;
  bool ignore_merges = false;  // a word that is a token is taken as it is
  std::vector<int32_t> prompt_prefix;
};

// Takes a merge written "left right" apart; `index` is for the error.
absl::StatusOr<std::pair<std::string, std::string>> SplitMerge(std::string_view written, size_t index);

// kInvalidArgument names what does not fit: texts that are no UTF-8 or come twice, merges of unknown tokens,
// ids out of range, a special token that plain text could produce.
absl::StatusOr<std::unique_ptr<Tokenizer>> BuildTokenizer(TokenizerModel model);

}  // namespace tandem::text
