#include "gateway/http/fields.h"

#include <limits>
#include <utility>

#include "common/base/status.h"
#include "gateway/errors.h"

namespace tandem::gateway::http {

using Json = nlohmann::ordered_json;

absl::Status WrongType(std::string_view path, std::string_view expected, const Json& got) {
  if (got.is_string()) return error::InvalidValue(path, expected, got.get_ref<const std::string&>());
  const std::string shown = got.is_object() ? "an object" : got.is_array() ? "an array" : got.dump();
  return error::Invalid(path, fmt::format("{} must be {}, got {}", path, expected, shown));
}

absl::StatusOr<int64_t> AsInteger(const Json& value, std::string_view path) {
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  if (!value.is_number_integer() || too_large) return WrongType(path, "an integer of 64 bits", value);
  return value.get<int64_t>();
}

absl::StatusOr<double> AsNumber(const Json& value, std::string_view path) {
  if (!value.is_number()) return WrongType(path, "a number", value);
  return value.get<double>();  // finite: the parser refuses what a double cannot hold
}

absl::StatusOr<std::string> AsText(const Json& value, std::string_view path) {
  if (!value.is_string()) return WrongType(path, "text", value);
  return value.get<std::string>();
}

absl::StatusOr<std::vector<int64_t>> AsIntegers(const Json& value, std::string_view path) {
  if (!value.is_array()) return WrongType(path, "an array of integers", value);
  std::vector<int64_t> integers;
  integers.reserve(value.size());
  for (const Json& element : value) {
    ASSIGN_OR_RETURN(const int64_t integer, AsInteger(element, fmt::format("{}[{}]", path, integers.size())));
    integers.push_back(integer);
  }
  return integers;
}

Fields::Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

std::string Fields::PathOf(std::string_view name) const {
  return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

const Json* Fields::Find(std::string_view name) {
  known_.emplace(name);
  if (!status_.ok()) return nullptr;
  const auto found = object_.find(std::string(name));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void Fields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void Fields::Read(std::string_view name, std::optional<int64_t>* value) {
  const Json* found = Find(name);
  if (found == nullptr) return;
  absl::StatusOr<int64_t> read = AsInteger(*found, PathOf(name));
  if (!read.ok()) return Fail(read.status());
  *value = *read;
}

void Fields::Read(std::string_view name, std::optional<double>* value) {
  const Json* found = Find(name);
  if (found == nullptr) return;
  absl::StatusOr<double> read = AsNumber(*found, PathOf(name));
  if (!read.ok()) return Fail(read.status());
  *value = *read;
}

void Fields::Read(std::string_view name, std::optional<std::string>* value) {
  const Json* found = Find(name);
  if (found == nullptr) return;
  absl::StatusOr<std::string> read = AsText(*found, PathOf(name));
  if (!read.ok()) return Fail(read.status());
  *value = *std::move(read);
}

void Fields::Read(std::string_view name, bool* value) {
  const Json* found = Find(name);
  if (found == nullptr) return;
  if (!found->is_boolean()) return Fail(WrongType(PathOf(name), "true or false", *found));
  *value = found->get<bool>();
}

void Fields::Read(std::string_view name, std::vector<int64_t>* value) {
  const Json* found = Find(name);
  if (found == nullptr) return;
  absl::StatusOr<std::vector<int64_t>> read = AsIntegers(*found, PathOf(name));
  if (!read.ok()) return Fail(read.status());
  *value = *std::move(read);
}

int Fields::NumUnknown() const {
  int unknown = 0;
  for (const auto& member : object_.items()) unknown += known_.contains(member.key()) ? 0 : 1;
  return unknown;
}

}  // namespace tandem::gateway::http
