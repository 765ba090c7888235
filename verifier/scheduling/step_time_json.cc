#include "verifier/scheduling/step_time_json.h"

#include "common/base/status.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;

absl::StatusOr<double> Number(const json& object, const char* field) {
  const auto it = object.find(field);
  if (it == object.end() || !it->is_number()) return InvalidArgument("{}: missing or not a number", field);
  return it->get<double>();
}

}  // namespace

json StepTimeToJson(const StepTimeParameters& parameters) {
  return {{"table_seconds", parameters.table_seconds},
          {"num_known_points", parameters.num_known_points},
          {"kappa_seconds", parameters.kappa_seconds},
          {"pi_seconds", parameters.pi_seconds},
          {"offset_seconds", parameters.offset_seconds}};
}

absl::StatusOr<StepTimeParameters> StepTimeFromJson(const json& object) {
  if (!object.is_object()) return InvalidArgument("not a JSON object");
  StepTimeParameters parameters;
  const auto table = object.find("table_seconds");
  if (table == object.end() || !table->is_array() || table->size() != parameters.table_seconds.size()) {
    return InvalidArgument("table_seconds: must be {} numbers", parameters.table_seconds.size());
  }
  for (size_t i = 0; i < parameters.table_seconds.size(); ++i) {
    if (!(*table)[i].is_number()) return InvalidArgument("table_seconds[{}]: not a number", i);
    parameters.table_seconds[i] = (*table)[i].get<double>();
  }
  ASSIGN_OR_RETURN(const double num_known, Number(object, "num_known_points"));
  if (!(num_known >= 0 && num_known <= 1000)) return InvalidArgument("num_known_points: is {}", num_known);
  parameters.num_known_points = static_cast<int>(num_known);
  ASSIGN_OR_RETURN(parameters.kappa_seconds, Number(object, "kappa_seconds"));
  ASSIGN_OR_RETURN(parameters.pi_seconds, Number(object, "pi_seconds"));
  ASSIGN_OR_RETURN(parameters.offset_seconds, Number(object, "offset_seconds"));
  RETURN_IF_ERROR(parameters.Validate());
  return parameters;
}

}  // namespace tandem::verifier
