// Names out of untrusted files, fit for a message: in backquotes, escaped, shortened.
#pragma once

#include <string>
#include <string_view>

namespace tandem::formats {

// `name`; anything unprintable becomes \xHH, and what exceeds 80 bytes is replaced by "..." and the length.
std::string Quoted(std::string_view name);

}  // namespace tandem::formats
