// Runs a parsed template.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "common/text/jinja_ast.h"
#include "common/text/jinja_budget.h"

namespace tandem::text::jinja {

// The text that `body` prints with these variables. Errors of the template and of its inputs are
// kInvalidArgument, what passes the budget kResourceExhausted, what we cannot do kUnimplemented with the
// line.
absl::StatusOr<Text> Render(const Body& body, std::map<std::string, Value> variables, Budget& budget);

}  // namespace tandem::text::jinja
