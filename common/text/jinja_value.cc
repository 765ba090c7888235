#include "common/text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "common/text/utf8.h"
#include "nlohmann/json.hpp"

namespace tandem::text::jinja {
namespace {

constexpr int kMaxContainerDepth = 64;

absl::StatusOr<int> DepthAround(int deepest, const Value& element) {
  if (element.Is<std::shared_ptr<Namespace>>() || element.Is<std::shared_ptr<const Loop>>() ||
      element.Is<const MacroNode*>() || element.Is<std::shared_ptr<const Method>>()) {
    return Unimplemented("a {} inside a list, dict or namespace is not supported", TypeName(element));
  }
  const int depth = std::max(deepest, element.depth + 1);
  if (depth > kMaxContainerDepth)
    return ResourceExhausted("values nested deeper than {}", kMaxContainerDepth);
  return depth;
}

absl::StatusOr<Value> FromInput(const nlohmann::ordered_json& json, int levels_left) {
  if (levels_left == 0) return InvalidArgument("input nested deeper than {}", kMaxContainerDepth);
  Value value = Value::OfNone();
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      for (const auto& [key, member] : json.items()) {
        ASSIGN_OR_RETURN(Value converted, FromInput(member, levels_left - 1));
        dict.Set(Value::Of(key, false), std::move(converted));
      }
      return Value::Of(std::move(dict));
    }
    case nlohmann::ordered_json::value_t::array: {
      List list;
      for (const auto& element : json) {
        ASSIGN_OR_RETURN(Value converted, FromInput(element, levels_left - 1));
        list.push_back(std::move(converted));
      }
      return Value::Of(std::move(list));
    }
    case nlohmann::ordered_json::value_t::string:
      return Value::Of(json.get<std::string>(), false);
    case nlohmann::ordered_json::value_t::boolean:
      value.data = json.get<bool>();
      break;
    case nlohmann::ordered_json::value_t::number_integer:
      value.data = json.get<int64_t>();
      break;
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const uint64_t number = json.get<uint64_t>();
      if (number <= INT64_MAX) {
        value.data = static_cast<int64_t>(number);
      } else {
        value.data = number;
      }
      break;
    }
    case nlohmann::ordered_json::value_t::number_float:
      value.data = json.get<double>();
      break;
    default:  // null
      break;
  }
  value.trusted = false;
  return value;
}

template <typename T>
int Order(const T& a, const T& b) {
  return a < b ? -1 : (b < a ? 1 : 0);
}

}  // namespace

void Dict::Set(Value key, Value value) {
  const auto [known, is_new] = index.try_emplace(key.text()->bytes(), items.size());
  if (is_new) {
    items.emplace_back(std::move(key), std::move(value));
  } else {
    items[known->second].second = std::move(value);
  }
}

const Value* Dict::Find(const std::string& key) const {
  const auto found = index.find(key);
  return found == index.end() ? nullptr : &items[found->second].second;
}

absl::StatusOr<Value> Value::Of(List list, bool tuple) {
  int depth = 1;
  for (const Value& element : list) {
    ASSIGN_OR_RETURN(depth, DepthAround(depth, element));
  }
  Value value{std::make_shared<const List>(std::move(list))};
  value.tuple = tuple;
  value.depth = depth;
  return value;
}

absl::StatusOr<Value> Value::Of(Dict dict) {
  int depth = 1;
  for (const auto& [key, element] : dict.items) {
    ASSIGN_OR_RETURN(depth, DepthAround(depth, element));
  }
  Value value{std::make_shared<const Dict>(std::move(dict))};
  value.depth = depth;
  return value;
}

absl::StatusOr<Value> Value::FromInput(const nlohmann::ordered_json& json) {
  return jinja::FromInput(json, kMaxContainerDepth);
}

std::optional<int64_t> Value::integer() const {
  if (const auto* integer = std::get_if<int64_t>(&data)) return *integer;
  if (const auto* boolean = std::get_if<bool>(&data)) return *boolean ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const auto* real = std::get_if<double>(&data)) return *real;
  if (const auto* large = std::get_if<uint64_t>(&data)) return static_cast<double>(*large);
  if (const std::optional<int64_t> whole = integer()) return static_cast<double>(*whole);
  return std::nullopt;
}

std::string_view TypeName(const Value& value) {
  constexpr std::string_view kNames[] = {"Undefined",   "NoneType", "bool",    "int",  "int",
                                         "float",       "str",      "list",    "dict", "Namespace",
                                         "LoopContext", "Macro",    "function"};
  static_assert(std::size(kNames) == std::variant_size_v<Value::Data>);
  return value.tuple ? "tuple" : kNames[value.data.index()];
}

