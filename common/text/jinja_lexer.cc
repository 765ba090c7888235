#include "common/text/jinja_lexer.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/text/utf8.h"

namespace tandem::text::jinja {
namespace {

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }
bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }
bool IsNameStart(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

// Line ends become \n, and one at the very end is dropped.
std::string NormalizeLines(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') continue;
      out.push_back('\n');
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(NormalizeLines(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(LexData());
    Add(Token::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool LooksAt(std::string_view text, size_t at) const {
    return std::string_view(source_).substr(at, text.size()) == text;
  }
  char CharAt(size_t at) const { return at < source_.size() ? source_[at] : '\0'; }
  void Advance(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + end, '\n'));
    line_starting_ = end > at_ ? source_[end - 1] == '\n' : line_starting_;
    at_ = end;
  }
  void Add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  absl::Status Error(std::string_view what) const { return InvalidArgument("line {}: {}", line_, what); }

  // Adds the data up to `end`, where a tag with `sign` ('-', '+' or another) stands; a tag that is no print
  // also takes the blanks between the line's start and itself.
  void AddData(size_t end, char sign, bool is_print) {
    std::string_view data = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      while (!data.empty() && IsSpace(data.back())) data.remove_suffix(1);
    } else if (sign != '+' && !is_print) {
      const size_t newline = data.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      const bool at_line_start = start > 0 || line_starting_;
      if (at_line_start && std::all_of(data.begin() + start, data.end(), IsSpace))
        data = data.substr(0, start);
    }
    if (!data.empty()) Add(Token::kText, std::string(data));
    Advance(end);
  }

  // Past a tag's closing marker: "-" takes all white space that follows, a tag that is no print one newline
  // ("+" keeps it). `at` is at the sign or the marker; nothing if neither is there.
  std::optional<size_t> TagEnd(size_t at, std::string_view marker, bool trim_newline) const {
    const char sign = CharAt(at);
    if (sign == '-' && LooksAt(marker, at + 1)) {
      size_t end = at + 1 + marker.size();
      while (end < source_.size() && IsSpace(source_[end])) ++end;
      return end;
    }
    if (sign == '+' && trim_newline && LooksAt(marker, at + 1)) return at + 1 + marker.size();
    if (!LooksAt(marker, at)) return std::nullopt;
    const size_t end = at + marker.size();
    return trim_newline && CharAt(end) == '\n' ? end + 1 : end;
  }

  size_t SkipSpace(size_t at) const {
    while (at < source_.size() && IsSpace(source_[at])) ++at;
    return at;
  }

  // One stretch of data and the tag after it.
  absl::Status LexData() {
    size_t begin = at_;
    while (true) {
      begin = source_.find('{', begin);
      if (begin == std::string::npos) {
        AddData(source_.size(), '+', false);
        return absl::OkStatus();
      }
      const char next = CharAt(begin + 1);
      if (next == '%' || next == '{' || next == '#') break;
      ++begin;
    }
    const char kind = source_[begin + 1];
    const char sign = CharAt(begin + 2);
    const bool signed_tag = sign == '-' || sign == '+';
    AddData(begin, sign, kind == '{');
    const size_t inside = begin + (signed_tag ? 3 : 2);
    if (kind == '#') return LexComment(inside);
    if (kind == '%') {
      if (const std::optional<size_t> raw = RawBegin(inside)) return LexRaw(*raw);
    }
    Add(kind == '%' ? Token::kBlockBegin : Token::kPrintBegin, "");
    Advance(inside);
    return LexTag(kind == '%');
  }

  absl::Status LexComment(size_t at) {
    const size_t close = source_.find("#}", at);
    if (close == std::string::npos) return Error("comment without end");
    const char sign = CharAt(close - 1);
    const bool is_signed = close > at && (sign == '-' || sign == '+');
    Advance(*TagEnd(is_signed ? close - 1 : close, "#}", true));
    return absl::OkStatus();
  }

  // Past "raw %}" if that is what stands at `at`; no newline after it is taken.
  std::optional<size_t> RawBegin(size_t at) const {
    at = SkipSpace(at);
    if (!LooksAt("raw", at)) return std::nullopt;
    return TagEnd(SkipSpace(at + 3), "%}", false);
  }

  absl::Status LexRaw(size_t data_begin) {
    Advance(data_begin);
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 2)) {
      const char sign = CharAt(open + 2);
      const size_t name = SkipSpace(open + (sign == '-' || sign == '+' ? 3 : 2));
      if (!LooksAt("endraw", name)) continue;
      const std::optional<size_t> end = TagEnd(SkipSpace(name + 6), "%}", true);
      if (!end.has_value()) continue;
      AddData(open, sign, false);
      Advance(*end);
      return absl::OkStatus();
    }
    return Error("raw block without end");
  }

  absl::Status LexTag(bool is_block) {
    std::string brackets;  // open ones; a tag cannot end inside
    while (true) {
      Advance(SkipSpace(at_));
      if (at_ == source_.size()) return Error("tag without end");
      if (brackets.empty()) {
        if (const std::optional<size_t> end = TagEnd(at_, is_block ? "%}" : "}}", is_block)) {
          Add(is_block ? Token::kBlockEnd : Token::kPrintEnd, "");
          Advance(*end);
          return absl::OkStatus();
        }
      }
      const char c = source_[at_];
      if (IsNameStart(c)) {
        LexName();
      } else if (IsDigit(c)) {
        RETURN_IF_ERROR(LexNumber());
      } else if (c == '\'' || c == '"') {
        RETURN_IF_ERROR(LexString());
      } else {
        RETURN_IF_ERROR(LexOperator(&brackets));
      }
    }
  }

  void LexName() {
    size_t end = at_;
    while (end < source_.size() && IsNamePart(source_[end])) ++end;
    Add(Token::kName, source_.substr(at_, end - at_));
    Advance(end);
  }

  size_t SkipDigits(size_t at) const {
    while (IsDigit(CharAt(at)) || (CharAt(at) == '_' && IsDigit(CharAt(at + 1)))) ++at;
    return at;
  }

  absl::Status LexNumber() {
    size_t end = SkipDigits(at_);
    bool is_float = false;
    if (CharAt(end) == '.' && IsDigit(CharAt(end + 1))) {
      end = SkipDigits(end + 1);
      is_float = true;
    }
    if (CharAt(end) == 'e' || CharAt(end) == 'E') {
      const size_t digits = end + (CharAt(end + 1) == '+' || CharAt(end + 1) == '-' ? 2 : 1);
      if (IsDigit(CharAt(digits))) {
        end = SkipDigits(digits);
        is_float = true;
      }
    }
    if (IsNamePart(CharAt(end))) return Error("malformed number");
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    Add(is_float ? Token::kFloat : Token::kInteger, std::move(text));
    Advance(end);
    return absl::OkStatus();
  }

  // A code point of `digits` hexadecimal digits at `at`.
  absl::Status AppendHex(size_t at, int digits, std::string* out) const {
    char32_t code_point = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = CharAt(at + i);
      if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return Error("malformed escape in string");
      code_point = code_point << 4 | static_cast<char32_t>(IsDigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) {
      return Error("escape in string is no character");
    }
    AppendUtf8(code_point, out);
    return absl::OkStatus();
  }

  // Python's escapes; an unknown one stays as it is written.
  absl::Status AppendEscape(size_t* at, std::string* out) const {
    const char c = CharAt(*at);
    *at += 1;
    constexpr std::string_view kNames = "\\'\"abfnrtv", kBytes = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t simple = kNames.find(c); simple != std::string_view::npos) {
      out->push_back(kBytes[simple]);
    } else if (c == '\n') {
      // The line goes on.
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const int digits = c == 'x' ? 2 : (c == 'u' ? 4 : 8);
      RETURN_IF_ERROR(AppendHex(*at, digits, out));
      *at += digits;
    } else if (c >= '0' && c <= '7') {
      char32_t value = c - '0';
      for (int i = 0; i < 2 && CharAt(*at) >= '0' && CharAt(*at) <= '7'; ++i)
        value = value * 8 + (CharAt((*at)++) - '0');
      AppendUtf8(value, out);
    } else if (c == 'N') {
      return Unimplemented("line {}: escape '\\N' is not supported", line_);
    } else {
      out->push_back('\\');
      out->push_back(c);
    }
    return absl::OkStatus();
  }

  absl::Status LexString() {
    const char quote = source_[at_];
    std::string text;
    size_t at = at_ + 1;
    while (CharAt(at) != quote || at >= source_.size()) {
      if (at >= source_.size()) return Error("string without end");
      if (source_[at] == '\\') {
        ++at;
        if (at == source_.size()) return Error("string without end");
        RETURN_IF_ERROR(AppendEscape(&at, &text));
      } else {
        text.push_back(source_[at++]);
      }
    }
    Add(Token::kString, std::move(text));
    Advance(at + 1);
    return absl::OkStatus();
  }

  absl::Status LexOperator(std::string* brackets) {
    for (const std::string_view two : {"**", "//", "==", "!=", "<=", ">="}) {
      if (!LooksAt(two, at_)) continue;
      Add(Token::kOperator, std::string(two));
      Advance(at_ + 2);
      return absl::OkStatus();
    }
    const char c = source_[at_];
    if (std::string_view("+-*/%~()[]{}<>=.:,|;").find(c) == std::string_view::npos) {
      return InvalidArgument("line {}: unexpected character {:#x}", line_, static_cast<uint8_t>(c));
    }
    if (c == '(' || c == '[' || c == '{') brackets->push_back(c == '(' ? ')' : (c == '[' ? ']' : '}'));
    if (c == ')' || c == ']' || c == '}') {
      if (brackets->empty() || brackets->back() != c)
        return InvalidArgument("line {}: unexpected '{}'", line_, c);
      brackets->pop_back();
    }
    Add(Token::kOperator, std::string(1, c));
    Advance(at_ + 1);
    return absl::OkStatus();
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(const std::string& source) {
  const size_t bad = FindIllFormedUtf8(source);
  if (bad != std::string::npos) return InvalidArgument("not UTF-8 at byte {}", bad);
  return Lexer(source).Run();
}

}  // namespace tandem::text::jinja
