#include "common/text/detokenizer.h"

#include <string_view>

#include "common/text/utf8.h"

namespace tandem::text {

std::string Detokenizer::Push(int32_t id) {
  if (id < 0 || id >= tokenizer_.vocab_size()) return "";
  if (skip_special_ && tokenizer_.IsSpecial(id)) return "";
  pending_ += tokenizer_.TokenBytes(id);
  std::string released;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Step::kIncomplete) break;
    released += step.kind == Utf8Step::kValid ? rest.substr(0, step.length) : kReplacementCharacter;
    rest.remove_prefix(step.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return released;
}

std::string Detokenizer::Finish() {
  // At most three bytes wait, all of one character.
  const std::string rest(pending_.empty() ? std::string_view() : kReplacementCharacter);
  pending_.clear();
  return rest;
}

}  // namespace tandem::text
