#include "verifier/scheduling/step_time_model.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"

namespace tandem::verifier {
namespace {

constexpr size_t kPoints = kTableDecodeRows.size();
// A table entry lies between a nanosecond and an hour: wide enough for any machine, and no arithmetic
// overflows.
constexpr double kMinSeconds = 1e-9;
constexpr double kMaxSeconds = 3600;

// While kappa is unknown (0), an error is laid to it as if reading this many positions cost a step's time.
constexpr double kPriorKvPositions = 8192;
// The same of pi: as if this many prefill tokens cost a step's time.
constexpr double kPriorPrefillTokens = 1024;
// While the offset is small, an error is laid to it as if it were this share of a step.
constexpr double kPriorOffsetShare = 0.1;

// Steps after which a point that was not seen again is forgotten to have been.
constexpr double kEvidenceMemory = 2000;

// Where B lies in the table: weight (1 - w) on `point`, w on the next one; w > 1 beyond the last point.
struct TablePlace {
  size_t point;
  double weight;
};

// By rows: the point before them, or at them for the first. Looked up thousands of times a decision.
constexpr auto kPointBefore = [] {
  std::array<uint8_t, kTableDecodeRows.back() + 1> points = {};
  for (size_t rows = 0, point = 0; rows < points.size(); ++rows) {
    while (point + 2 < kPoints && static_cast<int>(rows) > kTableDecodeRows[point + 1]) ++point;
    points[rows] = static_cast<uint8_t>(point);
  }
  return points;
}();

TablePlace PlaceOf(int num_decode_rows) {
  const int rows = std::max(num_decode_rows, 1);
  const size_t point = kPointBefore[static_cast<size_t>(std::min(rows, kTableDecodeRows.back()))];
  const double low = kTableDecodeRows[point], high = kTableDecodeRows[point + 1];
  return {point, (rows - low) / (high - low)};
}

absl::Status CheckRange(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("{}: must be in [{}, {}], is {}", field, low, high, value);
}

}  // namespace

absl::Status StepTimeParameters::Validate() const {
  double previous = kMinSeconds;
  for (const double seconds : table_seconds) {
    RETURN_IF_ERROR(CheckRange("table_seconds", seconds, previous, kMaxSeconds));
    previous = seconds;
  }
  if (num_known_points < 2 || num_known_points > static_cast<int>(kPoints)) {
    return InvalidArgument("num_known_points: must be in [2, {}], is {}", kPoints, num_known_points);
  }
  RETURN_IF_ERROR(CheckRange("kappa_seconds", kappa_seconds, 0, kMaxSeconds));
  RETURN_IF_ERROR(CheckRange("pi_seconds", pi_seconds, 0, kMaxSeconds));
  return CheckRange("offset_seconds", offset_seconds, -table_seconds[0] / 2, table_seconds[0] / 2);
}

absl::StatusOr<StepTimeModel> StepTimeModel::FromMeasurements(std::span<const StepTimePoint> points) {
  if (points.size() < 2 || points.size() > kPoints) {
    return InvalidArgument("step times: must be 2 to {} points, are {}", kPoints, points.size());
  }
  StepTimeParameters parameters;
  double previous = kMinSeconds;
  for (size_t i = 0; i < points.size(); ++i) {
    if (points[i].num_decode_rows != kTableDecodeRows[i]) {
      return InvalidArgument("step times: point {} must have {} rows, has {}", i, kTableDecodeRows[i],
                             points[i].num_decode_rows);
    }
    RETURN_IF_ERROR(CheckRange("step times: seconds", points[i].seconds, kMinSeconds, kMaxSeconds));
    previous = std::max(previous, points[i].seconds);
    parameters.table_seconds[i] = previous;
  }
  parameters.num_known_points = static_cast<int>(points.size());
  StepTimeModel model(parameters);
  model.ExtendTable();
  // Prefill computes a token much as a further decode row of a large step does.
  const size_t last = points.size() - 1;
  model.parameters_.pi_seconds =
      (model.parameters_.table_seconds[last] - model.parameters_.table_seconds[last - 1]) /
      (kTableDecodeRows[last] - kTableDecodeRows[last - 1]);
  return model;
}

absl::StatusOr<StepTimeModel> StepTimeModel::FromParameters(const StepTimeParameters& parameters) {
  RETURN_IF_ERROR(parameters.Validate());
  return StepTimeModel(parameters);
}

StepTimeModel::StepTimeModel(const StepTimeParameters& parameters) : parameters_(parameters) {
  std::fill_n(evidence_.begin(), parameters.num_known_points, kUnseenReadiness - 1);
}

// 1 for a point that is well known.
double StepTimeModel::Readiness(size_t point) const { return kUnseenReadiness / (1 + evidence_[point]); }

void StepTimeModel::AddEvidence(size_t point, double weight) {
  evidence_[point] = std::min(evidence_[point] + weight, kUnseenReadiness - 1);
}

double StepTimeModel::Table(int num_decode_rows) const {
  const TablePlace place = PlaceOf(num_decode_rows);
  const double low = parameters_.table_seconds[place.point],
               high = parameters_.table_seconds[place.point + 1];
  return low + (high - low) * place.weight;
}

double StepTimeModel::Predict(const StepShape& shape) const {
  return parameters_.offset_seconds + Table(shape.num_decode_rows) +
         parameters_.kappa_seconds * static_cast<double>(shape.num_kv_positions) +
         parameters_.pi_seconds * shape.num_prefill_tokens;
}

// One step of normalised least mean squares. The unknowns have different units, so each is scaled by its
// usual size: an error is divided among the terms by the squares of what each contributes to this step,
// points of the table also by how little they are known. A step with long contexts thus corrects kappa, a
// prefill step pi, a wide step the table where it was used.
double StepTimeModel::Observe(const StepShape& shape, double measured_seconds) {
  if (!(measured_seconds > 0) || !std::isfinite(measured_seconds)) return 0;
  const double predicted = Predict(shape);
  const double error = measured_seconds - predicted;
  const double bounded = std::clamp(error, -kMaxErrorShare * predicted, kMaxErrorShare * predicted);

  StepTimeParameters& p = parameters_;
  const TablePlace place = PlaceOf(shape.num_decode_rows);
  const double weight = std::min(place.weight, 1.0);
  const double single = p.table_seconds[0];
  const double kv_positions = static_cast<double>(shape.num_kv_positions);
  const double low_part = p.table_seconds[place.point] * (1 - weight);
  const double high_part = p.table_seconds[place.point + 1] * weight;
  const double kappa_part = std::max(p.kappa_seconds, single / kPriorKvPositions) * kv_positions;
  const double num_prefill = shape.num_prefill_tokens;
  const double pi_part = std::max(p.pi_seconds, single / kPriorPrefillTokens) * num_prefill;
  const double offset_part = kPriorOffsetShare * single;
  const double low_readiness = Readiness(place.point), high_readiness = Readiness(place.point + 1);
  const double squares = low_readiness * low_part * low_part + high_readiness * high_part * high_part +
                         kappa_part * kappa_part + pi_part * pi_part + offset_part * offset_part;
  const double step = kLearningRate * bounded / squares;  // a part's contribution changes by step * part^2

  if (kv_positions > 0) {
    p.kappa_seconds =
        std::clamp(p.kappa_seconds + step * kappa_part * kappa_part / kv_positions, 0.0, kMaxSeconds);
  }
  if (num_prefill > 0) {
    p.pi_seconds = std::clamp(p.pi_seconds + step * pi_part * pi_part / num_prefill, 0.0, kMaxSeconds);
  }
  if (weight < 1) CorrectTable(place.point, step * low_readiness * low_part * p.table_seconds[place.point]);
  if (weight > 0) {
    CorrectTable(place.point + 1, step * high_readiness * high_part * p.table_seconds[place.point + 1]);
  }
  for (double& evidence : evidence_) evidence -= evidence / kEvidenceMemory;
  AddEvidence(place.point, 1 - weight);
  AddEvidence(place.point + 1, weight);
  ExtendTable();
  const double offset_limit = p.table_seconds[0] / 2;
  p.offset_seconds =
      std::clamp(p.offset_seconds + step * offset_part * offset_part, -offset_limit, offset_limit);
  return std::abs(error) / measured_seconds;
}

// Changes one point and lets its neighbours give way, so that the table never falls.
void StepTimeModel::CorrectTable(size_t point, double change) {
  auto& table = parameters_.table_seconds;
  // Points before one that is now observed count as known too: they keep what they had.
  parameters_.num_known_points = std::max(parameters_.num_known_points, static_cast<int>(point) + 1);
  table[point] = std::clamp(table[point] + change, kMinSeconds, kMaxSeconds);
  for (size_t i = 0; i < point; ++i) table[i] = std::min(table[i], table[point]);
  for (size_t i = point + 1; i < kPoints; ++i) table[i] = std::max(table[i], table[point]);
}

// Points that nobody has seen go on with the slope of the last two that somebody has.
void StepTimeModel::ExtendTable() {
  auto& table = parameters_.table_seconds;
  const auto known = static_cast<size_t>(parameters_.num_known_points);
  const double slope =
      (table[known - 1] - table[known - 2]) / (kTableDecodeRows[known - 1] - kTableDecodeRows[known - 2]);
  for (size_t i = known; i < kPoints; ++i) {
    table[i] =
        std::min(table[known - 1] + slope * (kTableDecodeRows[i] - kTableDecodeRows[known - 1]), kMaxSeconds);
  }
}

double StepTimeModel::Knee() const {
  const auto& table = parameters_.table_seconds;
  const double target = kKneeFactor * table[0];
  for (size_t i = 1; i < kPoints; ++i) {
    if (table[i] < target) continue;
    const double share = (target - table[i - 1]) / (table[i] - table[i - 1]);
    return kTableDecodeRows[i - 1] + share * (kTableDecodeRows[i] - kTableDecodeRows[i - 1]);
  }
  return kTableDecodeRows.back();
}

}  // namespace tandem::verifier
