// Expressions of a template to syntax trees.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/jinja_ast.h"
#include "common/text/jinja_token_reader.h"

namespace tandem::text::jinja {

class ExpressionParser : protected TokenReader {
 protected:
  using TokenReader::TokenReader;

  // With `x if c else y`; without; either of them with commas between: a tuple.
  absl::StatusOr<ExprPtr> ParseExpr();
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseTuple(bool with_condition);

 private:
  ExprPtr Make(Expr::Kind kind, int line) const;
  // Takes note of the node's height once its children are there.
  absl::StatusOr<ExprPtr> Finish(ExprPtr expr) const;
  template <typename... Args>
  absl::StatusOr<ExprPtr> Join(Expr::Kind kind, int line, std::string name, Args... args) const {
    ExprPtr expr = Make(kind, line);
    expr->name = std::move(name);
    (expr->args.push_back(std::move(args)), ...);
    return Finish(std::move(expr));
  }
  absl::Status CheckDepth() const;

  // Loosest first.
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  std::string TakeComparison();
  absl::StatusOr<ExprPtr> ParseCompare();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filters);
  absl::StatusOr<ExprPtr> Constant(Value value, int line) const;
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseList();
  absl::StatusOr<ExprPtr> ParseDict();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr operand);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr operand);
  absl::Status ParseArguments(Expr* call);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr callee);
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr operand);
  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr operand);
  bool BeginsTestArgument() const;
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr operand);

  int depth_ = 0;
};

}  // namespace tandem::text::jinja
