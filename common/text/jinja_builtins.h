// Filters, tests, methods and functions that templates may call.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/jinja_value.h"

namespace tandem::text::jinja {

// The arguments of a call, by place and by name.
class Arguments {
 public:
  Arguments(std::string_view function, std::vector<Value> positional,
            std::vector<std::pair<std::string, Value>> named = {})
      : function_(function), positional_(std::move(positional)), named_(std::move(named)) {}

  // kInvalidArgument if there is an argument that none of `names` takes, one given twice, or fewer than
  // `num_required`.
  absl::Status Check(const std::vector<std::string_view>& names, size_t num_required = 0) const;
  // The argument at `place` or of that name; nullptr if absent.
  const Value* Get(size_t place, std::string_view name) const;
  // As a type; `absent` if it is not there, kInvalidArgument if of another type.
  absl::StatusOr<int64_t> Integer(size_t place, std::string_view name, int64_t absent) const;
  absl::StatusOr<std::string> String(size_t place, std::string_view name, const std::string& absent) const;
  bool Flag(size_t place, std::string_view name, bool absent) const;

  const std::string& function() const { return function_; }
  const std::vector<Value>& positional() const { return positional_; }
  const std::vector<std::pair<std::string, Value>>& named() const { return named_; }
  // Without the first `n` positional ones, as arguments of `function`.
  Arguments Rest(std::string_view function, size_t n) const;

 private:
  std::string function_;
  std::vector<Value> positional_;
  std::vector<std::pair<std::string, Value>> named_;
};

bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);
bool IsMethod(std::string_view name);

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments,
                                  Budget& budget);
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& value, const Arguments& arguments,
                               Budget& budget);

// Whether values of this type have the method (`dict.items`, `str.strip`).
bool HasMethod(const Value& receiver, std::string_view name);
absl::StatusOr<Value> CallMethod(const Method& method, const Arguments& arguments, Budget& budget);

// A global function (`range`, `namespace`, ...); undefined if there is none of that name. kUnimplemented for
// those that Jinja has and we do not.
absl::StatusOr<Value> FindFunction(const std::string& name);
absl::StatusOr<Value> CallFunction(const std::string& name, const Arguments& arguments, Budget& budget);

// value.name, and value[key] with negative indices, as Jinja resolves them; undefined if there is none.
absl::StatusOr<Value> GetAttribute(const Value& value, const std::string& name);
absl::StatusOr<Value> GetItem(const Value& value, const Value& key, Budget& budget);
absl::StatusOr<Value> Contains(const Value& container, const Value& element, Budget& budget);

}  // namespace tandem::text::jinja
