// Cuts text into words before byte pairs are merged: a merge never crosses a word's border.
//
// Pre-tokenizers are known ones only, each with a pattern of ours; a pattern from a file is recognised by
// equality and never compiled. Thread-safe after creation.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::text {

enum class PreTokenizerKind {
  kGpt2,    // GPT-2's pattern
  kSmolLm,  // every number character alone, then GPT-2's pattern on what lies between
  kQwen2,   // case-insensitive contractions, one number character at a time, newlines after punctuation
  kLlama3,  // as kQwen2 with up to three number characters together
};

// As in `tokenizer.ggml.pre` of GGUF files.
std::string_view PreTokenizerName(PreTokenizerKind kind);
// By that name. kUnimplemented names what is unknown.
absl::StatusOr<PreTokenizerKind> FindPreTokenizer(std::string_view name);
// By a Split pattern exactly as tokenizer.json files write it. kUnimplemented quotes what is unknown.
absl::StatusOr<PreTokenizerKind> FindPreTokenizerByRegex(std::string_view regex);

class PreTokenizer {
 public:
  static absl::StatusOr<PreTokenizer> Create(PreTokenizerKind kind);
  PreTokenizer(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Appends the words of `text`; joined they are `text`. Requires UTF-8. kResourceExhausted if matching
  // passes the limits on steps, depth or memory.
  absl::Status Split(std::string_view text, std::vector<std::string_view>* words) const;

 private:
  struct Pattern;
  explicit PreTokenizer(std::unique_ptr<Pattern> pattern);
  std::unique_ptr<Pattern> pattern_;
};

}  // namespace tandem::text
