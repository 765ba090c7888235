// One choice's output tokens as text: whole characters, held back while a stop text may still swallow them.
//
//   for (token : new_tokens) if (stream.Push(token, text)) { ... the choice has ended with this token ... }
//   at EOS, a stop token (not pushed: it has no text) or the length limit: stream.Finish(text)
//
// Not thread-safe. Borrows the tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/text/detokenizer.h"
#include "gateway/admission/stop_matcher.h"

namespace tandem::gateway {

class TextStream {
 public:
  // Text of the first `min_tokens` tokens is not searched for stop texts.
  TextStream(const text::Tokenizer& tokenizer, std::vector<std::string> stops, int32_t min_tokens)
      : detokenizer_(tokenizer, /*skip_special=*/true), matcher_(std::move(stops)), unsearched_(min_tokens) {}

  // Appends to `text` what this token lets out. True: the token completed a stop text; `text` ends before it.
  bool Push(int32_t id, std::string& text) {
    const std::string piece = detokenizer_.Push(id);
    if (unsearched_ > 0) {
      --unsearched_;
      text += piece;
      return false;
    }
    return matcher_.Push(piece, text);
  }

  // The last token has been pushed: appends the rest. True: the rest (U+FFFD for half a character) completed
  // a stop text.
  bool Finish(std::string& text) {
    if (matcher_.Push(detokenizer_.Finish(), text)) return true;
    matcher_.Flush(text);
    return false;
  }

 private:
  text::Detokenizer detokenizer_;
  StopMatcher matcher_;
  int32_t unsearched_;
};

}  // namespace tandem::gateway
