#include "common/base/option_file.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "common/base/status.h"

namespace tandem {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<OptionFileEntry>> Run() {
    std::vector<OptionFileEntry> entries;
    for (SkipBlank(true); !AtEnd(); SkipBlank(true)) {
      ASSIGN_OR_RETURN(OptionFileEntry entry, Entry());
      const bool repeated = std::any_of(entries.begin(), entries.end(),
                                        [&](const OptionFileEntry& e) { return e.name == entry.name; });
      if (repeated) return Error("'{}' comes twice", entry.name);
      entries.push_back(std::move(entry));
    }
    return entries;
  }

 private:
  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("line {}: {}", line_, fmt::format(format, std::forward<Args>(args)...));
  }
  bool AtEnd() const { return at_ == text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }
  bool Take(char c) {
    if (AtEnd() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  // Skips spaces and comments, and with `lines` also line ends.
  void SkipBlank(bool lines) {
    while (!AtEnd()) {
      const char c = text_[at_];
      if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (c == ' ' || c == '\t' || c == '\r') {
        ++at_;
      } else if (c == '\n' && lines) {
        ++line_, ++at_;
      } else {
        return;
      }
    }
  }
  std::string_view Word(std::string_view extra) {
    const size_t begin = at_;
    while (!AtEnd() && (absl::ascii_isalnum(static_cast<unsigned char>(text_[at_])) ||
                        extra.find(text_[at_]) != std::string_view::npos)) {
      ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }

  absl::StatusOr<OptionFileEntry> Entry() {
    OptionFileEntry entry;
    entry.line = line_;
    if (Peek() == '[') return Error("tables are not supported, write name = value");
    entry.name = std::string(Word("-_"));
    std::replace(entry.name.begin(), entry.name.end(), '_', '-');
    if (entry.name.empty()) return Error("expected a name");
    SkipBlank(false);
    if (!Take('=')) return Error("expected = after '{}'", entry.name);
    SkipBlank(false);
    if (Take('[')) {
      entry.is_array = true;
      RETURN_IF_ERROR(Array(entry.values));
    } else {
      ASSIGN_OR_RETURN(std::string value, Scalar());
      entry.values.push_back(std::move(value));
    }
    SkipBlank(false);
    if (!AtEnd() && Peek() != '\n') return Error("unexpected text after the value of '{}'", entry.name);
    return entry;
  }

  absl::Status Array(std::vector<std::string>& values) {
    for (SkipBlank(true); !Take(']'); SkipBlank(true)) {
      ASSIGN_OR_RETURN(std::string value, Scalar());
      values.push_back(std::move(value));
      SkipBlank(true);
      if (!Take(',') && Peek() != ']') return Error("expected , or ] in the array");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Scalar() {
    if (Take('"')) return BasicString();
    if (Take('\'')) return LiteralString();
    std::string word(Word("+-._"));
    if (word.empty()) return Error("expected a value");
    if (word == "true" || word == "false") return word;
    const bool number = word.find_first_not_of("0123456789+-._eE") == std::string::npos &&
                        word.find_first_of("0123456789") != std::string::npos;
    if (!number) return Error("'{}' is no number or boolean; strings need quotes", word);
    std::erase(word, '_');
    if (word.front() == '+') word.erase(0, 1);
    return word;
  }

  absl::StatusOr<std::string> LiteralString() {
    const size_t end = text_.find_first_of("'\n", at_);
    if (end == std::string_view::npos || text_[end] == '\n') return Error("the string has no end");
    std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }

  absl::StatusOr<std::string> BasicString() {
    std::string value;
    while (!Take('"')) {
      if (AtEnd() || Peek() == '\n') return Error("the string has no end");
      const char c = text_[at_++];
      if (c != '\\') {
        value.push_back(c);
        continue;
      }
      constexpr std::string_view kNames = "btnfr\"\\", kValues = "\b\t\n\f\r\"\\";
      const char escape = Peek();
      if (const size_t i = kNames.find(escape); i != std::string_view::npos && !AtEnd()) {
        value.push_back(kValues[i]);
        ++at_;
      } else if (Take('u')) {
        RETURN_IF_ERROR(UnicodeEscape(value));
      } else {
        return Error("unknown escape in a string");
      }
    }
    return value;
  }

  // Four hex digits, as UTF-8.
  absl::Status UnicodeEscape(std::string& out) {
    const std::string_view digits = text_.substr(at_, 4);
    if (digits.size() != 4 ||
        !std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); })) {
      return Error("\\u needs four hex digits");
    }
    at_ += 4;
    const unsigned code = static_cast<unsigned>(std::stoul(std::string(digits), nullptr, 16));
    if (code == 0 || (code >= 0xd800 && code < 0xe000)) return Error("\\u{} is no character", digits);
    if (code < 0x80) {
      out.push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      out.push_back(static_cast<char>(0xc0 | code >> 6));
      out.push_back(static_cast<char>(0x80 | (code & 0x3f)));
    } else {
      out.push_back(static_cast<char>(0xe0 | code >> 12));
      out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
      out.push_back(static_cast<char>(0x80 | (code & 0x3f)));
    }
    return absl::OkStatus();
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

absl::StatusOr<std::vector<OptionFileEntry>> ParseOptionFile(std::string_view text) {
  return Parser(text).Run();
}

}  // namespace tandem
