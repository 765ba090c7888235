#include <algorithm>

#include "common/base/status.h"
#include "common/text/jinja_builtins.h"

namespace tandem::text::jinja {

absl::Status Arguments::Check(const std::vector<std::string_view>& names, size_t num_required) const {
  if (positional_.size() > names.size()) {
    return InvalidArgument("{}() takes {} arguments, not {}", function_, names.size(), positional_.size());
  }
  for (const auto& [name, value] : named_) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) return InvalidArgument("{}() has no argument '{}'", function_, name);
    if (static_cast<size_t>(found - names.begin()) < positional_.size()) {
      return InvalidArgument("{}() got argument '{}' twice", function_, name);
    }
  }
  for (size_t place = 0; place < num_required; ++place) {
    if (Get(place, names[place]) == nullptr)
      return InvalidArgument("{}() needs '{}'", function_, names[place]);
  }
  return absl::OkStatus();
}

const Value* Arguments::Get(size_t place, std::string_view name) const {
  if (place < positional_.size()) return &positional_[place];
  for (const auto& [key, value] : named_) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::StatusOr<int64_t> Arguments::Integer(size_t place, std::string_view name, int64_t absent) const {
  const Value* value = Get(place, name);
  if (value == nullptr || value->IsNone()) return absent;
  const std::optional<int64_t> integer = value->integer();
  if (!integer.has_value()) {
    return InvalidArgument("{}(): '{}' is a {}, not an int", function_, name, TypeName(*value));
  }
  return *integer;
}

absl::StatusOr<std::string> Arguments::String(size_t place, std::string_view name,
                                              const std::string& absent) const {
  const Value* value = Get(place, name);
  if (value == nullptr || value->IsNone()) return absent;
  RETURN_IF_ERROR(RequireDefined(*value));
  const Text* text = value->text();
  if (text == nullptr)
    return InvalidArgument("{}(): '{}' is a {}, not a str", function_, name, TypeName(*value));
  return text->bytes();
}

bool Arguments::Flag(size_t place, std::string_view name, bool absent) const {
  const Value* value = Get(place, name);
  return value == nullptr ? absent : IsTrue(*value);
}

Arguments Arguments::Rest(std::string_view function, size_t n) const {
  std::vector<Value> rest(positional_.begin() + static_cast<int64_t>(std::min(n, positional_.size())),
                          positional_.end());
  return Arguments(function, std::move(rest), named_);
}

}  // namespace tandem::text::jinja
