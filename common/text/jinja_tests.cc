// Tests: what may stand after `is`.
#include <algorithm>

#include "common/base/status.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_print.h"
#include "common/text/jinja_strings.h"

namespace tandem::text::jinja {
namespace {

constexpr std::string_view kTests[] = {
    "defined", "undefined", "none",        "string",  "mapping", "iterable", "sequence",
    "number",  "integer",   "float",       "boolean", "true",    "false",    "callable",
    "even",    "odd",       "divisibleby", "eq",      "equalto", "sameas",   "ne",
    "lt",      "le",        "gt",          "ge",      "in",      "lower",    "upper"};

bool IsCallable(const Value& value) {
  // In Jinja an undefined value can be called, and then fails.
  return value.IsUndefined() || value.Is<const MacroNode*>() || value.Is<std::shared_ptr<const Method>>();
}

// Tests that look at the value alone.
std::optional<bool> TestKind(const std::string& name, const Value& value) {
  if (name == "defined") return !value.IsUndefined();
  if (name == "undefined") return value.IsUndefined();
  if (name == "none") return value.IsNone();
  if (name == "string") return value.text() != nullptr;
  if (name == "mapping") return value.dict() != nullptr;
  if (name == "sequence" || name == "iterable") {
    return value.text() != nullptr || value.list() != nullptr || value.dict() != nullptr ||
           value.IsUndefined();
  }
  if (name == "number") return value.number().has_value();
  if (name == "integer") return value.Is<int64_t>() || value.Is<uint64_t>();
  if (name == "float") return value.Is<double>();
  if (name == "boolean") return value.Is<bool>();
  if (name == "true") return value.Is<bool>() && std::get<bool>(value.data);
  if (name == "false") return value.Is<bool>() && !std::get<bool>(value.data);
  if (name == "callable") return IsCallable(value);
  return std::nullopt;
}

}  // namespace

bool IsTest(std::string_view name) {
  return std::find(std::begin(kTests), std::end(kTests), name) != std::end(kTests);
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& value, const Arguments& arguments,
                               Budget& budget) {
  RETURN_IF_ERROR(budget.Steps(1));
  if (const std::optional<bool> result = TestKind(name, value)) {
    RETURN_IF_ERROR(arguments.Check({}));
    return *result;
  }
  if (name == "lower" || name == "upper") {
    RETURN_IF_ERROR(arguments.Check({}));
    ASSIGN_OR_RETURN(const Text text, Print(value, budget));
    ASSIGN_OR_RETURN(const Text lower, ChangeCase(text, Case::kLower));
    ASSIGN_OR_RETURN(const Text upper, ChangeCase(text, Case::kUpper));
    // As Python has it: there is a letter, and all letters are of that case.
    return lower.bytes() != upper.bytes() && text.bytes() == (name == "lower" ? lower : upper).bytes();
  }
  if (name == "even" || name == "odd" || name == "divisibleby") {
    RETURN_IF_ERROR(RequireDefined(value));
    RETURN_IF_ERROR(name == "divisibleby" ? arguments.Check({"num"}, 1) : arguments.Check({}));
    const std::optional<int64_t> number = value.integer();
    ASSIGN_OR_RETURN(const int64_t divisor, arguments.Integer(0, "num", 2));
    if (!number.has_value()) return InvalidArgument("test '{}' on a {}", name, TypeName(value));
    if (divisor == 0) return InvalidArgument("integer modulo by zero");
    const bool divides = divisor == -1 || *number % divisor == 0;  // INT64_MIN % -1 overflows
    return divides != (name == "odd");
  }
  RETURN_IF_ERROR(arguments.Check({"other"}, 1));
  const Value& other = *arguments.Get(0, "other");
  if (name == "in") {
    ASSIGN_OR_RETURN(const Value found, Contains(other, value, budget));
    return IsTrue(found);
  }
  if (name == "sameas") {
    if (value.data.index() != other.data.index()) return false;
    return Equal(value, other, budget);
  }
  if (name == "eq" || name == "equalto") return Equal(value, other, budget);
  if (name == "ne") {
    ASSIGN_OR_RETURN(const bool same, Equal(value, other, budget));
    return !same;
  }
  ASSIGN_OR_RETURN(const int order, Compare(value, other, budget));
  if (name == "lt") return order < 0;
  if (name == "le") return order <= 0;
  if (name == "gt") return order > 0;
  TANDEM_CHECK(name == "ge");
  return order >= 0;
}

}  // namespace tandem::text::jinja
