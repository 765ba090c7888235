// What a tokenizer does to text before words are cut.
#pragma once

#include <string>
#include <string_view>

namespace tandem::text {

enum class NormalizerKind {
  kNone,
  kNfc,        // Qwen: Unicode's form C
  kSpaceMarks  // SentencePiece: a space becomes U+2581
};

inline constexpr char32_t kSpaceMark = 0x2581;
inline constexpr std::string_view kSpaceMarkUtf8 = "\xE2\x96\x81";

// As tokenizer.json names it.
std::string_view NormalizerName(NormalizerKind kind);

// `text` itself if nothing changes, else what it becomes, held in `storage`. Requires UTF-8.
std::string_view Normalize(NormalizerKind kind, std::string_view text, std::string* storage);

// Every U+2581 back to a space.
std::string SpacesFromMarks(std::string_view text);

}  // namespace tandem::text
