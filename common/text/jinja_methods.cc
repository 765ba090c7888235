// Methods of strings, dicts and the loop; attributes and items of values.
#include <algorithm>

#include "common/base/status.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_strings.h"

namespace tandem::text::jinja {
namespace {

constexpr std::string_view kStringMethods[] = {
    "strip", "lstrip",     "rstrip", "split",   "rsplit", "splitlines", "startswith", "endswith", "upper",
    "lower", "capitalize", "title",  "replace", "join",   "find",       "rfind",      "count"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kListMethods[] = {"count", "index"};
constexpr std::string_view kLoopMethods[] = {"cycle"};

template <size_t n>
bool IsIn(std::string_view name, const std::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// startswith and endswith take one string or a tuple of them.
absl::StatusOr<Value> HasAffix(const Text& text, const Arguments& arguments, bool at_end) {
  RETURN_IF_ERROR(arguments.Check({"affix"}, 1));
  const Value& affix = *arguments.Get(0, "affix");
  RETURN_IF_ERROR(RequireDefined(affix));
  const List one = {affix};
  const List& affixes = affix.list() != nullptr ? *affix.list() : one;
  for (const Value& candidate : affixes) {
    if (candidate.text() == nullptr) {
      return InvalidArgument("{} first arg must be str or a tuple of str, not {}", arguments.function(),
                             TypeName(candidate));
    }
    const std::string_view bytes = text.bytes(), part = candidate.text()->bytes();
    if (at_end ? bytes.ends_with(part) : bytes.starts_with(part)) return Value::Of(true);
  }
  return Value::Of(false);
}

absl::StatusOr<Value> StripMethod(const Text& text, const Arguments& arguments, Side side, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"chars"}));
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  const Value* chars = arguments.Get(0, "chars");
  if (chars == nullptr || chars->IsNone()) return Value::Of(Strip(text, side, std::nullopt));
  ASSIGN_OR_RETURN(const std::string characters, arguments.String(0, "chars", ""));
  RETURN_IF_ERROR(budget.Bytes(text.size() * std::min<size_t>(characters.size() + 1, 4096)));
  return Value::Of(Strip(text, side, characters));
}

absl::StatusOr<Value> SplitMethod(const Text& text, const Arguments& arguments, bool from_right,
                                  Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"sep", "maxsplit"}));
  ASSIGN_OR_RETURN(const int64_t max_splits, arguments.Integer(1, "maxsplit", -1));
  std::optional<std::string> separator;
  if (const Value* given = arguments.Get(0, "sep"); given != nullptr && !given->IsNone()) {
    ASSIGN_OR_RETURN(separator, arguments.String(0, "sep", ""));
  }
  ASSIGN_OR_RETURN(List parts, Split(text, separator, max_splits, from_right, budget));
  return Value::Of(std::move(parts));
}

absl::StatusOr<Value> FindMethod(const Text& text, const Arguments& arguments, bool from_right) {
  RETURN_IF_ERROR(arguments.Check({"sub"}, 1));
  ASSIGN_OR_RETURN(const std::string part, arguments.String(0, "sub", ""));
  const size_t at = from_right ? text.bytes().rfind(part) : text.bytes().find(part);
  if (at == std::string::npos) return Value::Of(int64_t{-1});
  return Value::Of(CountCharacters(std::string_view(text.bytes()).substr(0, at)));
}

absl::StatusOr<Value> CountMethod(const Text& text, const Arguments& arguments) {
  RETURN_IF_ERROR(arguments.Check({"sub"}, 1));
  ASSIGN_OR_RETURN(const std::string part, arguments.String(0, "sub", ""));
  if (part.empty()) return Value::Of(CountCharacters(text.bytes()) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = text.bytes().find(part, at)) != std::string::npos; at += part.size()) ++count;
  return Value::Of(count);
}

absl::StatusOr<Value> ReplaceMethod(const Text& text, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"old", "new", "count"}, 2));
  ASSIGN_OR_RETURN(const std::string from, arguments.String(0, "old", ""));
  ASSIGN_OR_RETURN(const int64_t count, arguments.Integer(2, "count", -1));
  const Value& to = *arguments.Get(1, "new");
  if (to.text() == nullptr) return InvalidArgument("replace() argument 2 must be str, not {}", TypeName(to));
  ASSIGN_OR_RETURN(Text replaced, Replace(text, from, *to.text(), count, budget));
  return Value::Of(std::move(replaced));
}

absl::StatusOr<Value> JoinMethod(const Text& separator, const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"iterable"}, 1));
  ASSIGN_OR_RETURN(const List items, Iterate(*arguments.Get(0, "iterable"), budget));
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].text() == nullptr) {
      return InvalidArgument("sequence item {}: expected str instance, {} found", i, TypeName(items[i]));
    }
  }
  ASSIGN_OR_RETURN(Text joined, JoinTexts(items, separator, budget));
  return Value::Of(std::move(joined));
}

