#include "common/text/jinja_parser.h"

#include <algorithm>

#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/jinja_expressions.h"
#include "common/text/jinja_lexer.h"

namespace tandem::text::jinja {
namespace {

using formats::Quoted;

constexpr int kMaxBlockDepth = 32;

// Statements; the base class parses the expressions in them.
class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (Now().kind != Token::kEnd) return Unexpected();
    return body;
  }

 private:
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

  int block_depth_ = 0, loop_depth_ = 0;
  int nesting_ = 0;  // macros and block sets around
};

}  // namespace

absl::StatusOr<Body> Parse(const std::string& source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tandem::text::jinja
