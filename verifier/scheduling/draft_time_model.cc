#include "verifier/scheduling/draft_time_model.h"

#include <algorithm>
#include <cmath>

namespace tandem::verifier {
namespace {

// While there are few rounds each counts at once; later the fit, some ten thousand instructions, can wait.
constexpr size_t kFewRounds = 12;
constexpr int kRoundsBetweenFits = 8;

template <typename T>
void Push(std::vector<T>& ring, size_t& next, size_t capacity, const T& value) {
  if (ring.size() < capacity) {
    ring.push_back(value);
    return;
  }
  ring[next] = value;
  next = (next + 1) % capacity;
}

// The value at rank floor(share * (size - 1)); reorders.
double Quantile(std::vector<double>& values, double share) {
  const auto rank = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return values[static_cast<size_t>(rank)];
}

bool IsTime(double seconds) { return seconds > 0 && std::isfinite(seconds); }

}  // namespace

void DraftTimeModel::ObserveRound(int num_sequences, double seconds) {
  if (num_sequences <= 0 || !IsTime(seconds)) return;
  Push(rounds_, next_round_, kFitRounds, Round{static_cast<double>(num_sequences), seconds});
  Push(seconds_, next_seconds_, kPercentileRounds, seconds);
  if (rounds_.size() > kFewRounds && ++rounds_since_fit_ < kRoundsBetweenFits) return;
  rounds_since_fit_ = 0;
  Fit();
}

void DraftTimeModel::ObserveTimeout(double seconds) {
  if (!known() && IsTime(seconds)) base_ = std::max(base_, seconds);
}

void DraftTimeModel::Fit() {
  work_.clear();
  for (size_t i = 0; i < rounds_.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const double distance = rounds_[i].num_sequences - rounds_[j].num_sequences;
      if (distance != 0) work_.push_back((rounds_[i].seconds - rounds_[j].seconds) / distance);
    }
  }
  slope_ = work_.empty() ? 0 : std::max(Quantile(work_, 0.5), 0.0);
  work_.clear();
  for (const Round& round : rounds_) work_.push_back(round.seconds - slope_ * round.num_sequences);
  base_ = Quantile(work_, 0.5);
  if (base_ >= 0) return;
  // A line through the origin fits what is left of noise and curvature.
  work_.clear();
  for (const Round& round : rounds_) work_.push_back(round.seconds / round.num_sequences);
  slope_ = Quantile(work_, 0.5);
  base_ = 0;
}

void DraftTimeModel::ObserveOverlap(double predicted_seconds, double real_seconds, double overlap_seconds) {
  if (!IsTime(predicted_seconds) || !IsTime(real_seconds) || !IsTime(overlap_seconds)) return;
  if (overlap_seconds < kMinOverlapShare * predicted_seconds) return;
  // Not clamped here: noise goes both ways, and the median must see both.
  Push(overlap_shares_, next_overlap_, kOverlaps, (real_seconds - predicted_seconds) / overlap_seconds);
  if (!interference_known()) return;
  work_ = overlap_shares_;
  interference_ = std::clamp(Quantile(work_, 0.5), 0.0, 1.0);
}

double DraftTimeModel::RoundSeconds(int num_sequences) const {
  return num_sequences <= 0 ? 0 : base_ + slope_ * num_sequences;
}

double DraftTimeModel::P99RoundSeconds() const {
  if (seconds_.empty()) return 0;
  std::vector<double> sorted = seconds_;
  // Rounded up: of fewer than a hundred the longest.
  const auto rank = static_cast<size_t>(std::ceil(0.99 * static_cast<double>(sorted.size()))) - 1;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(rank), sorted.end());
  return sorted[rank];
}

}  // namespace tandem::verifier
