// The README's list of what is not built yet, as tests read it: a golden case that needs something on that
// list is printed and left out; any other skip is a failure.
#pragma once

#include <string>

#include "tests/support/golden.h"

namespace tandem::testing {

// Whether the README's section "Not built yet" names `thing` in backquotes on the line of this `kind` ("Model
// families", "Tensor types", "Tokenizers"): qwen3 may be missing as a tokenizer and work as a family.
inline bool IsNotYet(const std::string& thing, const std::string& kind) {
  const std::string readme = ReadFile(std::filesystem::path(TANDEM_SOURCE_DIR) / "README.md");
  const size_t begin = readme.find("## Not built yet");
  if (begin == std::string::npos) return false;
  std::string list = readme.substr(begin, readme.find("\n## ", begin + 1) - begin);
  const size_t line = list.find("\n- " + kind + " ");
  if (line == std::string::npos) return false;
  list = list.substr(line, list.find("\n- ", line + 1) - line);
  return list.find("`" + thing + "`") != std::string::npos;
}

}  // namespace tandem::testing
