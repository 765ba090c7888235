#include "common/formats/quoted.h"

#include <fmt/format.h>

#include "absl/strings/escaping.h"

namespace tandem::formats {

std::string Quoted(std::string_view name) {
  constexpr size_t kShown = 80;
  const std::string_view head = name.substr(0, kShown);
  const std::string text = absl::CHexEscape(absl::string_view(head.data(), head.size()));
  if (name.size() <= kShown) return "`" + text + "`";
  return fmt::format("`{}...` ({} bytes)", text, name.size());
}

}  // namespace tandem::formats
