// UTF-8, read and written one character at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::text {

// What stands at the front of some bytes.
struct Utf8Step {
  enum Kind {
    kValid,      // one character of `length` bytes
    kIllFormed,  // `length` bytes that are no character: a maximal subpart in the sense of the Unicode
                 // standard (section 3.9, "U+FFFD substitution of maximal subparts"), so each is replaced by
                 // one U+FFFD
    kIncomplete  // all bytes there are begin a character and more are needed
  };
  Kind kind = kIllFormed;
  int length = 0;
  char32_t code_point = 0;  // of kValid
};

// Requires !bytes.empty(). Surrogates, overlong forms and values above U+10FFFF are ill-formed.
Utf8Step NextUtf8(std::string_view bytes);

// Offset of the first byte that is not part of well-formed UTF-8; npos if all is well.
size_t FindIllFormedUtf8(std::string_view bytes);

// Requires a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace tandem::text
