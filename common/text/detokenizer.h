// Token ids to text while they arrive, never showing half a character.
#pragma once

#include <cstdint>
#include <string>

#include "common/text/tokenizer.h"

namespace tandem::text {

// Concatenates the tokens' bytes and releases the longest prefix that is whole UTF-8. Bytes that can never
// become valid become U+FFFD, one per maximal ill-formed part (the Unicode recommendation). Nothing released
// is ever taken back. Ids outside the vocabulary stand for nothing.
class Detokenizer {
 public:
  // Borrows the tokenizer. With `skip_special`, special tokens print nothing.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that this token completes; often the token's own, sometimes nothing.
  std::string Push(int32_t id);
  // What remains at the end: an incomplete character prints one U+FFFD.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace tandem::text
