#include <cerrno>
#include <cmath>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "common/base/status.h"
#include "verifier/scheduling/decision_trace.h"
#include "verifier/scheduling/step_time_json.h"

namespace tandem::verifier {
namespace {

constexpr int kFormat = 1;

template <typename... Args>
void Append(std::string& line, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(line), format, std::forward<Args>(args)...);
}

// The shortest digits that read back as the same number; JSON knows no NaN or infinity.
void AppendNumbers(std::string& line, const char* field, std::span<const double> values) {
  Append(line, ",\"{}\":[", field);
  for (size_t i = 0; i < values.size(); ++i) {
    Append(line, "{}{}", i == 0 ? "" : ",", std::isfinite(values[i]) ? values[i] : 0.0);
  }
  line += ']';
}

void AppendSequence(std::string& line, const SequenceDecision& sequence) {
  Append(line, "{{\"order\":{},\"drafted\":{},\"probe\":{},\"window\":{},\"accepted\":{}", sequence.order,
         sequence.drafted, sequence.probe, sequence.window, sequence.accepted);
  AppendNumbers(line, "survivals", sequence.survivals);
  AppendNumbers(line, "confidences", sequence.confidences);
  line += '}';
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceWriter>> TraceWriter::Create(const std::string& path,
                                                                 const TraceHeader& header,
                                                                 int64_t max_bytes) {
  std::FILE* const file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return Unavailable("cannot create {}: {}", path, std::strerror(errno));
  std::unique_ptr<TraceWriter> writer(new TraceWriter(path, file, max_bytes));
  const nlohmann::json line = {{"tandem_trace", kFormat},
                               {"policy", WindowPolicyName(header.policy)},
                               {"acceptance", speculation::AcceptanceModeName(header.acceptance)},
                               {"block_size", header.block_size},
                               {"numerics_id", header.numerics_id},
                               {"step_time", StepTimeToJson(header.step_time)}};
  writer->line_ = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  RETURN_IF_ERROR(writer->WriteLine());
  return writer;
}

TraceWriter::~TraceWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

absl::Status TraceWriter::Write(const StepDecision& step) {
  RETURN_IF_ERROR(status_);
  line_.clear();
  Append(
      line_,
      "{{\"anchors\":{},\"kv_positions\":{},\"prefill_tokens\":{},\"max_draft_rows\":{},\"draft_seconds\":{},"
      "\"utilization\":{},\"predicted_seconds\":{},\"real_seconds\":{},\"sequences\":[",
      step.num_anchors, step.num_kv_positions, step.num_prefill_tokens, step.max_draft_rows,
      step.draft_seconds, step.utilization, step.predicted_seconds, step.real_seconds);
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    if (i > 0) line_ += ',';
    AppendSequence(line_, step.sequences[i]);
  }
  line_ += "]}";
  return WriteLine();
}

absl::Status TraceWriter::WriteLine() {
  TANDEM_CHECK(file_ != nullptr);
  line_ += '\n';
  if (num_bytes_ + static_cast<int64_t>(line_.size()) > max_bytes_) {
    return status_ = ResourceExhausted("{}: the trace ends at its limit of {} bytes", path_, max_bytes_);
  }
  if (std::fwrite(line_.data(), 1, line_.size(), file_) != line_.size()) {
    return status_ = Unavailable("cannot write {}: {}", path_, std::strerror(errno));
  }
  num_bytes_ += static_cast<int64_t>(line_.size());
  return absl::OkStatus();
}

absl::Status TraceWriter::Close() {
  if (file_ == nullptr) return status_;
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  if (!closed && status_.ok()) status_ = Unavailable("cannot write {}: {}", path_, std::strerror(errno));
  return status_;
}

}  // namespace tandem::verifier
