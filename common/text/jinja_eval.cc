#include "common/text/jinja_eval.h"

#include <algorithm>

#include "common/base/status.h"
#include "common/text/jinja_arithmetic.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_level.h"
#include "common/text/jinja_print.h"
#include "common/text/jinja_strings.h"

namespace tandem::text::jinja {
namespace {

// Levels of expressions and blocks under evaluation, macro calls included: bounds the C++ stack.
constexpr int kMaxDepth = 256;

// Variables of the template, a macro call or one round of a loop.
struct Scope {
  const Scope* parent = nullptr;
  std::map<std::string, Value> variables;

  const Value* Find(const std::string& name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
      const auto found = scope->variables.find(name);
      if (found != scope->variables.end()) return &found->second;
    }
    return nullptr;
  }
};

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(std::map<std::string, Value> variables, Budget& budget) : budget_(budget), output_(budget) {
    root_.variables = std::move(variables);
  }

  absl::StatusOr<Text> Run(const Body& body) {
    ASSIGN_OR_RETURN(const Flow flow, RunBody(body, &root_));
    TANDEM_CHECK(flow == Flow::kNext);
    return output_.Take();
  }

 private:
  absl::Status Enter(int line) {
    if (depth_ > kMaxDepth) return ResourceExhausted("line {}: nested deeper than {}", line, kMaxDepth);
    return budget_.Steps(1);
  }

  // ---- statements

