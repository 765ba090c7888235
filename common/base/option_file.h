// The configuration file of a process: the flat part of TOML, `name = value`, one per line.
//
//   # comment
//   model = "smollm2-135m"
//   kv-bytes = "512MiB"          # names are those of the flags; _ and - are the same
//   threads = 2
//   chat-kwargs = ["enable_thinking"]
//
// Values are strings ("..." with \b \t \n \f \r \" \\ \uXXXX, or '...' as they stand), integers, floats,
// booleans and arrays of these, which may span lines. Tables, dates and multi-line strings are refused.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem {

struct OptionFileEntry {
  std::string name;  // with '-' for '_'
  int line = 0;
  bool is_array = false;
  std::vector<std::string> values;  // one, or the array's
};

// kInvalidArgument "line N: what is wrong"; a name that comes twice is refused.
absl::StatusOr<std::vector<OptionFileEntry>> ParseOptionFile(std::string_view text);

}  // namespace tandem
