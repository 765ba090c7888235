#include "common/text/jinja_parser.h"

#include <algorithm>
#include <charconv>

#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_lexer.h"

namespace tandem::text::jinja {
namespace {

using formats::Quoted;

// Evaluating a tree recurses once per level.
constexpr int kMaxHeight = 128;
constexpr int kMaxBlockDepth = 32;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (Now().kind != Token::kEnd) return Unexpected();
    return body;
  }

 private:
  // ---- tokens
  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Skip() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool IsName(std::string_view name) const { return Now().kind == Token::kName && Now().text == name; }
  bool IsOperator(std::string_view op) const { return Now().kind == Token::kOperator && Now().text == op; }
  bool SkipName(std::string_view name) {
    if (!IsName(name)) return false;
    Skip();
    return true;
  }
  bool SkipOperator(std::string_view op) {
    if (!IsOperator(op)) return false;
    Skip();
    return true;
  }
  absl::Status Expect(std::string_view op) { return SkipOperator(op) ? absl::OkStatus() : Unexpected(); }
  absl::Status ExpectKind(Token::Kind kind) {
    if (Now().kind != kind) return Unexpected();
    Skip();
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> TakeName() {
    if (Now().kind != Token::kName) return Unexpected();
    std::string name = Now().text;
    Skip();
    return name;
  }
  absl::Status Unexpected() const {
    constexpr const char* kNames[] = {
        "text", "{%", "%}", "{{", "}}", "name", "string", "number", "number", "operator", "end of template"};
    return InvalidArgument("line {}: unexpected {} {}", Now().line, kNames[Now().kind],
                           Now().text.empty() ? std::string() : Quoted(Now().text));
  }
  absl::Status NotSupported(int line, std::string_view what, std::string_view name) const {
    return Unimplemented("line {}: {} {} is not supported", line, what, Quoted(name));
  }

  // ---- nodes
  ExprPtr Make(Expr::Kind kind, int line) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = line;
    return expr;
  }
  // Takes note of the node's height once its children are there.
  absl::StatusOr<ExprPtr> Finish(ExprPtr expr) const {
    const auto raise = [&](const ExprPtr& child) {
      if (child != nullptr) expr->height = std::max(expr->height, child->height + 1);
    };
    for (const ExprPtr& child : expr->args) raise(child);
    for (const auto& [name, child] : expr->named) raise(child);
    if (expr->height > kMaxHeight)
      return InvalidArgument("line {}: expression nested deeper than {}", expr->line, kMaxHeight);
    return expr;
  }
  template <typename... Args>
  absl::StatusOr<ExprPtr> Join(Expr::Kind kind, int line, std::string name, Args... args) const {
    ExprPtr expr = Make(kind, line);
    expr->name = std::move(name);
    (expr->args.push_back(std::move(args)), ...);
    return Finish(std::move(expr));
  }

  // Recursion while parsing, which brackets and prefix operators drive.
  class Level {
   public:
    explicit Level(int* depth) : depth_(depth) { ++*depth_; }
    ~Level() { --*depth_; }
    Level(const Level&) = delete;

   private:
    int* depth_;
  };
  absl::Status CheckDepth() const {
    if (expr_depth_ <= kMaxHeight) return absl::OkStatus();
    return InvalidArgument("line {}: expression nested deeper than {}", Now().line, kMaxHeight);
  }