  absl::StatusOr<Flow> RunBody(const Body& body, Scope* scope) {
    for (const auto& stmt : body) {
      ASSIGN_OR_RETURN(const Flow flow, RunStmt(*stmt, scope));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> RunStmt(const Stmt& stmt, Scope* scope) {
    const Level level(&depth_);
    RETURN_IF_ERROR(Enter(stmt.line));
    switch (stmt.kind) {
      case Stmt::kText:
        RETURN_IF_ERROR(output_.Append(stmt.text));
        return Flow::kNext;
      case Stmt::kPrint: {
        ASSIGN_OR_RETURN(const Value value, Eval(*stmt.expr, scope));
        ASSIGN_OR_RETURN(const Text text, Print(value, budget_));
        RETURN_IF_ERROR(output_.Append(text));
        return Flow::kNext;
      }
      case Stmt::kIf:
        for (const Stmt::Branch& branch : stmt.branches) {
          bool taken = branch.condition == nullptr;
          if (!taken) {
            ASSIGN_OR_RETURN(const Value condition, Eval(*branch.condition, scope));
            taken = IsTrue(condition);
          }
          if (taken) return RunBody(branch.body, scope);
        }
        return Flow::kNext;
      case Stmt::kFor:
        return RunFor(stmt, scope);
      case Stmt::kSet: {
        ASSIGN_OR_RETURN(Value value, Eval(*stmt.expr, scope));
        RETURN_IF_ERROR(Assign(stmt.target, std::move(value), stmt.line, scope));
        return Flow::kNext;
      }
      case Stmt::kSetBlock: {
        TextBuilder outer = std::exchange(output_, TextBuilder(budget_));
        absl::StatusOr<Flow> flow = RunBody(stmt.body, scope);
        Text text = std::exchange(output_, std::move(outer)).Take();
        if (!flow.ok() || *flow != Flow::kNext) return flow;
        RETURN_IF_ERROR(Assign(stmt.target, Value::Of(std::move(text)), stmt.line, scope));
        return Flow::kNext;
      }
      case Stmt::kMacro:
        scope->variables[stmt.macro.name] = Value{&stmt.macro};
        return Flow::kNext;
      case Stmt::kBreak:
        return Flow::kBreak;
      case Stmt::kContinue:
        return Flow::kContinue;
    }
    TANDEM_CHECK(false);
  }

  absl::Status Assign(const Target& target, Value value, int line, Scope* scope) {
    if (!target.attribute.empty()) {
      const Value* space = scope->Find(target.names[0]);
      const auto* attributes =
          space == nullptr ? nullptr : std::get_if<std::shared_ptr<Namespace>>(&space->data);
      if (attributes == nullptr) {
        return InvalidArgument("line {}: cannot assign attribute on non-namespace object", line);
      }
      ASSIGN_OR_RETURN(const Value checked, Value::Of(List{value}));  // data only, else it could hold itself
      (*attributes)->attributes[target.attribute] = std::move(value);
      return absl::OkStatus();
    }
    if (!target.unpack) {
      scope->variables[target.names[0]] = std::move(value);
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(RequireDefined(value));
    ASSIGN_OR_RETURN(List parts, Iterate(value, budget_));
    if (parts.size() != target.names.size()) {
      return InvalidArgument("line {}: cannot unpack {} values into {} names", line, parts.size(),
                             target.names.size());
    }
    for (size_t i = 0; i < parts.size(); ++i) scope->variables[target.names[i]] = std::move(parts[i]);
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> RunFor(const Stmt& stmt, Scope* scope) {
    ASSIGN_OR_RETURN(const Value iterable, Eval(*stmt.expr, scope));
    ASSIGN_OR_RETURN(List items, Iterate(iterable, budget_));
    if (stmt.filter != nullptr) {
      List kept;
      for (Value& item : items) {
        Scope trial{scope, {}};
        RETURN_IF_ERROR(Assign(stmt.target, item, stmt.line, &trial));
        ASSIGN_OR_RETURN(const Value keep, Eval(*stmt.filter, &trial));
        if (IsTrue(keep)) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) return RunBody(stmt.otherwise, scope);
    ++loop_depth_;
    absl::StatusOr<Flow> flow = RunRounds(stmt, items, scope);
    --loop_depth_;
    return flow;
  }

  absl::StatusOr<Flow> RunRounds(const Stmt& stmt, const List& items, Scope* scope) {
    auto loop = std::make_shared<Loop>();
    loop->items = items;
    loop->depth = loop_depth_;
    for (size_t i = 0; i < items.size(); ++i) {
      RETURN_IF_ERROR(budget_.Steps(1));
      loop->index = i;
      Scope round{scope, {}};
      round.variables["loop"] = Value{std::shared_ptr<const Loop>(loop)};
      RETURN_IF_ERROR(Assign(stmt.target, items[i], stmt.line, &round));
      ASSIGN_OR_RETURN(const Flow flow, RunBody(stmt.body, &round));
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  // ---- expressions

  absl::StatusOr<Value> Eval(const Expr& expr, Scope* scope) {
    const Level level(&depth_);
    RETURN_IF_ERROR(Enter(expr.line));
    switch (expr.kind) {
      case Expr::kConstant:
        return expr.constant;
      case Expr::kName: {
        const Value* found = scope->Find(expr.name);
        return found != nullptr ? absl::StatusOr<Value>(*found) : FindFunction(expr.name);
      }
      case Expr::kList:
      case Expr::kTuple: {
        ASSIGN_OR_RETURN(List list, EvalAll(expr.args, 0, scope));
        return Value::Of(std::move(list), expr.kind == Expr::kTuple);
      }
      case Expr::kDict:
        return EvalDict(expr, scope);
      case Expr::kAttribute: {
        ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
        return GetAttribute(value, expr.name);
      }
      case Expr::kItem: {
        ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
        ASSIGN_OR_RETURN(const Value key, Eval(*expr.args[1], scope));
        return GetItem(value, key, budget_);
      }
      case Expr::kSlice:
        return EvalSlice(expr, scope);
      case Expr::kCall:
        return EvalCall(expr, scope);
      case Expr::kFilter: {
        ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
        ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, expr.name, scope));
        return ApplyFilter(expr.name, value, arguments, budget_);
      }
      case Expr::kTest: {
        ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
        ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, expr.name, scope));
        ASSIGN_OR_RETURN(const bool outcome, ApplyTest(expr.name, value, arguments, budget_));
        return Value::Of(outcome != expr.negated);
      }
      case Expr::kNot: {
        ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
        return Value::Of(!IsTrue(value));
      }
      case Expr::kNegate:
      case Expr::kPlus: {
        ASSIGN_OR_RETURN(Value value, Eval(*expr.args[0], scope));
        return Sign(expr.kind == Expr::kNegate, std::move(value), expr.line);
      }
      case Expr::kAnd:
      case Expr::kOr: {
        ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0], scope));
        if (IsTrue(left) == (expr.kind == Expr::kOr)) return left;
        return Eval(*expr.args[1], scope);
      }
      case Expr::kCompare:
        return EvalCompare(expr, scope);
      case Expr::kArithmetic: {
        ASSIGN_OR_RETURN(const Value left, Eval(*expr.args[0], scope));
        ASSIGN_OR_RETURN(const Value right, Eval(*expr.args[1], scope));
        return Arithmetic(expr.name, left, right, expr.line, budget_);
      }
      case Expr::kConcat: {
        ASSIGN_OR_RETURN(const List parts, EvalAll(expr.args, 0, scope));
        ASSIGN_OR_RETURN(Text text, JoinTexts(parts, Text(), budget_));
        return Value::Of(std::move(text));
      }
      case Expr::kCondition: {
        ASSIGN_OR_RETURN(const Value condition, Eval(*expr.args[0], scope));
        if (IsTrue(condition)) return Eval(*expr.args[1], scope);
        if (expr.args[2] != nullptr) return Eval(*expr.args[2], scope);
        return Value::OfUndefined(
            fmt::format("the inline if-expression on line {} evaluated to false and no else "
                        "section was defined",
                        expr.line));
      }
    }
    TANDEM_CHECK(false);
  }

