// A byte-pair tokenizer as files describe it, and the tokenizer built from that description.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/normalizer.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer.h"

namespace tandem::text {

// Limits on files. The largest vocabularies in use have 262,145 tokens and 514,906 merges.
inline constexpr int64_t kMaxTokens = 1 << 20;
inline constexpr int64_t kMaxMerges = 1 << 22;
inline constexpr int64_t kMaxTokenBytes = 4096;       // a vocabulary's longest run of dashes has some 256
inline constexpr int64_t kMaxAddedTokenBytes = 512;   // bounds the work per byte of looking for added tokens
inline constexpr int64_t kMaxScoredTokenBytes = 512;  // bounds the ways to cut tokens in two; Gemma's have 93

enum class TokenizerKind {
  kByteLevel,     // GPT-2, SmolLM2, Qwen, Llama 3: bytes written in an alphabet, words cut by a pattern
  kSentencePiece  // Gemma: characters, U+2581 for a space, bytes for what has no token, no words
};

enum class TokenKind {
  kNone,    // an id that stands for nothing
  kNormal,  // made by merging; in byte-level vocabularies its text is written in their alphabet
  kByte,   // SentencePiece: one byte of a character that has no token, written <0x00> to <0xFF>; never merged
  kAdded,  // recognised as a whole in any text, before words are cut
  kSpecial  // recognised as a whole in trusted text only, and never made by merging
};

struct TokenEntry {
  TokenKind kind = TokenKind::kNone;
  std::string text;
  // Looked for after all other added tokens, in what they left over once it is normalised (`normalized` in
  // tokenizer.json).
  bool second_pass = false;
};

struct TokenizerModel {
  TokenizerKind kind = TokenizerKind::kByteLevel;
  NormalizerKind normalizer = NormalizerKind::kNone;
  std::vector<TokenEntry> tokens;  // by id
  // In order of rank. Without them `scores` by id give the order: any two tokens that together are a third
  // merge, the highest score of that third first.
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<double> scores;
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::kGpt2;  // of byte-level ones
  bool ignore_merges = false;                                // a word that is a token is taken as it is
  std::vector<int32_t> prompt_prefix;
};

// Takes a merge written "left right" apart; `index` is for the error.
absl::StatusOr<std::pair<std::string, std::string>> SplitMerge(std::string_view written, size_t index);

// kInvalidArgument names what does not fit: texts that are no UTF-8 or come twice, merges of unknown tokens,
// ids out of range, a special token that plain text could produce.
absl::StatusOr<std::unique_ptr<Tokenizer>> BuildTokenizer(TokenizerModel model);

}  // namespace tandem::text
