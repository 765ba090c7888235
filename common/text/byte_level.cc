#include "common/text/byte_level.h"

#include "common/text/utf8.h"

namespace tandem::text {
namespace {

constexpr int kNumMovedBytes = 68;

bool IsPrintable(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

// Both directions; `byte_of` is indexed by code point, -1 outside the alphabet.
struct Alphabet {
  std::array<std::string, 256> written;
  std::array<int16_t, 256 + kNumMovedBytes> byte_of;

  Alphabet() {
    byte_of.fill(-1);
    int num_moved = 0;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t code_point = IsPrintable(byte) ? byte : 256 + num_moved++;
      AppendUtf8(code_point, &written[byte]);
      byte_of[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

const std::array<std::string, 256>& ByteLevelAlphabet() { return GetAlphabet().written; }

std::optional<std::string> DecodeByteLevel(std::string_view written) {
  const Alphabet& alphabet = GetAlphabet();
  std::string bytes;
  while (!written.empty()) {
    const Utf8Step step = NextUtf8(written);
    if (step.kind != Utf8Step::kValid || step.code_point >= alphabet.byte_of.size()) return std::nullopt;
    const int16_t byte = alphabet.byte_of[step.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    written.remove_prefix(step.length);
  }
  return bytes;
}

}  // namespace tandem::text
