#include "common/formats/config_fields.h"

#include <utility>

#include "common/base/status.h"

namespace tandem::formats {

using nlohmann::json;

const json* FindField(const json& object, const char* field) {
  const auto found = object.find(field);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::Status WrongFieldType(const std::string& field, const char* wanted) {
  return InvalidArgument("{} is no {}", field, wanted);
}

absl::StatusOr<int64_t> ToInt(const json& value, const std::string& field) {
  if (value.is_number_unsigned() && !std::in_range<int64_t>(value.get<uint64_t>())) {
    return InvalidArgument("{} is {}, above 2^63", field, value.get<uint64_t>());
  }
  if (!value.is_number_integer()) return WrongFieldType(field, "integer");
  return value.get<int64_t>();
}

absl::StatusOr<int64_t> RequiredInt(const json& object, const char* field) {
  const json* value = FindField(object, field);
  if (value == nullptr) return InvalidArgument("{} is missing", field);
  return ToInt(*value, field);
}

absl::StatusOr<int64_t> IntOr(const json& object, const char* field, int64_t absent) {
  const json* value = FindField(object, field);
  if (value == nullptr) return absent;
  return ToInt(*value, field);
}

absl::StatusOr<double> RequiredNumber(const json& object, const char* field) {
  const json* value = FindField(object, field);
  if (value == nullptr) return InvalidArgument("{} is missing", field);
  if (!value->is_number()) return WrongFieldType(field, "number");
  return value->get<double>();
}

absl::StatusOr<double> NumberOr(const json& object, const char* field, double absent) {
  if (FindField(object, field) == nullptr) return absent;
  return RequiredNumber(object, field);
}

absl::StatusOr<bool> BoolOr(const json& object, const char* field, bool absent) {
  const json* value = FindField(object, field);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) return WrongFieldType(field, "truth value");
  return value->get<bool>();
}

absl::StatusOr<std::string> StringOr(const json& object, const char* field, const char* absent) {
  const json* value = FindField(object, field);
  if (value == nullptr) return std::string(absent);
  if (!value->is_string()) return WrongFieldType(field, "string");
  return value->get<std::string>();
}

}  // namespace tandem::formats
