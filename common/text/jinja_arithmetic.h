// Operators + - * / // % and signs, as Python has them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/text/jinja_budget.h"
#include "common/text/jinja_value.h"

namespace tandem::text::jinja {

// `op_name` is one of the operators above; texts and lists are joined by + and repeated by *.
// kInvalidArgument for values that the operator does not take, for division by zero, and for integers beyond
// 64 bits.
absl::StatusOr<Value> Arithmetic(const std::string& op_name, const Value& left, const Value& right, int line,
                                 Budget& budget);
absl::StatusOr<Value> Sign(bool negate, Value value, int line);

}  // namespace tandem::text::jinja
