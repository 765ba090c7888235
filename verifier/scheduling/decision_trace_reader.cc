#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/formats/quoted.h"
#include "verifier/scheduling/decision_trace.h"
#include "verifier/scheduling/step_time_json.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr int64_t kMaxRows = 1 << 20;  // of anything counted by step
constexpr int64_t kMaxKvPositions = int64_t{1} << 48;
constexpr double kMaxSeconds = 86400;

// Exactly these fields, no matter in which order.
absl::Status CheckFields(const json& object, std::initializer_list<const char*> fields) {
  if (!object.is_object()) return InvalidArgument("not a JSON object");
  for (const char* field : fields) {
    if (!object.contains(field)) return InvalidArgument("{}: missing", field);
  }
  for (const auto& [name, value] : object.items()) {
    bool known = false;
    for (const char* field : fields) known = known || name == field;
    if (!known) return InvalidArgument("unknown field {}", formats::Quoted(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Integer(const json& object, const char* field, int64_t low, int64_t high) {
  const json& value = object[field];
  // Unsigned values above int64 would wrap around.
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() ||
                     value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    return InvalidArgument("{}: must be an integer in [{}, {}]", field, low, high);
  }
  return value.get<int64_t>();
}

absl::StatusOr<double> Number(const json& object, const char* field, double low, double high) {
  const json& value = object[field];
  if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) {
    return InvalidArgument("{}: must be a number in [{}, {}]", field, low, high);
  }
  return value.get<double>();
}

absl::StatusOr<bool> Boolean(const json& object, const char* field) {
  if (!object[field].is_boolean()) return InvalidArgument("{}: must be true or false", field);
  return object[field].get<bool>();
}

absl::StatusOr<std::string> Text(const json& object, const char* field) {
  if (!object[field].is_string()) return InvalidArgument("{}: must be a string", field);
  return object[field].get<std::string>();
}

absl::StatusOr<std::vector<double>> Probabilities(const json& object, const char* field, int block_size) {
  const json& array = object[field];
  if (!array.is_array() || array.size() > static_cast<size_t>(block_size)) {
    return InvalidArgument("{}: must be up to {} numbers", field, block_size);
  }
  std::vector<double> values;
  for (size_t i = 0; i < array.size(); ++i) {
    if (!array[i].is_number() || !(array[i].get<double>() >= 0 && array[i].get<double>() <= 1)) {
      return InvalidArgument("{}[{}]: must be a number in [0, 1]", field, i);
    }
    values.push_back(array[i].get<double>());
  }
  return values;
}

absl::StatusOr<TraceHeader> ParseHeader(const json& line) {
  // The version first: another one may have other fields.
  if (!line.is_object() || !line.contains("tandem_trace"))
    return InvalidArgument("tandem_trace: missing: no trace");
  RETURN_IF_ERROR(Integer(line, "tandem_trace", kFormat, kFormat).status());
  RETURN_IF_ERROR(
      CheckFields(line, {"tandem_trace", "policy", "acceptance", "block_size", "numerics_id", "step_time"}));
  TraceHeader header;
  ASSIGN_OR_RETURN(const std::string policy, Text(line, "policy"));
  ASSIGN_OR_RETURN(header.policy, ParseWindowPolicy(policy));
  ASSIGN_OR_RETURN(const std::string acceptance, Text(line, "acceptance"));
  if (acceptance != "coupled" && acceptance != "rejection") {
    return InvalidArgument("acceptance: must be coupled or rejection");
  }
  header.acceptance = acceptance == "coupled" ? speculation::AcceptanceMode::kCoupled
                                              : speculation::AcceptanceMode::kRejection;
  ASSIGN_OR_RETURN(const int64_t block_size, Integer(line, "block_size", 1, speculation::kMaxBlockSize));
  header.block_size = static_cast<int>(block_size);
  ASSIGN_OR_RETURN(header.numerics_id, Text(line, "numerics_id"));
  auto step_time = StepTimeFromJson(line["step_time"]);
  if (!step_time.ok()) return Annotate(step_time.status(), "step_time");
  header.step_time = *step_time;
  return header;
}

absl::StatusOr<SequenceDecision> ParseSequence(const json& object, int block_size) {
  RETURN_IF_ERROR(
      CheckFields(object, {"order", "drafted", "probe", "survivals", "confidences", "window", "accepted"}));
  SequenceDecision sequence;
  if (!object["order"].is_number_unsigned()) return InvalidArgument("order: must be an integer from 0 on");
  sequence.order = object["order"].get<uint64_t>();
  ASSIGN_OR_RETURN(sequence.drafted, Boolean(object, "drafted"));
  ASSIGN_OR_RETURN(sequence.probe, Boolean(object, "probe"));
  ASSIGN_OR_RETURN(sequence.survivals, Probabilities(object, "survivals", block_size));
  for (size_t i = 1; i < sequence.survivals.size(); ++i) {
    if (sequence.survivals[i] > sequence.survivals[i - 1]) return InvalidArgument("survivals[{}]: rises", i);
  }
  ASSIGN_OR_RETURN(sequence.confidences, Probabilities(object, "confidences", block_size));
  if (!sequence.confidences.empty() && sequence.confidences.size() != sequence.survivals.size()) {
    return InvalidArgument("confidences: must be none or as many as survivals ({}), are {}",
                           sequence.survivals.size(), sequence.confidences.size());
  }
  ASSIGN_OR_RETURN(const int64_t window,
                   Integer(object, "window", 0, static_cast<int64_t>(sequence.survivals.size())));
  ASSIGN_OR_RETURN(const int64_t accepted, Integer(object, "accepted", 0, window));
  sequence.window = static_cast<int>(window);
  sequence.accepted = static_cast<int>(accepted);
  return sequence;
}

absl::StatusOr<StepDecision> ParseStep(const json& line, int block_size) {
  RETURN_IF_ERROR(
      CheckFields(line, {"anchors", "kv_positions", "prefill_tokens", "max_draft_rows", "draft_seconds",
                         "utilization", "predicted_seconds", "real_seconds", "sequences"}));
  StepDecision step;
  ASSIGN_OR_RETURN(const int64_t anchors, Integer(line, "anchors", 0, kMaxRows));
  ASSIGN_OR_RETURN(step.num_kv_positions, Integer(line, "kv_positions", 0, kMaxKvPositions));
  ASSIGN_OR_RETURN(const int64_t prefill, Integer(line, "prefill_tokens", 0, kMaxRows));
  ASSIGN_OR_RETURN(const int64_t max_rows, Integer(line, "max_draft_rows", 0, kMaxRows));
  step.num_anchors = static_cast<int>(anchors);
  step.num_prefill_tokens = static_cast<int>(prefill);
  step.max_draft_rows = static_cast<int>(max_rows);
  ASSIGN_OR_RETURN(step.draft_seconds, Number(line, "draft_seconds", 0, kMaxSeconds));
  ASSIGN_OR_RETURN(step.utilization, Number(line, "utilization", 0, 1e6));
  ASSIGN_OR_RETURN(step.predicted_seconds, Number(line, "predicted_seconds", 1e-9, kMaxSeconds));
  ASSIGN_OR_RETURN(step.real_seconds, Number(line, "real_seconds", 1e-9, kMaxSeconds));
  const json& sequences = line["sequences"];
  if (!sequences.is_array() || sequences.size() > static_cast<size_t>(anchors)) {
    return InvalidArgument("sequences: must be a list of at most anchors ({})", anchors);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto sequence = ParseSequence(sequences[i], block_size);
    if (!sequence.ok()) return Annotate(sequence.status(), fmt::format("sequences[{}]", i));
    step.sequences.push_back(*std::move(sequence));
  }
  return step;
}

}  // namespace

absl::Status TraceReader::AtLine(const absl::Status& status) const {
  return Annotate(status, fmt::format("{}:{}", path_, line_number_));
}

absl::StatusOr<std::unique_ptr<TraceReader>> TraceReader::Open(const std::string& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) return NotFound("{}: no such file", path);
  if (type != std::filesystem::file_type::regular) return InvalidArgument("{}: not a regular file", path);
  std::unique_ptr<TraceReader> reader(new TraceReader(path));
  if (!reader->file_.is_open()) return Unavailable("cannot open {}", path);
  ASSIGN_OR_RETURN(const bool any, reader->ReadLine());
  if (!any) return InvalidArgument("{}: empty", path);
  const auto line = formats::ParseJson(reader->line_);
  if (!line.ok()) return reader->AtLine(line.status());
  auto header = ParseHeader(*line);
  if (!header.ok()) return reader->AtLine(header.status());
  reader->header_ = *std::move(header);
  return reader;
}

absl::StatusOr<bool> TraceReader::Next(StepDecision& step) {
  ASSIGN_OR_RETURN(const bool any, ReadLine());
  if (!any) return false;
  const auto line = formats::ParseJson(line_);
  if (!line.ok()) return AtLine(line.status());
  auto parsed = ParseStep(*line, header_.block_size);
  if (!parsed.ok()) return AtLine(parsed.status());
  step = *std::move(parsed);
  return true;
}

// A line without its end is a step that was not written whole.
absl::StatusOr<bool> TraceReader::ReadLine() {
  line_.clear();
  ++line_number_;
  std::streambuf& buffer = *file_.rdbuf();
  for (int c = buffer.sbumpc(); c != '\n'; c = buffer.sbumpc()) {
    if (c == std::char_traits<char>::eof()) {
      if (line_.empty()) return false;
      return AtLine(InvalidArgument("ends in the middle of a line"));
    }
    if (line_.size() == kMaxLineBytes) return AtLine(InvalidArgument("longer than {} bytes", kMaxLineBytes));
    line_ += static_cast<char>(c);
  }
  return true;
}

}  // namespace tandem::verifier
