// Walks through a template's tokens; what the parsers of expressions and statements share.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/jinja_level.h"
#include "common/text/jinja_lexer.h"

namespace tandem::text::jinja {

class TokenReader {
 protected:
  // Requires that the last token is kEnd.
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

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
                           Now().text.empty() ? std::string() : formats::Quoted(Now().text));
  }
  absl::Status NotSupported(int line, std::string_view what, std::string_view name) const {
    return Unimplemented("line {}: {} {} is not supported", line, what, formats::Quoted(name));
  }

 private:
  const std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace tandem::text::jinja