absl::StatusOr<Value> CaseMethod(const Text& text, const Arguments& arguments, Case to) {
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(Text changed, ChangeCase(text, to));
  return Value::Of(std::move(changed));
}

absl::StatusOr<Value> CallStringMethod(const Text& text, const std::string& name, const Arguments& arguments,
                                       Budget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  if (name == "strip") return StripMethod(text, arguments, Side::kBoth, budget);
  if (name == "lstrip") return StripMethod(text, arguments, Side::kLeft, budget);
  if (name == "rstrip") return StripMethod(text, arguments, Side::kRight, budget);
  if (name == "split") return SplitMethod(text, arguments, false, budget);
  if (name == "rsplit") return SplitMethod(text, arguments, true, budget);
  if (name == "startswith") return HasAffix(text, arguments, false);
  if (name == "endswith") return HasAffix(text, arguments, true);
  if (name == "upper") return CaseMethod(text, arguments, Case::kUpper);
  if (name == "lower") return CaseMethod(text, arguments, Case::kLower);
  if (name == "capitalize") return CaseMethod(text, arguments, Case::kCapitalize);
  if (name == "title") return CaseMethod(text, arguments, Case::kTitleMethod);
  if (name == "replace") return ReplaceMethod(text, arguments, budget);
  if (name == "join") return JoinMethod(text, arguments, budget);
  if (name == "find") return FindMethod(text, arguments, false);
  if (name == "rfind") return FindMethod(text, arguments, true);
  if (name == "count") return CountMethod(text, arguments);
  TANDEM_CHECK(name == "splitlines");
  RETURN_IF_ERROR(arguments.Check({}));
  ASSIGN_OR_RETURN(List lines, SplitLines(text, budget));
  return Value::Of(std::move(lines));
}

absl::StatusOr<Value> CallDictMethod(const Dict& dict, const std::string& name, const Arguments& arguments,
                                     Budget& budget) {
  if (name == "get") {
    RETURN_IF_ERROR(arguments.Check({"key", "default"}, 1));
    const Value& key = *arguments.Get(0, "key");
    const Value* found = key.text() == nullptr ? nullptr : dict.Find(key.text()->bytes());
    const Value* absent = arguments.Get(1, "default");
    return found != nullptr ? *found : (absent != nullptr ? *absent : Value::OfNone());
  }
  RETURN_IF_ERROR(arguments.Check({}));
  List list;
  for (const auto& [key, value] : dict.items) {
    RETURN_IF_ERROR(budget.Steps(1));
    if (name == "keys") {
      list.push_back(key);
    } else if (name == "values") {
      list.push_back(value);
    } else {
      ASSIGN_OR_RETURN(Value pair, Value::Of(List{key, value}, /*tuple=*/true));
      list.push_back(std::move(pair));
    }
  }
  return Value::Of(std::move(list));
}

absl::StatusOr<Value> CallListMethod(const List& list, const std::string& name, const Arguments& arguments,
                                     Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"value"}, 1));
  int64_t count = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    ASSIGN_OR_RETURN(const bool same, Equal(list[i], *arguments.Get(0, "value"), budget));
    if (same && name == "index") return Value::Of(static_cast<int64_t>(i));
    count += same;
  }
  if (name == "index") return InvalidArgument("value is not in list");
  return Value::Of(count);
}

Value LoopAttribute(const Loop& loop, const std::string& name) {
  const int64_t index = static_cast<int64_t>(loop.index), length = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value::Of(index + 1);
  if (name == "index0") return Value::Of(index);
  if (name == "revindex") return Value::Of(length - index);
  if (name == "revindex0") return Value::Of(length - index - 1);
  if (name == "first") return Value::Of(index == 0);
  if (name == "last") return Value::Of(index + 1 == length);
  if (name == "length") return Value::Of(length);
  if (name == "depth") return Value::Of(static_cast<int64_t>(loop.depth));
  if (name == "depth0") return Value::Of(static_cast<int64_t>(loop.depth - 1));
  if (name == "previtem") {
    return index > 0 ? loop.items[index - 1] : Value::OfUndefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? loop.items[index + 1] : Value::OfUndefined("there is no next item");
  }
  return Value::OfUndefined(fmt::format("'LoopContext' object has no attribute '{}'", name.substr(0, 60)));
}

Value NoAttribute(const Value& value, const std::string& name) {
  return Value::OfUndefined(
      fmt::format("'{} object' has no attribute '{}'", TypeName(value), name.substr(0, 60)));
}

}  // namespace

