// The README's list of what is not built yet, as tests read it: a golden case that needs something on that list is
// printed and left out; any other skip is a failure.
#pragma once

#include <string>

#include "tests/support/golden.h"

namespace tandem::testing {

// Whether the README's section "Not built yet" names `thing` in backquotes.
inline bool IsNotYet(const std::string& thing) {
  const std::string readme = ReadFile(std::filesystem::path(TANDEM_SOURCE_DIR) / "README.md");
  const size_t begin = readme.find("## Not built yet");
  if (begin == std::string::npos) return false;
  const size_t end = readme.find("\n## ", begin + 1);
  return readme.substr(begin, end == std::string::npos ? end : end - begin).find("`" + thing + "`") != std::string::npos;
}

}  // namespace tandem::testing
