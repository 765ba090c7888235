// Filters: what may stand after `|`.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_print.h"
#include "common/text/jinja_strings.h"

namespace tandem::text::jinja {
namespace {

using Filter = absl::StatusOr<Value> (*)(const Value& value, const Arguments& arguments, Budget& budget);

absl::StatusOr<Value> CaseFilter(const Value& value, const Arguments& arguments, Budget& budget, Case to) {
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(const Text text, Print(value, budget));
  ASSIGN_OR_RETURN(Text changed, ChangeCase(text, to));
  return Value::Of(std::move(changed));
}
template <Case to>
absl::StatusOr<Value> CaseFilterOf(const Value& value, const Arguments& arguments, Budget& budget) {
  return CaseFilter(value, arguments, budget, to);
}

absl::StatusOr<Value> Trim(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"chars"}));
  ASSIGN_OR_RETURN(const Text text, Print(value, budget));
  const Value* chars = arguments.Get(0, "chars");
  if (chars == nullptr || chars->IsNone()) return Value::Of(Strip(text, Side::kBoth, std::nullopt));
  ASSIGN_OR_RETURN(const std::string characters, arguments.String(0, "chars", ""));
  RETURN_IF_ERROR(budget.Bytes(text.size() * std::min<size_t>(characters.size() + 1, 4096)));
  return Value::Of(Strip(text, Side::kBoth, characters));
}

absl::StatusOr<Value> Length(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({}));
  if (const Text* text = value.text()) {
    RETURN_IF_ERROR(budget.Bytes(text->size()));
    return Value::Of(CountCharacters(text->bytes()));
  }
  if (const List* list = value.list()) return Value::Of(static_cast<int64_t>(list->size()));
  if (const Dict* dict = value.dict()) return Value::Of(static_cast<int64_t>(dict->items.size()));
  if (value.IsUndefined()) return Value::Of(int64_t{0});
  return InvalidArgument("object of type '{}' has no len()", TypeName(value));
}

absl::StatusOr<Value> ToJson(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"ensure_ascii", "indent", "separators", "sort_keys"}));
  // Jinja's own tojson has `indent` first; a number there can only mean that.
  const Value* first = arguments.positional().empty() ? nullptr : &arguments.positional()[0];
  if (first != nullptr && !first->Is<bool>())
    return Unimplemented("tojson with arguments by place is not supported");
  JsonStyle style;
  style.ensure_ascii = arguments.Flag(0, "ensure_ascii", false);
  style.sort_keys = arguments.Flag(3, "sort_keys", false);
  ASSIGN_OR_RETURN(const int64_t indent, arguments.Integer(1, "indent", -1));
  if (indent > 16) return InvalidArgument("tojson: indent {} is more than 16", indent);
  style.indent = indent < 0 ? -1 : static_cast<int>(indent);
  if (style.indent >= 0) style.item_separator = std::string(1, ',');
  if (const Value* separators = arguments.Get(2, "separators");
      separators != nullptr && !separators->IsNone()) {
    const List* pair = separators->list();
    if (pair == nullptr || pair->size() != 2 || (*pair)[0].text() == nullptr ||
        (*pair)[1].text() == nullptr) {
      return InvalidArgument("tojson: separators must be two strings");
    }
    style.item_separator = (*pair)[0].text()->bytes();
    style.key_separator = (*pair)[1].text()->bytes();
  }
  ASSIGN_OR_RETURN(Text json, PrintJson(value, style, budget));
  return Value::Of(std::move(json));
}

// `a.b.0` of `value`, as attribute arguments write it; an integer is an index.
absl::StatusOr<Value> AttributePath(const Value& value, const Value& path, Budget& budget) {
  if (path.text() == nullptr) return GetItem(value, path, budget);
  ASSIGN_OR_RETURN(const List parts, Split(*path.text(), ".", -1, false, budget));
  Value current = value;
  for (const Value& part : parts) {
    const std::string& name = part.text()->bytes();
    int64_t index = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool is_index = error == std::errc() && end == name.data() + name.size();
    ASSIGN_OR_RETURN(current, GetItem(current, is_index ? Value::Of(index) : part, budget));
  }
  return current;
}

absl::StatusOr<Value> Join(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"d", "attribute"}));
  ASSIGN_OR_RETURN(List items, Iterate(value, budget));
  if (const Value* attribute = arguments.Get(1, "attribute"); attribute != nullptr && !attribute->IsNone()) {
    for (Value& item : items) {
      ASSIGN_OR_RETURN(item, AttributePath(item, *attribute, budget));
    }
  }
  const Value* given = arguments.Get(0, "d");
  Text separator;
  if (given != nullptr) {
    ASSIGN_OR_RETURN(separator, Print(*given, budget));
  }
  ASSIGN_OR_RETURN(Text joined, JoinTexts(items, separator, budget));
  return Value::Of(std::move(joined));
}