  // ---- expressions, loosest first
  absl::StatusOr<ExprPtr> ParseExpr() {
    const Level level(&expr_depth_);
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

  // One expression, or several with commas between: a tuple.
  absl::StatusOr<ExprPtr> ParseTuple(bool with_condition) {
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

  absl::StatusOr<ExprPtr> ParseOr() {
    const int line = Now().line;
    ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
    while (SkipName("or")) {
      ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
      ASSIGN_OR_RETURN(left, Join(Expr::kOr, line, "", std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> ParseAnd() {
    const int line = Now().line;
    ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
    while (SkipName("and")) {
      ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
      ASSIGN_OR_RETURN(left, Join(Expr::kAnd, line, "", std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> ParseNot() {
    const int line = Now().line;
    if (!SkipName("not")) return ParseCompare();
    const Level level(&expr_depth_);
    RETURN_IF_ERROR(CheckDepth());
    ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
    return Join(Expr::kNot, line, "", std::move(operand));
  }

  std::string TakeComparison() {
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

  absl::StatusOr<ExprPtr> ParseCompare() {
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

  absl::StatusOr<ExprPtr> ParseSum() {
    ASSIGN_OR_RETURN(ExprPtr left, ParseConcat());
    while (IsOperator("+") || IsOperator("-")) {
      const Token op = Now();
      Skip();
      ASSIGN_OR_RETURN(ExprPtr right, ParseConcat());
      ASSIGN_OR_RETURN(left, Join(Expr::kArithmetic, op.line, op.text, std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> ParseConcat() {
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

  absl::StatusOr<ExprPtr> ParseProduct() {
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

  absl::StatusOr<ExprPtr> ParseUnary(bool with_filters) {
    const int line = Now().line;
    ExprPtr operand;
    if (IsOperator("-") || IsOperator("+")) {
      const Level level(&expr_depth_);
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

  absl::StatusOr<ExprPtr> Constant(Value value, int line) const {
    ExprPtr expr = Make(Expr::kConstant, line);
    expr->constant = std::move(value);
    return expr;
  }

  absl::StatusOr<ExprPtr> ParsePrimary() {
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

  absl::StatusOr<ExprPtr> ParseList() {
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

  absl::StatusOr<ExprPtr> ParseDict() {
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

  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr operand) {
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

  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr operand) {
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

  absl::Status ParseArguments(Expr* call) {
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

  absl::StatusOr<ExprPtr> ParseCall(ExprPtr callee) {
    ExprPtr call = Make(Expr::kCall, Now().line);
    if (callee->kind == Expr::kAttribute && !IsMethod(callee->name)) {
      return NotSupported(callee->line, "method", callee->name);
    }
    call->args.push_back(std::move(callee));
    RETURN_IF_ERROR(ParseArguments(call.get()));
    return Finish(std::move(call));
  }

  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr operand) {
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

  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr operand) {
    ExprPtr filter = Make(Expr::kFilter, Now().line);
    RETURN_IF_ERROR(Expect("|"));
    ASSIGN_OR_RETURN(filter->name, TakeName());
    if (!IsFilter(filter->name)) return NotSupported(filter->line, "filter", filter->name);
    filter->args.push_back(std::move(operand));
    if (IsOperator("(")) RETURN_IF_ERROR(ParseArguments(filter.get()));
    return Finish(std::move(filter));
  }

  bool BeginsTestArgument() const {
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

  absl::StatusOr<ExprPtr> ParseTest(ExprPtr operand) {
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

  // ---- statements

  // Up to a block tag whose name is one of `ends` (not consumed), or the template's end.
  absl::StatusOr<Body> ParseBody(const std::vector<std::string_view>& ends) {
    const Level level(&block_depth_);
    if (block_depth_ > kMaxBlockDepth) {
      return InvalidArgument("line {}: blocks nested deeper than {}", Now().line, kMaxBlockDepth);
    }
    Body body;
    while (true) {
      const int line = Now().line;
      if (Now().kind == Token::kText) {
        auto stmt = MakeStmt(Stmt::kText, line);
        stmt->text = Text(Now().text, true);
        Skip();
        body.push_back(std::move(stmt));
      } else if (Now().kind == Token::kPrintBegin) {
        Skip();
        auto stmt = MakeStmt(Stmt::kPrint, line);
        ASSIGN_OR_RETURN(stmt->expr, ParseTuple(true));
        RETURN_IF_ERROR(ExpectKind(Token::kPrintEnd));
        body.push_back(std::move(stmt));
      } else if (Now().kind == Token::kBlockBegin) {
        if (std::find(ends.begin(), ends.end(), Next().text) != ends.end()) return body;
        RETURN_IF_ERROR(ParseStatement(&body));
      } else if (Now().kind == Token::kEnd && ends.empty()) {
        return body;
      } else if (Now().kind == Token::kEnd) {
        return InvalidArgument("line {}: template ends where {} is missing", line, Quoted(ends.back()));
      } else {
        return Unexpected();
      }
    }
  }

  std::unique_ptr<Stmt> MakeStmt(Stmt::Kind kind, int line) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  // "{% name %}", where ParseBody stopped.
  absl::StatusOr<std::string> TakeBlockName() {
    RETURN_IF_ERROR(ExpectKind(Token::kBlockBegin));
    return TakeName();
  }
  absl::Status EndBlock() {
    Skip();  // {%
    Skip();  // name
    return ExpectKind(Token::kBlockEnd);
  }

  absl::Status ParseStatement(Body* body) {
    const int line = Now().line;
    ASSIGN_OR_RETURN(const std::string name, TakeBlockName());
    if (name == "if") return ParseIf(line, body);
    if (name == "for") return ParseFor(line, body);
    if (name == "set") return ParseSet(line, body);
    if (name == "macro") return ParseMacro(line, body);
    if (name == "break" || name == "continue") {
      if (loop_depth_ == 0) return InvalidArgument("line {}: {} outside a loop", line, Quoted(name));
      RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
      body->push_back(MakeStmt(name == "break" ? Stmt::kBreak : Stmt::kContinue, line));
      return absl::OkStatus();
    }
    if (name == "generation") {  // marks the assistant's tokens for training; prints its body
      RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
      ASSIGN_OR_RETURN(Body inner, ParseBody({"endgeneration"}));
      for (auto& stmt : inner) body->push_back(std::move(stmt));
      return EndBlock();
    }
    return NotSupported(line, "statement", name);
  }

  absl::Status ParseIf(int line, Body* body) {
    auto stmt = MakeStmt(Stmt::kIf, line);
    bool has_else = false;
    while (true) {
      Stmt::Branch branch;
      if (!has_else) {
        ASSIGN_OR_RETURN(branch.condition, ParseTuple(true));
      }
      RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
      ASSIGN_OR_RETURN(branch.body, has_else ? ParseBody({"endif"}) : ParseBody({"elif", "else", "endif"}));
      stmt->branches.push_back(std::move(branch));
      ASSIGN_OR_RETURN(const std::string name, TakeBlockName());
      if (name == "endif") break;
      has_else = name == "else";
    }
    body->push_back(std::move(stmt));
    return ExpectKind(Token::kBlockEnd);
  }

  absl::Status ParseTarget(Target* target) {
    const bool in_brackets = SkipOperator("(");
    do {
      if (!target->names.empty()) target->unpack = true;
      if (target->unpack && (IsOperator("=") || IsOperator(")") || IsName("in"))) break;  // trailing comma
      const int line = Now().line;
      ASSIGN_OR_RETURN(std::string name, TakeName());
      for (const std::string_view reserved :
           {"true", "false", "none", "True", "False", "None", "loop", "not", "in"}) {
        if (name == reserved) return InvalidArgument("line {}: cannot assign to {}", line, Quoted(name));
      }
      target->names.push_back(std::move(name));
    } while (SkipOperator(","));
    return in_brackets ? Expect(")") : absl::OkStatus();
  }

  absl::Status ParseFor(int line, Body* body) {
    auto stmt = MakeStmt(Stmt::kFor, line);
    RETURN_IF_ERROR(ParseTarget(&stmt->target));
    if (!SkipName("in")) return Unexpected();
    ASSIGN_OR_RETURN(stmt->expr, ParseTuple(false));
    if (SkipName("if")) {
      ASSIGN_OR_RETURN(stmt->filter, ParseExpr());
    }
    if (IsName("recursive")) return NotSupported(Now().line, "loop option", "recursive");
    RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
    {
      const Level level(&loop_depth_);
      ASSIGN_OR_RETURN(stmt->body, ParseBody({"else", "endfor"}));
    }
    ASSIGN_OR_RETURN(const std::string name, TakeBlockName());
    RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
    if (name == "else") {
      ASSIGN_OR_RETURN(stmt->otherwise, ParseBody({"endfor"}));
      RETURN_IF_ERROR(EndBlock());
    }
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParseSet(int line, Body* body) {
    auto stmt = MakeStmt(Stmt::kSet, line);
    RETURN_IF_ERROR(ParseTarget(&stmt->target));
    if (!stmt->target.unpack && SkipOperator(".")) {
      ASSIGN_OR_RETURN(stmt->target.attribute, TakeName());
    }
    if (SkipOperator("=")) {
      ASSIGN_OR_RETURN(stmt->expr, ParseTuple(true));
      RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
    } else {
      stmt->kind = Stmt::kSetBlock;
      if (IsOperator("|")) return NotSupported(line, "statement", "set with filter");
      RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
      ++nesting_;
      ASSIGN_OR_RETURN(stmt->body, ParseBody({"endset"}));
      --nesting_;
      RETURN_IF_ERROR(EndBlock());
    }
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParseMacro(int line, Body* body) {
    // One inside a loop or another macro would have to keep that scope alive.
    if (loop_depth_ > 0 || nesting_ > 0) return NotSupported(line, "statement", "macro inside another block");
    auto stmt = MakeStmt(Stmt::kMacro, line);
    MacroNode& macro = stmt->macro;
    ASSIGN_OR_RETURN(macro.name, TakeName());
    RETURN_IF_ERROR(Expect("("));
    while (!IsOperator(")")) {
      ASSIGN_OR_RETURN(std::string parameter, TakeName());
      macro.parameters.push_back(std::move(parameter));
      ExprPtr absent;
      if (SkipOperator("=")) {
        ASSIGN_OR_RETURN(absent, ParseExpr());
      }
      macro.defaults.push_back(std::move(absent));
      if (!SkipOperator(",")) break;
    }
    RETURN_IF_ERROR(Expect(")"));
    RETURN_IF_ERROR(ExpectKind(Token::kBlockEnd));
    ++nesting_;
    ASSIGN_OR_RETURN(macro.body, ParseBody({"endmacro"}));
    --nesting_;
    RETURN_IF_ERROR(EndBlock());
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int expr_depth_ = 0, block_depth_ = 0, loop_depth_ = 0;
  int nesting_ = 0;  // macros and block sets around
};

}  // namespace

absl::StatusOr<Body> Parse(const std::string& source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tandem::text::jinja
