// Cuts a Jinja template into tokens, with trim_blocks and lstrip_blocks on.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::text::jinja {

struct Token {
  enum Kind {
    kText,        // template data to print, never empty
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kName,
    kString,  // `text` with escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd  // of the template
  };
  Kind kind = kEnd;
  std::string text;
  int line = 1;
};

// The last token is kEnd. Comments are gone, raw blocks are text. kInvalidArgument names the line.
absl::StatusOr<std::vector<Token>> Tokenize(const std::string& source);

}  // namespace tandem::text::jinja