absl::StatusOr<Value> Default(const Value& value, const Arguments& arguments, Budget&) {
  RETURN_IF_ERROR(arguments.Check({"default_value", "boolean"}));
  const bool replace = value.IsUndefined() || (arguments.Flag(1, "boolean", false) && !IsTrue(value));
  if (!replace) return value;
  const Value* given = arguments.Get(0, "default_value");
  return given == nullptr ? Value::Of(Text()) : *given;
}

absl::StatusOr<Value> FirstOrLast(const Value& value, const Arguments& arguments, Budget& budget,
                                  bool first) {
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  if (items.empty()) return Value::OfUndefined("No first or last item, sequence was empty.");
  return first ? items.front() : items.back();
}
absl::StatusOr<Value> First(const Value& value, const Arguments& arguments, Budget& budget) {
  return FirstOrLast(value, arguments, budget, true);
}
absl::StatusOr<Value> Last(const Value& value, const Arguments& arguments, Budget& budget) {
  return FirstOrLast(value, arguments, budget, false);
}

absl::StatusOr<Value> ToList(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(List items, Iterate(value, budget));
  return Value::Of(std::move(items));
}

absl::StatusOr<Value> ToString(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(Text text, Print(value, budget));
  return Value::Of(std::move(text));
}

absl::StatusOr<Value> Same(const Value& value, const Arguments& arguments, Budget&) {
  RETURN_IF_ERROR(arguments.Check({}));
  return value;
}

// The number that a string or number means, if any.
std::optional<double> ParseNumber(const Value& value) {
  if (const auto number = value.number()) return number;
  if (value.text() == nullptr) return std::nullopt;
  const Text stripped = Strip(*value.text(), Side::kBoth, std::nullopt);
  double parsed = 0;
  const std::string& bytes = stripped.bytes();
  const auto [end, error] = std::from_chars(bytes.data(), bytes.data() + bytes.size(), parsed);
  if (error != std::errc() || end != bytes.data() + bytes.size()) return std::nullopt;
  return parsed;
}

bool IsTrusted(const Value& value) {
  if (value.text() == nullptr) return value.trusted;
  const std::vector<Span> spans = value.text()->Spans();
  return std::all_of(spans.begin(), spans.end(), [](const Span& span) { return span.trusted; });
}

absl::StatusOr<Value> ToInt(const Value& value, const Arguments& arguments, Budget&) {
  RETURN_IF_ERROR(arguments.Check({"default"}));
  RETURN_IF_ERROR(RequireDefined(value));
  const Value* absent = arguments.Get(0, "default");
  Value result = absent == nullptr ? Value::Of(int64_t{0}) : *absent;
  if (const auto integer = value.integer()) {
    result = Value::Of(*integer);
  } else if (const Text* text = value.text()) {
    const Text stripped = Strip(*text, Side::kBoth, std::nullopt);
    int64_t parsed = 0;
    const std::string& bytes = stripped.bytes();
    const auto [end, error] = std::from_chars(bytes.data(), bytes.data() + bytes.size(), parsed);
    if (error == std::errc() && end == bytes.data() + bytes.size()) {
      result = Value::Of(parsed);
      result.trusted = IsTrusted(value);
      return result;
    }
  }
  if (const auto number = ParseNumber(value); number && !value.integer() && std::abs(*number) < 9e18) {
    result = Value::Of(static_cast<int64_t>(*number));
  }
  if (!IsTrusted(value)) result.trusted = false;
  return result;
}

absl::StatusOr<Value> ToFloat(const Value& value, const Arguments& arguments, Budget&) {
  RETURN_IF_ERROR(arguments.Check({"default"}));
  RETURN_IF_ERROR(RequireDefined(value));
  const Value* absent = arguments.Get(0, "default");
  Value result = absent == nullptr ? Value::Of(0.0) : *absent;
  if (const auto number = ParseNumber(value)) result = Value::Of(*number);
  if (!IsTrusted(value)) result.trusted = false;
  return result;
}

absl::StatusOr<Value> Abs(const Value& value, const Arguments& arguments, Budget&) {
  RETURN_IF_ERROR(arguments.Check({}));
  Value result = value;
  if (const auto integer = value.integer(); integer && *integer != INT64_MIN) {
    result.data = std::abs(*integer);
  } else if (value.Is<double>()) {
    result.data = std::abs(std::get<double>(value.data));
  } else {
    return InvalidArgument("bad operand type for abs(): '{}'", TypeName(value));
  }
  return result;
}

