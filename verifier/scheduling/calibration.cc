#include "verifier/scheduling/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "common/base/status.h"
#include "verifier/scheduling/acceptance_history.h"
#include "verifier/scheduling/confidence_fit.h"
#include "verifier/scheduling/reliability.h"

namespace tandem::verifier {
namespace {

using speculation::InitialCalibration;

// Upper ends of the buckets; a bucket begins above the end of the one before.
constexpr std::array<float, kNumTemperatureBuckets> kBucketEnds = {0, 0.5f, 1,
                                                                   std::numeric_limits<float>::infinity()};

// How far a temperature lies outside a bucket; 0 inside.
float DistanceFrom(int bucket, float temperature) {
  const int own = TemperatureBucket(temperature);
  if (own == bucket) return 0;
  const float end =
      own < bucket ? kBucketEnds[static_cast<size_t>(bucket - 1)] : kBucketEnds[static_cast<size_t>(bucket)];
  // Just above the lower end would still be outside by nothing.
  return std::max(std::abs(temperature - end), std::numeric_limits<float>::min());
}

const InitialCalibration* StartOf(int bucket, speculation::AcceptanceMode mode,
                                  std::span<const InitialCalibration> sets) {
  const InitialCalibration* best = nullptr;
  for (const InitialCalibration& set : sets) {
    if (set.acceptance != mode || !std::isfinite(set.temperature) || set.temperature < 0) continue;
    if (best == nullptr) {
      best = &set;
      continue;
    }
    const float distance = DistanceFrom(bucket, set.temperature);
    const float best_distance = DistanceFrom(bucket, best->temperature);
    if (distance < best_distance || (distance == best_distance && set.temperature > best->temperature)) {
      best = &set;
    }
  }
  return best;
}

// Whether each draft has one and none, of drafts beyond them neither, is no number.
bool HasLogits(std::span<const float> logits, int num_drafts) {
  return logits.size() >= static_cast<size_t>(num_drafts) &&
         std::all_of(logits.begin(), logits.end(), [](float z) { return std::isfinite(z); });
}

}  // namespace

int TemperatureBucket(float temperature) {
  int bucket = 0;
  while (bucket + 1 < kNumTemperatureBuckets && !(temperature <= kBucketEnds[static_cast<size_t>(bucket)])) {
    ++bucket;
  }
  return bucket;
}

struct Calibration::Bucket {
  explicit Bucket(size_t block_size) : fits(block_size), history(block_size), expected(history.survivals()) {}

  void HeadSurvivals(std::span<const float> logits, size_t num_drafts, std::vector<double>& survivals) const {
    survivals.resize(num_drafts);
    double product = 1;
    for (size_t k = 0; k < num_drafts; ++k) survivals[k] = product *= fits[k].Confidence(logits[k]);
  }

  // Quadratic scores of both predictors, over recent rounds; who is trusted follows with hysteresis, and only
  // from differences that chance does not explain.
  void Judge(std::span<const double> head, std::span<const double> observed, int window, int accepted) {
    double head_error = 0, observed_error = 0;
    for (int k = 0; k < window; ++k) {
      const double label = k < accepted ? 1 : 0;
      const auto i = static_cast<size_t>(k);
      head_error += (head[i] - label) * (head[i] - label);
      observed_error += (observed[i] - label) * (observed[i] - label);
    }
    constexpr double kKeep = 1 - 1 / kGuardMemory;
    const double difference = head_error - observed_error;
    observed_score = kKeep * observed_score + observed_error;
    differences = kKeep * differences + difference;
    squared_differences = kKeep * squared_differences + difference * difference;
    judged_rounds = kKeep * judged_rounds + 1;
    if (judged_rounds < kFirstRounds) return;
    const double deviations = judged_rounds < kRoundsBeforeGuard ? kPlainDeviations : kGuardDeviations;
    const double slack = deviations * std::sqrt(squared_differences);
    if (trusted && differences > slack - kLeastGain * observed_score) trusted = false;
    if (!trusted && differences < -slack - kGainToReturn * observed_score) trusted = true;
  }

  // The mean of what was served follows the head's; observed acceptance is a mean already.
  void UpdateExpected(std::span<const double> head) {
    if (head.empty() || !trusted) {
      expected = history.survivals();
      return;
    }
    const double rate = 1 / std::min(++num_expected, kExpectedMemory);
    for (size_t k = 0; k < head.size(); ++k) expected[k] += rate * (head[k] - expected[k]);
    // Rounds of fewer drafts leave the later positions as they are.
    for (size_t k = 1; k < expected.size(); ++k) expected[k] = std::min(expected[k], expected[k - 1]);
  }

