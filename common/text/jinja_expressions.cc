#include "common/text/jinja_expressions.h"

#include <algorithm>
#include <charconv>

#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/jinja_builtins.h"

namespace tandem::text::jinja {
namespace {

using formats::Quoted;

// Evaluating a tree recurses once per level, and brackets and prefix operators do while parsing.
constexpr int kMaxHeight = 128;

}  // namespace

ExprPtr ExpressionParser::Make(Expr::Kind kind, int line) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Finish(ExprPtr expr) const {
  const auto raise = [&](const ExprPtr& child) {
    if (child != nullptr) expr->height = std::max(expr->height, child->height + 1);
  };
  for (const ExprPtr& child : expr->args) raise(child);
  for (const auto& [name, child] : expr->named) raise(child);
  if (expr->height > kMaxHeight)
    return InvalidArgument("line {}: expression nested deeper than {}", expr->line, kMaxHeight);
  return expr;
}

absl::Status ExpressionParser::CheckDepth() const {
  if (depth_ <= kMaxHeight) return absl::OkStatus();
  return InvalidArgument("line {}: expression nested deeper than {}", Now().line, kMaxHeight);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseExpr() {
  const Level level(&depth_);
  RETURN_IF_ERROR(CheckDepth());
  const int line = Now().line;
  ASSIGN_OR_RETURN(ExprPtr value, ParseOr());
  while (SkipName("if")) {
    ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (SkipName("else")) {
      ASSIGN_OR_RETURN(otherwise, ParseExpr());
    }
    ASSIGN_OR_RETURN(value, Join(Expr::kCondition, line, "", std::move(condition), std::move(value),
                                 std::move(otherwise)));
  }
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTuple(bool with_condition) {
  const int line = Now().line;
  const auto parse = [&] { return with_condition ? ParseExpr() : ParseOr(); };
  ASSIGN_OR_RETURN(ExprPtr first, parse());
  if (!IsOperator(",")) return first;
  ExprPtr tuple = Make(Expr::kTuple, line);
  tuple->args.push_back(std::move(first));
  while (SkipOperator(",")) {
    if (Now().kind == Token::kBlockEnd || Now().kind == Token::kPrintEnd || IsOperator(")") ||
        IsOperator("="))
      break;
    ASSIGN_OR_RETURN(ExprPtr next, parse());
    tuple->args.push_back(std::move(next));
  }
  return Finish(std::move(tuple));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseOr() {
  const int line = Now().line;
  ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  while (SkipName("or")) {
    ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    ASSIGN_OR_RETURN(left, Join(Expr::kOr, line, "", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAnd() {
  const int line = Now().line;
  ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  while (SkipName("and")) {
    ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    ASSIGN_OR_RETURN(left, Join(Expr::kAnd, line, "", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNot() {
  const int line = Now().line;
  if (!SkipName("not")) return ParseCompare();
  const Level level(&depth_);
  RETURN_IF_ERROR(CheckDepth());
  ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  return Join(Expr::kNot, line, "", std::move(operand));
}

std::string ExpressionParser::TakeComparison() {
  for (const std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
    if (SkipOperator(op)) return std::string(op);
  }
  if (SkipName("in")) return "in";
  if (IsName("not") && Next().kind == Token::kName && Next().text == "in") {
    Skip();
    Skip();
    return "not in";
  }
  return "";
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCompare() {
  const int line = Now().line;
  ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  std::string op = TakeComparison();
  if (op.empty()) return first;
  ExprPtr compare = Make(Expr::kCompare, line);
  compare->args.push_back(std::move(first));
  for (; !op.empty(); op = TakeComparison()) {
    compare->ops.push_back(op);
    ASSIGN_OR_RETURN(ExprPtr next, ParseSum());
    compare->args.push_back(std::move(next));
  }
  return Finish(std::move(compare));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSum() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseConcat());
  while (IsOperator("+") || IsOperator("-")) {
    const Token op = Now();
    Skip();
    ASSIGN_OR_RETURN(ExprPtr right, ParseConcat());
    ASSIGN_OR_RETURN(left, Join(Expr::kArithmetic, op.line, op.text, std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConcat() {
  const int line = Now().line;
  ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!IsOperator("~")) return first;
  ExprPtr concat = Make(Expr::kConcat, line);
  concat->args.push_back(std::move(first));
  while (SkipOperator("~")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseProduct());
    concat->args.push_back(std::move(next));
  }
  return Finish(std::move(concat));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseProduct() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseUnary(true));
  while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%") || IsOperator("**")) {
    const Token op = Now();
    if (op.text == "**") return NotSupported(op.line, "operator", op.text);
    Skip();
    ASSIGN_OR_RETURN(ExprPtr right, ParseUnary(true));
    ASSIGN_OR_RETURN(left, Join(Expr::kArithmetic, op.line, op.text, std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseUnary(bool with_filters) {
  const int line = Now().line;
  ExprPtr operand;
  if (IsOperator("-") || IsOperator("+")) {
    const Level level(&depth_);
    RETURN_IF_ERROR(CheckDepth());
    const Expr::Kind kind = IsOperator("-") ? Expr::kNegate : Expr::kPlus;
    Skip();
    ASSIGN_OR_RETURN(operand, ParseUnary(false));
    ASSIGN_OR_RETURN(operand, Join(kind, line, "", std::move(operand)));
  } else {
    ASSIGN_OR_RETURN(operand, ParsePrimary());
    ASSIGN_OR_RETURN(operand, ParsePostfix(std::move(operand)));
  }
  return with_filters ? ParseFilters(std::move(operand)) : std::move(operand);
}

absl::StatusOr<ExprPtr> ExpressionParser::Constant(Value value, int line) const {
  ExprPtr expr = Make(Expr::kConstant, line);
  expr->constant = std::move(value);
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePrimary() {
  const Token token = Now();
  switch (token.kind) {
    case Token::kName:
      Skip();
      if (token.text == "true" || token.text == "True") return Constant(Value::Of(true), token.line);
      if (token.text == "false" || token.text == "False") return Constant(Value::Of(false), token.line);
      if (token.text == "none" || token.text == "None") return Constant(Value::OfNone(), token.line);
      return Join(Expr::kName, token.line, token.text);
    case Token::kString: {
      std::string text;
      for (; Now().kind == Token::kString; Skip()) text += Now().text;  // neighbours are one
      return Constant(Value::Of(std::move(text)), token.line);
    }
    case Token::kInteger: {
      int64_t value = 0;
      const auto [end, error] =
          std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (error != std::errc())
        return InvalidArgument("line {}: integer {} is too large", token.line, Quoted(token.text));
      Skip();
      return Constant(Value::Of(value), token.line);
    }
    case Token::kFloat: {
      double value = 0;
      const auto [end, error] =
          std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (error != std::errc())
        return InvalidArgument("line {}: number {} is too large", token.line, Quoted(token.text));
      Skip();
      return Constant(Value::Of(value), token.line);
    }
    default:
      break;
  }
  if (SkipOperator("(")) {
    if (SkipOperator(")")) return Finish(Make(Expr::kTuple, token.line));
    ASSIGN_OR_RETURN(ExprPtr inner, ParseTuple(true));
    RETURN_IF_ERROR(Expect(")"));
    return inner;
  }
  if (IsOperator("[")) return ParseList();
  if (IsOperator("{")) return ParseDict();
  return Unexpected();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseList() {
  ExprPtr list = Make(Expr::kList, Now().line);
  RETURN_IF_ERROR(Expect("["));
  while (!IsOperator("]")) {
    ASSIGN_OR_RETURN(ExprPtr element, ParseExpr());
    list->args.push_back(std::move(element));
    if (!SkipOperator(",")) break;
  }
  RETURN_IF_ERROR(Expect("]"));
  return Finish(std::move(list));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseDict() {
  ExprPtr dict = Make(Expr::kDict, Now().line);
  RETURN_IF_ERROR(Expect("{"));
  while (!IsOperator("}")) {
    ASSIGN_OR_RETURN(ExprPtr key, ParseExpr());
    RETURN_IF_ERROR(Expect(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpr());
    dict->args.push_back(std::move(key));
    dict->args.push_back(std::move(value));
    if (!SkipOperator(",")) break;
  }
  RETURN_IF_ERROR(Expect("}"));
  return Finish(std::move(dict));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr operand) {
  while (true) {
    const int line = Now().line;
    if (SkipOperator(".")) {
      if (Now().kind == Token::kInteger) {
        ASSIGN_OR_RETURN(ExprPtr index, ParsePrimary());
        ASSIGN_OR_RETURN(operand, Join(Expr::kItem, line, "", std::move(operand), std::move(index)));
      } else {
        ASSIGN_OR_RETURN(std::string name, TakeName());
        ASSIGN_OR_RETURN(operand, Join(Expr::kAttribute, line, std::move(name), std::move(operand)));
      }
    } else if (IsOperator("[")) {
      ASSIGN_OR_RETURN(operand, ParseSubscript(std::move(operand)));
    } else if (IsOperator("(")) {
      ASSIGN_OR_RETURN(operand, ParseCall(std::move(operand)));
    } else {
      return operand;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr operand) {
  const int line = Now().line;
  RETURN_IF_ERROR(Expect("["));
  ExprPtr bounds[3];
  int num_colons = 0;
  while (!IsOperator("]")) {
    if (IsOperator(":") && num_colons < 2) {
      Skip();
      ++num_colons;
    } else if (bounds[num_colons] == nullptr) {
      ASSIGN_OR_RETURN(bounds[num_colons], ParseExpr());
    } else {
      return Unexpected();
    }
  }
  RETURN_IF_ERROR(Expect("]"));
  if (num_colons > 0) {
    return Join(Expr::kSlice, line, "", std::move(operand), std::move(bounds[0]), std::move(bounds[1]),
                std::move(bounds[2]));
  }
  if (bounds[0] == nullptr) return InvalidArgument("line {}: empty subscript", line);
  return Join(Expr::kItem, line, "", std::move(operand), std::move(bounds[0]));
}

absl::Status ExpressionParser::ParseArguments(Expr* call) {
  RETURN_IF_ERROR(Expect("("));
  while (!IsOperator(")")) {
    if (IsOperator("*") || IsOperator("**")) return NotSupported(Now().line, "argument", Now().text);
    if (Now().kind == Token::kName && Next().kind == Token::kOperator && Next().text == "=") {
      const std::string name = Now().text;
      Skip();
      Skip();
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpr());
      call->named.emplace_back(name, std::move(value));
    } else {
      if (!call->named.empty())
        return InvalidArgument("line {}: argument without name after a named one", Now().line);
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpr());
      call->args.push_back(std::move(value));
    }
    if (!SkipOperator(",")) break;
  }
  return Expect(")");
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCall(ExprPtr callee) {
  ExprPtr call = Make(Expr::kCall, Now().line);
  if (callee->kind == Expr::kAttribute && !IsMethod(callee->name)) {
    return NotSupported(callee->line, "method", callee->name);
  }
  call->args.push_back(std::move(callee));
  RETURN_IF_ERROR(ParseArguments(call.get()));
  return Finish(std::move(call));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilters(ExprPtr operand) {
  while (true) {
    if (IsOperator("|")) {
      ASSIGN_OR_RETURN(operand, ParseFilter(std::move(operand)));
    } else if (IsName("is")) {
      ASSIGN_OR_RETURN(operand, ParseTest(std::move(operand)));
    } else if (IsOperator("(")) {
      ASSIGN_OR_RETURN(operand, ParseCall(std::move(operand)));
    } else {
      return operand;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilter(ExprPtr operand) {
  ExprPtr filter = Make(Expr::kFilter, Now().line);
  RETURN_IF_ERROR(Expect("|"));
  ASSIGN_OR_RETURN(filter->name, TakeName());
  if (!IsFilter(filter->name)) return NotSupported(filter->line, "filter", filter->name);
  filter->args.push_back(std::move(operand));
  if (IsOperator("(")) RETURN_IF_ERROR(ParseArguments(filter.get()));
  return Finish(std::move(filter));
}

bool ExpressionParser::BeginsTestArgument() const {
  switch (Now().kind) {
    case Token::kName:
      return !IsName("else") && !IsName("or") && !IsName("and") && !IsName("is") && !IsName("if") &&
             !IsName("in") && !IsName("not");
    case Token::kString:
    case Token::kInteger:
    case Token::kFloat:
      return true;
    default:
      return IsOperator("[") || IsOperator("{");
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTest(ExprPtr operand) {
  ExprPtr test = Make(Expr::kTest, Now().line);
  Skip();  // is
  test->negated = SkipName("not");
  ASSIGN_OR_RETURN(test->name, TakeName());
  if (!IsTest(test->name)) return NotSupported(test->line, "test", test->name);
  test->args.push_back(std::move(operand));
  if (IsOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(test.get()));
  } else if (BeginsTestArgument()) {
    ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->args.push_back(std::move(argument));
  }
  return Finish(std::move(test));
}

}  // namespace tandem::text::jinja