absl::StatusOr<Value> ReplaceFilter(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"old", "new", "count"}, 2));
  ASSIGN_OR_RETURN(const Text text, Print(value, budget));
  ASSIGN_OR_RETURN(const Text from, Print(*arguments.Get(0, "old"), budget));
  ASSIGN_OR_RETURN(const Text to, Print(*arguments.Get(1, "new"), budget));
  ASSIGN_OR_RETURN(const int64_t count, arguments.Integer(2, "count", -1));
  ASSIGN_OR_RETURN(Text replaced, Replace(text, from.bytes(), to, count, budget));
  return Value::Of(std::move(replaced));
}

absl::StatusOr<Value> Items(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({}));
  if (value.IsUndefined()) return Value::Of(List());
  if (value.dict() == nullptr) return InvalidArgument("Can only get item pairs from a mapping.");
  return CallMethod(Method{value, "items"}, Arguments("items", {}), budget);
}

absl::StatusOr<Value> Reverse(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(List items, Iterate(value, budget));
  std::reverse(items.begin(), items.end());
  if (value.text() == nullptr) return Value::Of(std::move(items));
  ASSIGN_OR_RETURN(Text reversed, JoinTexts(items, Text(), budget));
  return Value::Of(std::move(reversed));
}

absl::StatusOr<Value> Indent(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"width", "first", "blank"}));
  if (value.text() == nullptr) return InvalidArgument("indent: a {} is no text", TypeName(value));
  ASSIGN_OR_RETURN(const Text text, Print(value, budget));
  Text indention;
  const Value* width = arguments.Get(0, "width");
  if (width != nullptr && width->text() != nullptr) {
    indention = *width->text();
  } else {
    ASSIGN_OR_RETURN(const int64_t n, arguments.Integer(0, "width", 4));
    RETURN_IF_ERROR(budget.StringSize(static_cast<size_t>(std::max<int64_t>(n, 0))));
    indention = Text(std::string(static_cast<size_t>(std::max<int64_t>(n, 0)), ' '), true);
  }
  const bool first = arguments.Flag(1, "first", false), blank = arguments.Flag(2, "blank", false);
  ASSIGN_OR_RETURN(const List lines, Split(text, "\n", -1, false, budget));
  TextBuilder out(budget);
  for (size_t i = 0; i < lines.size(); ++i) {
    const Text& line = *lines[i].text();
    if (i > 0) RETURN_IF_ERROR(out.Append("\n", true));
    if ((i > 0 || first) && (!line.empty() || blank || i == 0)) RETURN_IF_ERROR(out.Append(indention));
    RETURN_IF_ERROR(out.Append(line));
  }
  return Value::Of(out.Take());
}

// What sorting and finding equals go by: strings without their case unless asked for.
absl::StatusOr<Value> SortKey(const Value& item, const Value* attribute, bool case_sensitive,
                              Budget& budget) {
  Value key = item;
  if (attribute != nullptr && !attribute->IsNone()) {
    ASSIGN_OR_RETURN(key, AttributePath(item, *attribute, budget));
  }
  if (key.text() != nullptr && !case_sensitive) {
    ASSIGN_OR_RETURN(Text lower, ChangeCase(*key.text(), Case::kLower));
    key = Value::Of(std::move(lower));
  }
  return key;
}

absl::StatusOr<Value> SortItems(List items, std::vector<Value> keys, bool reverse, Budget& budget) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  absl::Status failure;
  // Once something failed every pair counts as equal, which ends the sort soon and is still an order.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!failure.ok()) return false;
    const absl::StatusOr<int> compared = Compare(keys[a], keys[b], budget);
    if (!compared.ok()) failure = compared.status();
    return compared.ok() && (reverse ? *compared > 0 : *compared < 0);
  });
  RETURN_IF_ERROR(failure);
  List sorted;
  for (const size_t i : order) sorted.push_back(items[i]);
  return Value::Of(std::move(sorted));
}

absl::StatusOr<Value> Sort(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"reverse", "case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(List items, Iterate(value, budget));
  std::vector<Value> keys;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, SortKey(item, arguments.Get(2, "attribute"),
                                        arguments.Flag(1, "case_sensitive", false), budget));
    keys.push_back(std::move(key));
  }
  return SortItems(std::move(items), std::move(keys), arguments.Flag(0, "reverse", false), budget);
}

absl::StatusOr<Value> DictSort(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"case_sensitive", "by", "reverse"}));
  RETURN_IF_ERROR(RequireDefined(value));
  ASSIGN_OR_RETURN(const std::string by, arguments.String(1, "by", "key"));
  if (by != "key" && by != "value")
    return InvalidArgument("You can only sort by either \"key\" or \"value\"");
  ASSIGN_OR_RETURN(const Value pairs, Items(value, Arguments("dictsort", {}), budget));
  std::vector<Value> keys;
  const Value place = Value::Of(int64_t{by == "key" ? 0 : 1});
  for (const Value& pair : *pairs.list()) {
    ASSIGN_OR_RETURN(Value key, SortKey(pair, &place, arguments.Flag(0, "case_sensitive", false), budget));
    keys.push_back(std::move(key));
  }
  return SortItems(*pairs.list(), std::move(keys), arguments.Flag(2, "reverse", false), budget);
}

