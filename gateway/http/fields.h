// Reads the fields of a JSON object with their types, and knows which ones nobody asked for.
//
//   Fields fields(body);
//   fields.Read("temperature", &request.temperature);
//   fields.Read("n", &request.n);
//   RETURN_IF_ERROR(fields.status());
//   observer.OnUnknownFields(fields.NumUnknown());
//
// null = absent: the destination keeps its value. The first error sticks and later reads do nothing. Errors
// name the field with its path, e.g. "stream_options.include_usage".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::gateway::http {

class Fields {
 public:
  // Borrows `object`, which is an object. `path` comes before names in errors: "messages[0]".
  explicit Fields(const nlohmann::ordered_json& object, std::string path = "");

  // The value, or nullptr if absent or null; marks the name as known.
  const nlohmann::ordered_json* Find(std::string_view name);

  void Read(std::string_view name, std::optional<int64_t>* value);
  void Read(std::string_view name, std::optional<double>* value);
  void Read(std::string_view name, std::optional<std::string>* value);
  void Read(std::string_view name, bool* value);
  void Read(std::string_view name, std::vector<int64_t>* value);  // an array of integers

  // Known, and any value is as good as none.
  void Ignore(std::string_view name) { Find(name); }

  void Fail(absl::Status status);
  const absl::Status& status() const { return status_; }
  std::string PathOf(std::string_view name) const;

  // Fields that no call above named.
  int NumUnknown() const;

 private:
  const nlohmann::ordered_json& object_;
  const std::string path_;
  absl::flat_hash_set<std::string> known_;
  absl::Status status_;
};

// One value; `path` is the name in errors.
absl::StatusOr<int64_t> AsInteger(const nlohmann::ordered_json& value, std::string_view path);
absl::StatusOr<double> AsNumber(const nlohmann::ordered_json& value, std::string_view path);
absl::StatusOr<std::string> AsText(const nlohmann::ordered_json& value, std::string_view path);
absl::StatusOr<std::vector<int64_t>> AsIntegers(const nlohmann::ordered_json& value, std::string_view path);

// "temperature must be a number, got \"warm\"": containers are named, not shown.
absl::Status WrongType(std::string_view path, std::string_view expected, const nlohmann::ordered_json& got);

}  // namespace tandem::gateway::http
