#include "common/text/jinja_print.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "common/text/utf8.h"

namespace tandem::text::jinja {
namespace {

// As Python's repr: the shortest digits that read back, with a point or an exponent.
std::string PrintFloat(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

// A number or None, or nothing for other kinds.
std::optional<std::string> PrintScalar(const Value& value) {
  if (value.IsNone()) return "None";
  if (const auto* boolean = std::get_if<bool>(&value.data)) return *boolean ? "True" : "False";
  if (const auto* integer = std::get_if<int64_t>(&value.data)) return fmt::format("{}", *integer);
  if (const auto* large = std::get_if<uint64_t>(&value.data)) return fmt::format("{}", *large);
  if (const auto* real = std::get_if<double>(&value.data)) return PrintFloat(*real);
  return std::nullopt;
}

// Copies `text`, each character replaced by escape(code point) unless that is empty.
template <typename Escape>
absl::Status AppendEscaped(const Text& text, Budget& budget, TextBuilder* out, const Escape& escape) {
  RETURN_IF_ERROR(budget.Bytes(text.size() * 8));  // looking at each character costs more than copying it
  size_t copied = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(std::string_view(text.bytes()).substr(at));
    if (const std::string escaped = escape(step.code_point); !escaped.empty()) {
      RETURN_IF_ERROR(out->AppendPart(text, copied, at));
      RETURN_IF_ERROR(out->Append(escaped, false));
      copied = at + step.length;
    }
    at += step.length;
  }
  return out->AppendPart(text, copied, text.size());
}

absl::Status AppendRepr(const Value& value, Budget& budget, TextBuilder* out);

absl::Status AppendStringRepr(const Text& text, Budget& budget, TextBuilder* out) {
  const bool has_single = text.bytes().find('\'') != std::string::npos;
  const char quote = has_single && text.bytes().find('"') == std::string::npos ? '"' : '\'';
  RETURN_IF_ERROR(out->Append(std::string(1, quote), true));
  RETURN_IF_ERROR(AppendEscaped(text, budget, out, [&](char32_t c) -> std::string {
    if (c == '\n') return "\\n";
    if (c == '\r') return "\\r";
    if (c == '\t') return "\\t";
    if (c == '\\') return "\\\\";
    if (c == static_cast<char32_t>(quote)) return std::string("\\") + quote;
    if (c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad)
      return fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    return "";
  }));
  return out->Append(std::string(1, quote), true);
}

absl::Status AppendRepr(const Value& value, Budget& budget, TextBuilder* out) {
  RETURN_IF_ERROR(budget.Steps(1));
  if (const auto scalar = PrintScalar(value)) return out->Append(*scalar, value.trusted);
  if (const Text* text = value.text()) return AppendStringRepr(*text, budget, out);
  const char* separator = "";
  if (const List* list = value.list()) {
    RETURN_IF_ERROR(out->Append(value.tuple ? "(" : "[", true));
    for (const Value& element : *list) {
      RETURN_IF_ERROR(out->Append(separator, true));
      RETURN_IF_ERROR(AppendRepr(element, budget, out));
      separator = ", ";
    }
    if (!value.tuple) return out->Append("]", true);
    return out->Append(list->size() == 1 ? ",)" : ")", true);
  }
  if (const Dict* dict = value.dict()) {
    RETURN_IF_ERROR(out->Append("{", true));
    for (const auto& [key, element] : dict->items) {
      RETURN_IF_ERROR(out->Append(separator, true));
      RETURN_IF_ERROR(AppendRepr(key, budget, out));
      RETURN_IF_ERROR(out->Append(": ", true));
      RETURN_IF_ERROR(AppendRepr(element, budget, out));
      separator = ", ";
    }
    return out->Append("}", true);
  }
  if (value.IsUndefined()) return out->Append("Undefined", true);
  return Unimplemented("printing a {} is not supported", TypeName(value));
}

class JsonPrinter {
 public:
  JsonPrinter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget), out_(budget) {}

