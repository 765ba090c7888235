// Template source to syntax tree.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/text/jinja_ast.h"

namespace tandem::text::jinja {

// kInvalidArgument for bad syntax and too much nesting, kUnimplemented for statements, operators, filters,
// tests and methods that the evaluator does not know; both name the line.
absl::StatusOr<Body> Parse(const std::string& source);

}  // namespace tandem::text::jinja
