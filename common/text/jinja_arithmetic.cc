#include "common/text/jinja_arithmetic.h"

#include <cmath>
#include <limits>
#include <optional>

#include "common/base/status.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_strings.h"

namespace tandem::text::jinja {
namespace {

absl::Status Overflow(int line) { return InvalidArgument("line {}: integer does not fit 64 bits", line); }

absl::StatusOr<Value> RepeatText(const Text& text, int64_t times, Budget& budget) {
  ASSIGN_OR_RETURN(Text repeated, Repeat(text, times, budget));
  return Value::Of(std::move(repeated));
}

absl::StatusOr<Value> RepeatList(const Value& value, int64_t times, Budget& budget) {
  List repeated;
  for (int64_t i = 0; i < times && !value.list()->empty(); ++i) {
    RETURN_IF_ERROR(budget.Bytes(value.list()->size() * sizeof(Value)));
    repeated.insert(repeated.end(), value.list()->begin(), value.list()->end());
  }
  return Value::Of(std::move(repeated), value.tuple);
}

absl::StatusOr<Value> Concatenate(const Value& left, const Value& right, Budget& budget) {
  if (left.text() != nullptr) {
    if (right.text() == nullptr) {
      return InvalidArgument("can only concatenate str (not \"{}\") to str", TypeName(right));
    }
    TextBuilder joined(budget);
    RETURN_IF_ERROR(joined.Append(*left.text()));
    RETURN_IF_ERROR(joined.Append(*right.text()));
    return Value::Of(joined.Take());
  }
  if (right.list() == nullptr || left.tuple != right.tuple) {
    return InvalidArgument("can only concatenate {0} (not \"{1}\") to {0}", TypeName(left), TypeName(right));
  }
  RETURN_IF_ERROR(budget.Bytes((left.list()->size() + right.list()->size()) * sizeof(Value)));
  List joined = *left.list();
  joined.insert(joined.end(), right.list()->begin(), right.list()->end());
  return Value::Of(std::move(joined), left.tuple);
}

// `/` means the floor division here.
absl::StatusOr<Value> IntegerArithmetic(char op, int64_t a, int64_t b, int line) {
  int64_t result = 0;
  bool overflow = false;
  if (op == '+') {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == '-') {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == '*') {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (b == 0) {
    return InvalidArgument("line {}: integer division or modulo by zero", line);
  } else if (b == -1) {
    overflow = op == '/' && a == std::numeric_limits<int64_t>::min();
    result = op == '/' && !overflow ? -a : 0;
  } else {
    // Python rounds towards minus infinity, so the remainder has the divisor's sign.
    const bool adjust = a % b != 0 && (a % b < 0) != (b < 0);
    result = op == '/' ? a / b - adjust : a % b + (adjust ? b : 0);
  }
  if (overflow) return Overflow(line);
  return Value::Of(result);
}

absl::StatusOr<Value> FloatArithmetic(char op, bool floor_division, const Value& left, const Value& right,
                                      int line) {
  const std::optional<double> a = left.number(), b = right.number();
  if (!a || !b) {
    return InvalidArgument("unsupported operand type(s) for {}: '{}' and '{}'", op, TypeName(left),
                           TypeName(right));
  }
  if ((op == '/' || op == '%') && *b == 0) return InvalidArgument("line {}: division by zero", line);
  switch (op) {
    case '+':
      return Value::Of(*a + *b);
    case '-':
      return Value::Of(*a - *b);
    case '*':
      return Value::Of(*a * *b);
    case '/':
      return Value::Of(floor_division ? std::floor(*a / *b) : *a / *b);
    default: {
      const double rest = std::fmod(*a, *b);
      return Value::Of(rest != 0 && (rest < 0) != (*b < 0) ? rest + *b : rest);
    }
  }
}

}  // namespace

absl::StatusOr<Value> Arithmetic(const std::string& op_name, const Value& left, const Value& right, int line,
                                 Budget& budget) {
  const char op = op_name[0];
  const bool floor_division = op_name == "//";
  RETURN_IF_ERROR(RequireDefined(left));
  RETURN_IF_ERROR(RequireDefined(right));
  if (op == '+' && (left.text() != nullptr || left.list() != nullptr))
    return Concatenate(left, right, budget);
  if (op == '*' && left.text() != nullptr && right.integer())
    return RepeatText(*left.text(), *right.integer(), budget);
  if (op == '*' && right.text() != nullptr && left.integer())
    return RepeatText(*right.text(), *left.integer(), budget);
  if (op == '*' && left.list() != nullptr && right.integer())
    return RepeatList(left, *right.integer(), budget);
  if (op == '*' && right.list() != nullptr && left.integer())
    return RepeatList(right, *left.integer(), budget);
  if (op == '%' && left.text() != nullptr)
    return Unimplemented("line {}: formatting with % is not supported", line);
  absl::StatusOr<Value> result = left.integer() && right.integer() && (op != '/' || floor_division)
                                     ? IntegerArithmetic(op, *left.integer(), *right.integer(), line)
                                     : FloatArithmetic(op, floor_division, left, right, line);
  if (result.ok()) result->trusted = left.trusted && right.trusted;
  return result;
}

absl::StatusOr<Value> Sign(bool negate, Value value, int line) {
  RETURN_IF_ERROR(RequireDefined(value));
  if (const auto integer = value.integer()) {
    if (negate && *integer == std::numeric_limits<int64_t>::min()) return Overflow(line);
    value.data = negate ? -*integer : *integer;
    return value;
  }
  if (value.Is<double>()) {
    value.data = negate ? -std::get<double>(value.data) : std::get<double>(value.data);
    return value;
  }
  return InvalidArgument("line {}: bad operand type for unary {}: '{}'", line, negate ? '-' : '+',
                         TypeName(value));
}

}  // namespace tandem::text::jinja