  std::vector<ConfidenceFit> fits;  // by position
  AcceptanceHistory history;
  std::vector<double> expected;
  double num_expected = 0;
  double observed_score = 0, judged_rounds = 0;
  double differences = 0, squared_differences = 0;  // of the head's score to the observed one
  bool trusted = true;
};

struct Calibration::State {
  explicit State(size_t size)
      : block_size(size), buckets(kNumTemperatureBuckets, Bucket(size)), reliability(size) {}

  Bucket& At(int bucket) {
    TANDEM_CHECK(bucket >= 0 && bucket < kNumTemperatureBuckets);
    return buckets[static_cast<size_t>(bucket)];
  }

  const size_t block_size;
  std::vector<Bucket> buckets;
  std::vector<Reliability> reliability;  // by position
  std::vector<double> head;              // work area
};

Calibration::Calibration(int block_size) {
  TANDEM_CHECK(block_size >= 1 && block_size <= speculation::kMaxBlockSize);
  state_ = std::make_unique<State>(static_cast<size_t>(block_size));
}
Calibration::~Calibration() = default;
Calibration::Calibration(Calibration&&) = default;
Calibration& Calibration::operator=(Calibration&&) = default;

void Calibration::Start(speculation::AcceptanceMode mode, std::span<const InitialCalibration> sets) {
  state_ = std::make_unique<State>(state_->block_size);
  for (int bucket = 0; bucket < kNumTemperatureBuckets; ++bucket) {
    const InitialCalibration* const set = StartOf(bucket, mode, sets);
    if (set == nullptr) continue;
    std::vector<ConfidenceFit>& fits = state_->At(bucket).fits;
    for (size_t k = 0; k < std::min(fits.size(), set->scale_bias.size()); ++k) {
      fits[k] = ConfidenceFit(set->scale_bias[k].first, set->scale_bias[k].second);
    }
  }
}

void Calibration::Survivals(int bucket, std::span<const float> logits, int num_drafts,
                            std::vector<double>& survivals) const {
  TANDEM_CHECK(num_drafts >= 0 && static_cast<size_t>(num_drafts) <= state_->block_size);
  const Bucket& own = state_->At(bucket);
  if (own.trusted && HasLogits(logits, num_drafts)) {
    own.HeadSurvivals(logits, static_cast<size_t>(num_drafts), survivals);
  } else {
    survivals.assign(own.history.survivals().begin(), own.history.survivals().begin() + num_drafts);
  }
}

std::span<const double> Calibration::ExpectedSurvivals(int bucket) const {
  return state_->At(bucket).expected;
}

void Calibration::Observe(int bucket, std::span<const float> logits, int window, int accepted) {
  TANDEM_CHECK(0 <= accepted && accepted <= window && static_cast<size_t>(window) <= state_->block_size);
  Bucket& own = state_->At(bucket);
  logits = logits.first(std::min(logits.size(), state_->block_size));
  std::vector<double>& head = state_->head;
  head.clear();
  if (HasLogits(logits, window)) own.HeadSurvivals(logits, logits.size(), head);
  const std::vector<double>& observed = own.history.survivals();
  const std::vector<double>& served = own.trusted && !head.empty() ? head : observed;
  for (int k = 0; k < window; ++k) {
    state_->reliability[static_cast<size_t>(k)].Observe(served[static_cast<size_t>(k)], k < accepted);
  }
  if (!head.empty() && window > 0) {
    own.Judge(head, observed, window, accepted);
    for (size_t k = 0; k < static_cast<size_t>(window); ++k) {
      const double before = k == 0 ? 1 : head[k - 1];
      if (before < 1e-12) break;  // nothing to learn beyond a draft that is never accepted
      own.fits[k].Observe(logits[k], before, head[k] / before, static_cast<int>(k) < accepted);
    }
  }
  own.history.Observe(window, accepted);
  own.UpdateExpected(head);
}

double Calibration::ExpectedCalibrationError(int position) const {
  TANDEM_CHECK(position >= 0 && static_cast<size_t>(position) < state_->block_size);
  return state_->reliability[static_cast<size_t>(position)].Error();
}

int Calibration::block_size() const { return static_cast<int>(state_->block_size); }

bool Calibration::Trusted(int bucket) const { return state_->At(bucket).trusted; }

}  // namespace tandem::verifier