absl::StatusOr<Value> Unique(const Value& value, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  List kept;
  std::vector<Value> keys;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, SortKey(item, arguments.Get(1, "attribute"),
                                        arguments.Flag(0, "case_sensitive", false), budget));
    bool known = false;
    for (size_t i = 0; i < keys.size() && !known; ++i) {
      ASSIGN_OR_RETURN(known, Equal(keys[i], key, budget));
    }
    if (known) continue;
    kept.push_back(item);
    keys.push_back(std::move(key));
  }
  return Value::Of(std::move(kept));
}

absl::StatusOr<Value> Map(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(List items, Iterate(value, budget));
  if (arguments.positional().empty()) {
    RETURN_IF_ERROR(arguments.Check({"attribute", "default"}, 1));
    const Value* absent = arguments.Get(1, "default");
    for (Value& item : items) {
      ASSIGN_OR_RETURN(item, AttributePath(item, *arguments.Get(0, "attribute"), budget));
      if (item.IsUndefined() && absent != nullptr) item = *absent;
    }
  } else {
    ASSIGN_OR_RETURN(const std::string name, arguments.String(0, "filter", ""));
    if (!IsFilter(name)) return Unimplemented("filter '{}' is not supported", name.substr(0, 60));
    const Arguments rest = arguments.Rest(name, 1);
    for (Value& item : items) {
      ASSIGN_OR_RETURN(item, ApplyFilter(name, item, rest, budget));
    }
  }
  return Value::Of(std::move(items));
}

// select, reject, selectattr and rejectattr: items of which a test (by default their truth) has the wanted
// outcome.
absl::StatusOr<Value> Choose(const Value& value, const Arguments& arguments, Budget& budget,
                             bool by_attribute, bool wanted) {
  ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  const size_t test_place = by_attribute ? 1 : 0;
  if (by_attribute && arguments.positional().empty()) {
    return InvalidArgument("{}() needs an attribute", arguments.function());
  }
  std::string test;
  if (arguments.positional().size() > test_place) {
    ASSIGN_OR_RETURN(test, arguments.String(test_place, "test", ""));
    if (test == "==") test = "eq";
    if (test == "!=") test = "ne";
    if (!IsTest(test)) return Unimplemented("test '{}' is not supported", test.substr(0, 60));
  }
  const Arguments rest = arguments.Rest(test, test_place + 1);
  List chosen;
  for (const Value& item : items) {
    RETURN_IF_ERROR(budget.Steps(1));
    Value subject = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(subject, AttributePath(item, arguments.positional()[0], budget));
    }
    bool outcome = IsTrue(subject);
    if (!test.empty()) {
      ASSIGN_OR_RETURN(outcome, ApplyTest(test, subject, rest, budget));
    }
    if (outcome == wanted) chosen.push_back(item);
  }
  return Value::Of(std::move(chosen));
}
template <bool by_attribute, bool wanted>
absl::StatusOr<Value> ChooseBy(const Value& value, const Arguments& arguments, Budget& budget) {
  return Choose(value, arguments, budget, by_attribute, wanted);
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};
constexpr NamedFilter kFilters[] = {
    {"abs", Abs},
    {"capitalize", CaseFilterOf<Case::kCapitalize>},
    {"count", Length},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"first", First},
    {"float", ToFloat},
    {"indent", Indent},
    {"int", ToInt},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", Length},
    {"list", ToList},
    {"lower", CaseFilterOf<Case::kLower>},
    {"map", Map},
    {"reject", ChooseBy<false, false>},
    {"rejectattr", ChooseBy<true, false>},
    {"replace", ReplaceFilter},
    {"reverse", Reverse},
    {"safe", Same},
    {"select", ChooseBy<false, true>},
    {"selectattr", ChooseBy<true, true>},
    {"sort", Sort},
    {"string", ToString},
    {"title", CaseFilterOf<Case::kTitleFilter>},
    {"tojson", ToJson},
    {"trim", Trim},
    {"unique", Unique},
    {"upper", CaseFilterOf<Case::kUpper>},
};

const NamedFilter* FindFilter(std::string_view name) {
  const auto found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                  [&](const NamedFilter& f) { return f.name == name; });
  return found == std::end(kFilters) ? nullptr : found;
}

}  // namespace

bool IsFilter(std::string_view name) { return FindFilter(name) != nullptr; }

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments,
                                  Budget& budget) {
  RETURN_IF_ERROR(budget.Steps(1));
  const NamedFilter* filter = FindFilter(name);
  TANDEM_CHECK(filter != nullptr);
  return filter->filter(value, arguments, budget);
}

}  // namespace tandem::text::jinja