bool IsMethod(std::string_view name) {
  return IsIn(name, kStringMethods) || IsIn(name, kDictMethods) || IsIn(name, kListMethods) ||
         IsIn(name, kLoopMethods);
}

bool HasMethod(const Value& receiver, std::string_view name) {
  if (receiver.text() != nullptr) return IsIn(name, kStringMethods);
  if (receiver.dict() != nullptr) return IsIn(name, kDictMethods);
  if (receiver.list() != nullptr) return IsIn(name, kListMethods);
  return receiver.Is<std::shared_ptr<const Loop>>() && IsIn(name, kLoopMethods);
}

absl::StatusOr<Value> CallMethod(const Method& method, const Arguments& arguments, Budget& budget) {
  const Value& receiver = method.receiver;
  if (const Text* text = receiver.text()) return CallStringMethod(*text, method.name, arguments, budget);
  if (const Dict* dict = receiver.dict()) return CallDictMethod(*dict, method.name, arguments, budget);
  if (const List* list = receiver.list()) return CallListMethod(*list, method.name, arguments, budget);
  const auto& loop = std::get<std::shared_ptr<const Loop>>(receiver.data);
  if (arguments.positional().empty()) return InvalidArgument("no items for cycling given");
  return arguments.positional()[loop->index % arguments.positional().size()];
}

absl::StatusOr<Value> GetAttribute(const Value& value, const std::string& name) {
  RETURN_IF_ERROR(RequireDefined(value));
  if (HasMethod(value, name)) return Value{std::make_shared<const Method>(Method{value, name})};
  if (const Dict* dict = value.dict()) {
    const Value* found = dict->Find(name);
    if (found != nullptr) return *found;
  }
  if (const auto* space = std::get_if<std::shared_ptr<Namespace>>(&value.data)) {
    const auto found = (*space)->attributes.find(name);
    if (found != (*space)->attributes.end()) return found->second;
  }
  if (const auto* loop = std::get_if<std::shared_ptr<const Loop>>(&value.data))
    return LoopAttribute(**loop, name);
  return NoAttribute(value, name);
}

absl::StatusOr<Value> GetItem(const Value& value, const Value& key, Budget& budget) {
  RETURN_IF_ERROR(RequireDefined(value));
  RETURN_IF_ERROR(RequireDefined(key));
  if (const Text* name = key.text()) {
    if (const Dict* dict = value.dict()) {
      const Value* found = dict->Find(name->bytes());
      if (found != nullptr) return *found;
    }
    return GetAttribute(value, name->bytes());
  }
  const std::optional<int64_t> given = key.integer();
  if (!given.has_value())
    return Value::OfUndefined(fmt::format("'{} object' has no such element", TypeName(value)));
  const auto missing = [&] {
    return Value::OfUndefined(fmt::format("'{} object' has no element {}", TypeName(value), *given));
  };
  if (const List* list = value.list()) {
    const int64_t size = static_cast<int64_t>(list->size());
    const int64_t index = *given < 0 ? *given + size : *given;
    return index >= 0 && index < size ? (*list)[index] : missing();
  }
  if (const Text* text = value.text()) {
    RETURN_IF_ERROR(budget.Bytes(text->size() * 8));
    const std::vector<size_t> offsets = CharacterOffsets(text->bytes());
    const int64_t size = static_cast<int64_t>(offsets.size()) - 1;
    const int64_t index = *given < 0 ? *given + size : *given;
    if (index < 0 || index >= size) return missing();
    return Value::Of(text->Part(offsets[index], offsets[index + 1]));
  }
  return missing();
}

absl::StatusOr<Value> Contains(const Value& container, const Value& element, Budget& budget) {
  if (container.IsUndefined()) return Value::Of(false);
  if (const Text* text = container.text()) {
    RETURN_IF_ERROR(RequireDefined(element));
    if (element.text() == nullptr) {
      return InvalidArgument("'in <string>' requires string as left operand, not {}", TypeName(element));
    }
    RETURN_IF_ERROR(budget.Bytes(text->size()));
    return Value::Of(text->bytes().find(element.text()->bytes()) != std::string::npos);
  }
  if (const Dict* dict = container.dict()) {
    return Value::Of(element.text() != nullptr && dict->Find(element.text()->bytes()) != nullptr);
  }
  if (const List* list = container.list()) {
    for (const Value& candidate : *list) {
      ASSIGN_OR_RETURN(const bool same, Equal(candidate, element, budget));
      if (same) return Value::Of(true);
    }
    return Value::Of(false);
  }
  return InvalidArgument("argument of type '{}' is not iterable", TypeName(container));
}

}  // namespace tandem::text::jinja
