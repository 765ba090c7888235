// Typed fields of a config.json. A field that is null counts as absent: published configs write null for "not
// set". Errors are kInvalidArgument and name the field.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace tandem::formats {

// Null if absent.
const nlohmann::json* FindField(const nlohmann::json& object, const char* field);

absl::Status WrongFieldType(const std::string& field, const char* wanted);

absl::StatusOr<int64_t> ToInt(const nlohmann::json& value, const std::string& field);
absl::StatusOr<int64_t> RequiredInt(const nlohmann::json& object, const char* field);
absl::StatusOr<int64_t> IntOr(const nlohmann::json& object, const char* field, int64_t absent);
absl::StatusOr<double> RequiredNumber(const nlohmann::json& object, const char* field);
absl::StatusOr<double> NumberOr(const nlohmann::json& object, const char* field, double absent);
absl::StatusOr<bool> BoolOr(const nlohmann::json& object, const char* field, bool absent);
absl::StatusOr<std::string> StringOr(const nlohmann::json& object, const char* field, const char* absent);

}  // namespace tandem::formats
