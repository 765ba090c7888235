// The values that templates compute with. Immutable and shared, but for namespaces.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/text/jinja_budget.h"
#include "common/text/jinja_text.h"
#include "nlohmann/json_fwd.hpp"

namespace tandem::text::jinja {

struct Value;
struct MacroNode;

using List = std::vector<Value>;

// Keys are strings, in the order in which they came.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  absl::flat_hash_map<std::string, size_t> index;

  void Set(Value key, Value value);
  const Value* Find(const std::string& key) const;  // nullptr if absent
};

// Using it is an error that says `why`; printing and iterating it is not.
struct Undefined {
  std::string why;
};
struct None {};
// `namespace(...)`: the only thing that a template can change.
struct Namespace {
  std::map<std::string, Value> attributes;
};
// `loop` inside a for statement.
struct Loop {
  List items;
  size_t index = 0;
  int depth = 1;
};
// `receiver.name`, not yet called. Of a function of ours the receiver is undefined.
struct Method;

struct Value {
  using Data =
      std::variant<Undefined, None, bool, int64_t, uint64_t, double, std::shared_ptr<const Text>,
                   std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                   std::shared_ptr<const Loop>, const MacroNode*, std::shared_ptr<const Method>>;
  Data data;
  bool trusted = true;  // of scalars; strings know it run by run
  bool tuple = false;   // of lists: Python's tuple, which prints otherwise and equals no list
  int depth = 0;  // of lists and dicts: levels of containers, bounded since code that walks them recurses

  static Value Of(bool value) { return {value}; }
  static Value Of(int64_t value) { return {value}; }
  static Value Of(double value) { return {value}; }
  static Value Of(Text text) { return {std::make_shared<const Text>(std::move(text))}; }
  static Value Of(std::string text, bool trusted = true) { return Of(Text(std::move(text), trusted)); }
  static Value OfNone() { return {None{}}; }
  static Value OfUndefined(std::string why) { return {Undefined{std::move(why)}}; }
  // kResourceExhausted if nested too deeply; kUnimplemented for elements that are no data (namespaces,
  // functions).
  static absl::StatusOr<Value> Of(List list, bool tuple = false);
  static absl::StatusOr<Value> Of(Dict dict);
  // Everything in it untrusted.
  static absl::StatusOr<Value> FromInput(const nlohmann::ordered_json& json);

  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(data);
  }
  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsNone() const { return Is<None>(); }
  const Text* text() const { return Pointee<std::shared_ptr<const Text>>(); }
  const List* list() const { return Pointee<std::shared_ptr<const List>>(); }
  const Dict* dict() const { return Pointee<std::shared_ptr<const Dict>>(); }
  // Integers and booleans (True is 1) that fit 64 bits.
  std::optional<int64_t> integer() const;
  // Any number, booleans included.
  std::optional<double> number() const;

 private:
  template <typename Pointer>
  auto Pointee() const -> decltype(std::get<Pointer>(data).get()) {
    const Pointer* pointer = std::get_if<Pointer>(&data);
    return pointer == nullptr ? nullptr : pointer->get();
  }
};

struct Method {
  Value receiver;
  std::string name;
};

// Python's name of the type, as its error messages have it ("str", "list", "NoneType").
std::string_view TypeName(const Value& value);
bool IsTrue(const Value& value);
// ==; never fails on types, only on the budget.
absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget);
// -1, 0, 1 for numbers, strings and lists; kInvalidArgument for other pairs.
absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget& budget);
// Elements of a list, keys of a dict, characters of a string; kInvalidArgument otherwise.
absl::StatusOr<List> Iterate(const Value& value, Budget& budget);
// kInvalidArgument saying why if the value is undefined.
absl::Status RequireDefined(const Value& value);

}  // namespace tandem::text::jinja
