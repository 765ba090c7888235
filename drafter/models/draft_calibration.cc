#include "drafter/models/draft_calibration.h"

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/formats/quoted.h"

namespace tandem::drafter {
namespace {

using formats::Quoted;
using nlohmann::json;
using speculation::AcceptanceMode;
using speculation::InitialCalibration;
using ScaleBias = std::vector<std::pair<float, float>>;

constexpr float kMaxTemperature = 100;

struct Setting {
  std::vector<AcceptanceMode> modes;
  float temperature = 0;
};

// Nothing for a setting that does not concern us.
absl::StatusOr<std::optional<Setting>> ParseSetting(std::string_view name) {
  if (name == "greedy") return Setting{{AcceptanceMode::kCoupled, AcceptanceMode::kRejection}, 0};
  Setting setting;
  for (const auto& [prefix, mode] : {std::pair{std::string_view("coup:"), AcceptanceMode::kCoupled},
                                     {"rej:", AcceptanceMode::kRejection}}) {
    if (!name.starts_with(prefix)) continue;
    const std::string_view number = name.substr(prefix.size());
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), setting.temperature);
    if (error != std::errc() || end != number.data() + number.size() || !(setting.temperature > 0) ||
        setting.temperature > kMaxTemperature) {
      return InvalidArgument("no temperature above 0 and at most {}", kMaxTemperature);
    }
    setting.modes = {mode};
    return setting;
  }
  return std::nullopt;
}

absl::StatusOr<float> Number(const json& value, const char* field) {
  if (!value.is_number()) return InvalidArgument("{} has an entry that is no number", field);
  const float number = value.get<float>();
  if (!std::isfinite(number)) return InvalidArgument("{} has an entry beyond the range of f32", field);
  return number;
}

// The list `field`, of one entry per position.
absl::StatusOr<const json*> Positions(const json& setting, const char* field, int32_t block_size) {
  const json& list = setting.at(field);
  if (!list.is_array() || list.size() != static_cast<size_t>(block_size)) {
    return InvalidArgument("{} is no list of {} entries", field, block_size);
  }
  return &list;
}

absl::StatusOr<ScaleBias> ParseScaleBias(const json& setting, int32_t block_size) {
  ScaleBias result;
  if (!setting.is_object()) return InvalidArgument("is no object");
  if (setting.contains("scale_bias")) {
    ASSIGN_OR_RETURN(const json* list, Positions(setting, "scale_bias", block_size));
    for (const json& pair : *list) {
      if (!pair.is_array() || pair.size() != 2)
        return InvalidArgument("scale_bias has an entry that is no pair");
      ASSIGN_OR_RETURN(const float scale, Number(pair[0], "scale_bias"));
      ASSIGN_OR_RETURN(const float bias, Number(pair[1], "scale_bias"));
      result.emplace_back(scale, bias);
    }
    return result;
  }
  if (!setting.contains("temperature")) return InvalidArgument("neither scale_bias nor temperature");
  ASSIGN_OR_RETURN(const json* list, Positions(setting, "temperature", block_size));
  for (const json& entry : *list) {
    ASSIGN_OR_RETURN(const float temperature, Number(entry, "temperature"));
    if (!(temperature > 0) || !std::isfinite(1 / temperature)) {
      return InvalidArgument("temperature has an entry that is not above 0");
    }
    result.emplace_back(1 / temperature, 0.0f);
  }
  return result;
}

absl::StatusOr<std::vector<InitialCalibration>> Parse(const std::string& text, int32_t block_size) {
  ASSIGN_OR_RETURN(const json object, formats::ParseJson(text));
  const auto settings = object.is_object() ? object.find("settings") : object.end();
  if (!object.is_object() || settings == object.end() || !settings->is_object()) {
    return InvalidArgument("settings is missing or no object");
  }
  std::vector<InitialCalibration> result;
  for (const auto& [name, value] : settings->items()) {
    const auto setting = ParseSetting(name);
    if (!setting.ok()) return Annotate(setting.status(), "setting " + Quoted(name));
    if (!setting->has_value()) continue;
    const auto scale_bias = ParseScaleBias(value, block_size);
    if (!scale_bias.ok()) return Annotate(scale_bias.status(), "setting " + Quoted(name));
    for (const AcceptanceMode mode : (*setting)->modes) {
      result.push_back({mode, (*setting)->temperature, *scale_bias});
    }
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<InitialCalibration>> ParseCalibration(const std::string& text, int32_t block_size,
                                                                 const std::string& path) {
  auto result = Parse(text, block_size);
  if (!result.ok()) return Annotate(result.status(), path);
  return result;
}

}  // namespace tandem::drafter
