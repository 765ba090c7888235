// The byte-level alphabet of GPT-2 vocabularies: each byte written as one printable character.
//
// Bytes that are printable in Latin-1 (33-126, 161-172, 174-255) stand for themselves; the other 68 are
// written, in rising order, as U+0100, U+0101, ... (so a space is U+0120).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::text {

// The character that writes each byte, as UTF-8.
const std::array<std::string, 256>& ByteLevelAlphabet();

// The bytes that `written` stands for, or nothing if it holds a character outside the alphabet.
std::optional<std::string> DecodeByteLevel(std::string_view written);

}  // namespace tandem::text
