// Predicts how long one step of the verifier takes, and learns from every step it takes.
//
//   T(B, C, P) = offset + table(B) + kappa * C + pi * P
//
//   B  decode rows of the step: anchors and drafts      table: piecewise linear in B, never falling
//   C  KV positions read, all sequences together        kappa: seconds a position
//   P  prefill tokens                                   pi: seconds a token
//
// A step without decode rows still reads the weights, so table(0) is table(1).
//
//   auto model = StepTimeModel::FromMeasurements(points);    // measured at start, or loaded
//   (step_time_cache.h) const double seconds = model.Predict(shape); const double error =
//   model.Observe(shape, measured);     // after the step
//
// Pure arithmetic: no clock, no lock. Not thread-safe; the step loop owns it.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::verifier {

struct StepShape {
  int num_decode_rows = 0;       // B
  int64_t num_kv_positions = 0;  // C
  int num_prefill_tokens = 0;    // P
};

// One measured step of `num_decode_rows` rows with short contexts.
struct StepTimePoint {
  int num_decode_rows = 0;
  double seconds = 0;
};

// The rows that the engine measures at start, and all that the table has: closer where arithmetic begins to
// count and libraries change kernels (an H100 has a cliff between 256 and 384 rows).
inline constexpr std::array<int, 5> kMeasuredDecodeRows = {1, 2, 4, 8, 16};
inline constexpr std::array<int, 14> kTableDecodeRows = {1,   2,   4,   8,   16,  32,  64,
                                                         128, 192, 256, 384, 512, 768, 1024};

// Everything the model knows, as the cache file keeps it.
struct StepTimeParameters {
  std::array<double, kTableDecodeRows.size()> table_seconds = {};  // positive, never falling
  // How many leading points of the table have been measured or observed; the others continue the last slope.
  int num_known_points = 0;
  double kappa_seconds = 0;   // >= 0
  double pi_seconds = 0;      // >= 0
  double offset_seconds = 0;  // within +-table(1) / 2

  // kInvalidArgument naming the field: not finite, out of range, falling.
  absl::Status Validate() const;
};

class StepTimeModel {
 public:
  // A single observation moves the prediction for its own shape by no more than about this share: a step that
  // the machine interrupted cannot spoil the model, a lasting change is followed within some 40 steps.
  static constexpr double kMaxErrorShare = 0.25;  // a larger error counts as this one
  static constexpr double kLearningRate = 0.2;
  static constexpr double kMaxCorrectionShare = 2 * kLearningRate * kMaxErrorShare;
  // A point of the table that was never seen gives way this many times as readily as one that was seen often,
  // so that steps between the two teach the former and do not spoil the latter.
  static constexpr double kUnseenReadiness = 16;
  // The knee is the number of decode rows at which a step takes this many times the time of a single row:
  // about where arithmetic takes as long as reading the weights.
  static constexpr double kKneeFactor = 2.0;

  // Points with rows 1 and 2 at least, of kTableDecodeRows, ascending, without gaps; seconds positive and
  // finite. A time below that of fewer rows is noise and taken as equal. kInvalidArgument otherwise.
  static absl::StatusOr<StepTimeModel> FromMeasurements(std::span<const StepTimePoint> points);
  static absl::StatusOr<StepTimeModel> FromParameters(const StepTimeParameters& parameters);

  // Positive seconds. Grows with each of the shape's numbers; all are >= 0.
  double Predict(const StepShape& shape) const;

  // Corrects table, kappa, pi and offset by a measured step. Returns |predicted - measured| / measured from
  // before the correction, for the metric step_prediction_error_ratio. A measurement that is not positive and
  // finite is not learnt from and returns 0.
  double Observe(const StepShape& shape, double measured_seconds);

  // In rows, >= 1; see kKneeFactor. A table that never gets there gives its last number of rows.
  double Knee() const;

  const StepTimeParameters& parameters() const { return parameters_; }

 private:
  explicit StepTimeModel(const StepTimeParameters& parameters);

  double Table(int num_decode_rows) const;
  void CorrectTable(size_t point, double change);
  void ExtendTable();
  double Readiness(size_t point) const;
  void AddEvidence(size_t point, double weight);

  StepTimeParameters parameters_;
  // How often each point was seen of late, up to kUnseenReadiness - 1.
  std::array<double, kTableDecodeRows.size()> evidence_ = {};
};

}  // namespace tandem::verifier
