// What must hold of a tokenizer whatever file it came from.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/text/detokenizer.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

namespace tandem::fuzz {

inline void CheckIds(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) TANDEM_CHECK(id >= 0 && id < tokenizer.vocab_size());
}

inline void UseTokenizer(const text::Tokenizer& tokenizer, std::string_view words) {
  TANDEM_CHECK(!tokenizer.hash().empty());
  CheckIds(tokenizer, {tokenizer.prompt_prefix().begin(), tokenizer.prompt_prefix().end()});

  const bool is_utf8 = text::FindIllFormedUtf8(words) == std::string_view::npos;
  const auto typed = tokenizer.Encode(words, /*special_tokens=*/false);
  TANDEM_CHECK(is_utf8 || absl::IsInvalidArgument(typed.status()));
  std::string decoded;
  text::Detokenizer detokenizer(tokenizer, /*skip_special=*/false);
  if (typed.ok()) {
    CheckIds(tokenizer, *typed);
    for (const int32_t id : *typed) {
      TANDEM_CHECK(!tokenizer.IsSpecial(id));  // a user cannot type a control token
      decoded += detokenizer.Push(id);
    }
  }
  const size_t half = words.size() / 2;
  const std::vector<text::Span> spans = {{std::string(words.substr(0, half)), true},
                                         {std::string(words.substr(half)), false},
                                         {std::string(words.substr(0, half)), true}};
  if (const auto mixed = tokenizer.Encode(spans); mixed.ok()) CheckIds(tokenizer, *mixed);

  for (int32_t id = 0; id < std::min(tokenizer.vocab_size(), 512); ++id) decoded += detokenizer.Push(id);
  decoded += detokenizer.Push(-1) + detokenizer.Push(tokenizer.vocab_size()) + detokenizer.Finish();
  TANDEM_CHECK(text::FindIllFormedUtf8(decoded) == std::string::npos);
}

}  // namespace tandem::fuzz