bool IsTrue(const Value& value) {
  if (value.IsUndefined() || value.IsNone()) return false;
  if (const std::optional<double> number = value.number()) return *number != 0;
  if (const Text* text = value.text()) return !text->empty();
  if (const List* list = value.list()) return !list->empty();
  if (const Dict* dict = value.dict()) return !dict->items.empty();
  return true;
}

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget) {
  RETURN_IF_ERROR(budget.Steps(1));
  if (const auto x = a.integer(), y = b.integer(); x && y) return *x == *y;
  if (const auto x = a.number(), y = b.number(); x && y) {
    const auto *u = std::get_if<uint64_t>(&a.data), *v = std::get_if<uint64_t>(&b.data);
    return u != nullptr && v != nullptr ? *u == *v : *x == *y;
  }
  if (a.data.index() != b.data.index()) return false;
  if (const Text* x = a.text(), *y = b.text(); x != nullptr) {
    RETURN_IF_ERROR(budget.Bytes(std::min(x->size(), y->size())));
    return x->bytes() == y->bytes();
  }
  if (const List* x = a.list(), *y = b.list(); x != nullptr) {
    if (x->size() != y->size() || a.tuple != b.tuple) return false;
    for (size_t i = 0; i < x->size(); ++i) {
      ASSIGN_OR_RETURN(const bool same, Equal((*x)[i], (*y)[i], budget));
      if (!same) return false;
    }
    return true;
  }
  if (const Dict* x = a.dict(), *y = b.dict(); x != nullptr) {
    if (x->items.size() != y->items.size()) return false;
    for (const auto& [key, value] : x->items) {
      const Value* other = y->Find(key.text()->bytes());
      if (other == nullptr) return false;
      ASSIGN_OR_RETURN(const bool same, Equal(value, *other, budget));
      if (!same) return false;
    }
    return true;
  }
  if (a.IsUndefined() || a.IsNone()) return true;
  if (const auto* x = std::get_if<std::shared_ptr<Namespace>>(&a.data)) {
    return *x == std::get<std::shared_ptr<Namespace>>(b.data);
  }
  return false;
}

absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget& budget) {
  RETURN_IF_ERROR(budget.Steps(1));
  RETURN_IF_ERROR(RequireDefined(a));
  RETURN_IF_ERROR(RequireDefined(b));
  if (const auto x = a.integer(), y = b.integer(); x && y) return Order(*x, *y);
  if (const auto x = a.number(), y = b.number(); x && y) return Order(*x, *y);
  if (const Text* x = a.text(), *y = b.text(); x != nullptr && y != nullptr) {
    RETURN_IF_ERROR(budget.Bytes(std::min(x->size(), y->size())));
    return Order(x->bytes(), y->bytes());  // the order of UTF-8 bytes is that of code points
  }
  if (const List* x = a.list(), *y = b.list(); x != nullptr && y != nullptr) {
    for (size_t i = 0; i < std::min(x->size(), y->size()); ++i) {
      ASSIGN_OR_RETURN(const bool same, Equal((*x)[i], (*y)[i], budget));
      if (!same) return Compare((*x)[i], (*y)[i], budget);
    }
    return Order(x->size(), y->size());
  }
  return InvalidArgument("'<' not supported between instances of '{}' and '{}'", TypeName(a), TypeName(b));
}

absl::StatusOr<List> Iterate(const Value& value, Budget& budget) {
  List items;
  if (value.IsUndefined()) return items;
  if (const List* list = value.list()) {
    RETURN_IF_ERROR(budget.Bytes(list->size() * sizeof(Value)));
    return *list;
  }
  if (const Dict* dict = value.dict()) {
    RETURN_IF_ERROR(budget.Bytes(dict->items.size() * sizeof(Value)));
    for (const auto& [key, member] : dict->items) items.push_back(key);
    return items;
  }
  if (const Text* text = value.text()) {
    for (size_t at = 0; at < text->size();) {
      RETURN_IF_ERROR(budget.Steps(1));
      const size_t end = at + NextUtf8(std::string_view(text->bytes()).substr(at)).length;
      items.push_back(Value::Of(text->Part(at, end)));
      at = end;
    }
    return items;
  }
  return InvalidArgument("'{}' object is not iterable", TypeName(value));
}

absl::Status RequireDefined(const Value& value) {
  const auto* undefined = std::get_if<Undefined>(&value.data);
  return undefined == nullptr ? absl::OkStatus() : InvalidArgument("{}", undefined->why);
}

}  // namespace tandem::text::jinja
