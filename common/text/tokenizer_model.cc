#include "common/text/tokenizer_model.h"

#include "common/base/status.h"

namespace tandem::text {

absl::StatusOr<std::pair<std::string, std::string>> SplitMerge(std::string_view written, size_t index) {
  const size_t space = written.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == written.size() ||
      written.find(' ', space + 1) != std::string_view::npos) {
    return InvalidArgument("merge {} is not two tokens with one space between", index);
  }
  return std::make_pair(std::string(written.substr(0, space)), std::string(written.substr(space + 1)));
}

}  // namespace tandem::text
