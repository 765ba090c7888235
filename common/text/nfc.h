// Unicode's normalisation form C: composed characters, marks in canonical order.
#pragma once

#include <string>
#include <string_view>

namespace tandem::text {

// Whether `text` needs no look at its characters to be known as normalised: none is at or above U+0300, the
// first that normalisation can change or join with another.
bool IsPlainlyNfc(std::string_view text);

// Requires UTF-8. Time and memory grow with the text's length, but for the order of n marks in a row, which
// takes n log n.
std::string ToNfc(std::string_view text);

}  // namespace tandem::text