  absl::StatusOr<List> EvalAll(const std::vector<ExprPtr>& exprs, size_t first, Scope* scope) {
    List values;
    for (size_t i = first; i < exprs.size(); ++i) {
      ASSIGN_OR_RETURN(Value value, Eval(*exprs[i], scope));
      values.push_back(std::move(value));
    }
    return values;
  }

  absl::StatusOr<Arguments> EvalArguments(const Expr& expr, const std::string& function, Scope* scope) {
    ASSIGN_OR_RETURN(List positional, EvalAll(expr.args, 1, scope));
    std::vector<std::pair<std::string, Value>> named;
    for (const auto& [name, argument] : expr.named) {
      ASSIGN_OR_RETURN(Value value, Eval(*argument, scope));
      named.emplace_back(name, std::move(value));
    }
    return Arguments(function, std::move(positional), std::move(named));
  }

  absl::StatusOr<Value> EvalDict(const Expr& expr, Scope* scope) {
    Dict dict;
    for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
      ASSIGN_OR_RETURN(Value key, Eval(*expr.args[i], scope));
      ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i + 1], scope));
      if (key.text() == nullptr)
        return Unimplemented("line {}: dict keys of type {}", expr.line, TypeName(key));
      dict.Set(std::move(key), std::move(value));
    }
    return Value::Of(std::move(dict));
  }

  // The bounds of a slice as Python clips them.
  absl::StatusOr<std::vector<size_t>> SliceIndices(const Expr& expr, int64_t size, Scope* scope) {
    std::optional<int64_t> bounds[3];
    for (int i = 0; i < 3; ++i) {
      if (expr.args[i + 1] == nullptr) continue;
      ASSIGN_OR_RETURN(const Value bound, Eval(*expr.args[i + 1], scope));
      RETURN_IF_ERROR(RequireDefined(bound));
      if (bound.IsNone()) continue;
      bounds[i] = bound.integer();
      if (!bounds[i]) return InvalidArgument("line {}: slice indices must be integers or None", expr.line);
    }
    const int64_t step = bounds[2].value_or(1);
    if (step == 0) return InvalidArgument("line {}: slice step cannot be zero", expr.line);
    const int64_t lowest = step > 0 ? 0 : -1, highest = step > 0 ? size : size - 1;
    const auto clip = [&](std::optional<int64_t> bound, int64_t absent) {
      if (!bound) return absent;
      return std::clamp(*bound < 0 ? *bound + size : *bound, lowest, highest);
    };
    const int64_t start = clip(bounds[0], step > 0 ? lowest : highest),
                  stop = clip(bounds[1], step > 0 ? highest : lowest);
    std::vector<size_t> indices;
    for (__int128 i = start; step > 0 ? i < stop : i > stop; i += step)
      indices.push_back(static_cast<size_t>(i));
    RETURN_IF_ERROR(budget_.Bytes(indices.size() * sizeof(Value)));
    return indices;
  }

  absl::StatusOr<Value> EvalSlice(const Expr& expr, Scope* scope) {
    ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
    RETURN_IF_ERROR(RequireDefined(value));
    if (const List* list = value.list()) {
      ASSIGN_OR_RETURN(const auto indices, SliceIndices(expr, static_cast<int64_t>(list->size()), scope));
      List part;
      for (const size_t i : indices) part.push_back((*list)[i]);
      return Value::Of(std::move(part), value.tuple);
    }
    if (const Text* text = value.text()) {
      RETURN_IF_ERROR(budget_.Bytes(text->size() * sizeof(size_t)));
      const std::vector<size_t> offsets = CharacterOffsets(text->bytes());
      ASSIGN_OR_RETURN(const auto indices,
                       SliceIndices(expr, static_cast<int64_t>(offsets.size()) - 1, scope));
      TextBuilder part(budget_);
      for (const size_t i : indices) RETURN_IF_ERROR(part.AppendPart(*text, offsets[i], offsets[i + 1]));
      return Value::Of(part.Take());
    }
    return InvalidArgument("line {}: '{}' object is not subscriptable", expr.line, TypeName(value));
  }

  absl::StatusOr<Value> EvalCall(const Expr& expr, Scope* scope) {
    ASSIGN_OR_RETURN(const Value callee, Eval(*expr.args[0], scope));
    RETURN_IF_ERROR(RequireDefined(callee));
    if (const auto* method = std::get_if<std::shared_ptr<const Method>>(&callee.data)) {
      ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, (*method)->name, scope));
      if ((*method)->receiver.IsUndefined()) return CallFunction((*method)->name, arguments, budget_);
      return CallMethod(**method, arguments, budget_);
    }
    if (const auto* macro = std::get_if<const MacroNode*>(&callee.data)) {
      ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expr, (*macro)->name, scope));
      return CallMacro(**macro, arguments);
    }
    return InvalidArgument("line {}: '{}' object is not callable", expr.line, TypeName(callee));
  }

  absl::StatusOr<Value> CallMacro(const MacroNode& macro, const Arguments& arguments) {
    const std::vector<std::string_view> names(macro.parameters.begin(), macro.parameters.end());
    RETURN_IF_ERROR(arguments.Check(names));
    Scope call{&root_, {}};
    for (size_t i = 0; i < names.size(); ++i) {
      Value value = Value::OfUndefined(fmt::format("parameter '{}' was not provided", names[i]));
      if (const Value* given = arguments.Get(i, names[i])) {
        value = *given;
      } else if (macro.defaults[i] != nullptr) {
        ASSIGN_OR_RETURN(value, Eval(*macro.defaults[i], &call));
      }
      call.variables[macro.parameters[i]] = std::move(value);
    }
    TextBuilder outer = std::exchange(output_, TextBuilder(budget_));
    const absl::StatusOr<Flow> flow = RunBody(macro.body, &call);
    Text text = std::exchange(output_, std::move(outer)).Take();
    RETURN_IF_ERROR(flow.status());
    return Value::Of(std::move(text));
  }

  absl::StatusOr<bool> EvalComparison(const std::string& op, const Value& left, const Value& right) {
    if (op == "==" || op == "!=") {
      ASSIGN_OR_RETURN(const bool same, Equal(left, right, budget_));
      return same == (op == "==");
    }
    if (op == "in" || op == "not in") {
      ASSIGN_OR_RETURN(const Value found, Contains(right, left, budget_));
      return IsTrue(found) == (op == "in");
    }
    ASSIGN_OR_RETURN(const int order, Compare(left, right, budget_));
    if (op == "<") return order < 0;
    if (op == "<=") return order <= 0;
    return op == ">" ? order > 0 : order >= 0;
  }

  absl::StatusOr<Value> EvalCompare(const Expr& expr, Scope* scope) {
    ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0], scope));
    for (size_t i = 0; i < expr.ops.size(); ++i) {
      ASSIGN_OR_RETURN(Value right, Eval(*expr.args[i + 1], scope));
      ASSIGN_OR_RETURN(const bool holds, EvalComparison(expr.ops[i], left, right));
      if (!holds) return Value::Of(false);
      left = std::move(right);
    }
    return Value::Of(true);
  }

  Budget& budget_;
  TextBuilder output_;  // of the template, or of the macro or block set that runs
  Scope root_;
  int depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

absl::StatusOr<Text> Render(const Body& body, std::map<std::string, Value> variables, Budget& budget) {
  return Evaluator(std::move(variables), budget).Run(body);
}

}  // namespace tandem::text::jinja