  absl::Status Append(const Value& value, int level) {
    RETURN_IF_ERROR(budget_.Steps(1));
    RETURN_IF_ERROR(RequireDefined(value));
    if (value.IsNone()) return out_.Append("null", value.trusted);
    if (const auto* boolean = std::get_if<bool>(&value.data)) {
      return out_.Append(*boolean ? "true" : "false", value.trusted);
    }
    if (const auto* real = std::get_if<double>(&value.data); real != nullptr && !std::isfinite(*real)) {
      return out_.Append(std::isnan(*real) ? "NaN" : (*real > 0 ? "Infinity" : "-Infinity"), value.trusted);
    }
    if (const auto scalar = PrintScalar(value)) return out_.Append(*scalar, value.trusted);
    if (const Text* text = value.text()) return AppendString(*text);
    if (const List* list = value.list()) return AppendList(*list, level);
    if (const Dict* dict = value.dict()) return AppendDict(*dict, level);
    return InvalidArgument("Object of type {} is not JSON serializable", TypeName(value));
  }
  Text Take() { return out_.Take(); }

 private:
  absl::Status AppendString(const Text& text) {
    RETURN_IF_ERROR(out_.Append("\"", true));
    RETURN_IF_ERROR(AppendEscaped(text, budget_, &out_, [&](char32_t c) -> std::string {
      switch (c) {
        case '"':
          return "\\\"";
        case '\\':
          return "\\\\";
        case '\n':
          return "\\n";
        case '\r':
          return "\\r";
        case '\t':
          return "\\t";
        case '\b':
          return "\\b";
        case '\f':
          return "\\f";
        default:
          break;
      }
      const uint32_t code = c;
      if (code < 0x20) return fmt::format("\\u{:04x}", code);
      if (!style_.ensure_ascii || code < 0x80) return "";
      if (code < 0x10000) return fmt::format("\\u{:04x}", code);
      return fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((code - 0x10000) >> 10),
                         0xDC00 + ((code - 0x10000) & 0x3FF));
    }));
    return out_.Append("\"", true);
  }

  absl::Status Break(int level) {
    if (style_.indent < 0) return absl::OkStatus();
    std::string line(1 + static_cast<size_t>(style_.indent) * level, ' ');
    line[0] = '\n';
    return out_.Append(line, true);
  }

  absl::Status AppendList(const List& list, int level) {
    if (list.empty()) return out_.Append("[]", true);
    RETURN_IF_ERROR(out_.Append("[", true));
    for (size_t i = 0; i < list.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(out_.Append(style_.item_separator, true));
      RETURN_IF_ERROR(Break(level + 1));
      RETURN_IF_ERROR(Append(list[i], level + 1));
    }
    RETURN_IF_ERROR(Break(level));
    return out_.Append("]", true);
  }

  absl::Status AppendDict(const Dict& dict, int level) {
    if (dict.items.empty()) return out_.Append("{}", true);
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      std::sort(items.begin(), items.end(), [](const auto* a, const auto* b) {
        return a->first.text()->bytes() < b->first.text()->bytes();
      });
    }
    RETURN_IF_ERROR(out_.Append("{", true));
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(out_.Append(style_.item_separator, true));
      RETURN_IF_ERROR(Break(level + 1));
      RETURN_IF_ERROR(AppendString(*items[i]->first.text()));
      RETURN_IF_ERROR(out_.Append(style_.key_separator, true));
      RETURN_IF_ERROR(Append(items[i]->second, level + 1));
    }
    RETURN_IF_ERROR(Break(level));
    return out_.Append("}", true);
  }

  const JsonStyle& style_;
  Budget& budget_;
  TextBuilder out_;
};

}  // namespace

absl::StatusOr<Text> Print(const Value& value, Budget& budget) {
  if (const Text* text = value.text()) return *text;
  TextBuilder out(budget);
  if (!value.IsUndefined()) RETURN_IF_ERROR(AppendRepr(value, budget, &out));
  return out.Take();
}

absl::StatusOr<Text> PrintJson(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonPrinter printer(style, budget);
  RETURN_IF_ERROR(printer.Append(value, 0));
  return printer.Take();
}

}  // namespace tandem::text::jinja
