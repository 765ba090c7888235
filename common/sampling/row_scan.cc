#include "common/sampling/row_scan.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace tandem::sampling {
namespace {

constexpr size_t kLanes = 16;  // independent maxima, enough for any vector width
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Largest of kLanes values.
float LanesMax(const float* values) {
  float lanes[kLanes / 2];
  for (size_t j = 0; j < kLanes / 2; ++j) {
    lanes[j] = values[j] > values[j + kLanes / 2] ? values[j] : values[j + kLanes / 2];
  }
  float best = lanes[0];
  for (size_t j = 1; j < kLanes / 2; ++j) best = lanes[j] > best ? lanes[j] : best;
  return best;
}

// Calls visit(v) for every v with accept(row[v]), by id. A block is looked at closely only if its maximum is
// accepted, so accept must be monotone; it may grow stricter while the scan runs.
template <typename Accept, typename Visit>
void VisitAccepted(std::span<const float> row, const Accept& accept, const Visit& visit) {
  size_t v = 0;
  for (; v + kLanes <= row.size(); v += kLanes) {
    if (!accept(LanesMax(&row[v]))) continue;
    for (size_t j = v; j < v + kLanes; ++j) {
      if (accept(row[j])) visit(static_cast<int32_t>(j));
    }
  }
  for (; v < row.size(); ++v) {
    if (accept(row[v])) visit(static_cast<int32_t>(v));
  }
}

}  // namespace

float BlockMax(std::span<const float> block) {
  float best = kMinusInfinity;
  size_t v = 0;
  for (; v + kLanes <= block.size(); v += kLanes) best = std::max(best, LanesMax(&block[v]));
  for (; v < block.size(); ++v) best = std::max(best, block[v]);
  return best;
}

void CollectAtLeast(std::span<const float> row, float bound, std::vector<Candidate>& out) {
  out.clear();
  VisitAccepted(
      row, [&](float x) { return x >= bound; },
      [&](int32_t v) { out.emplace_back(row[static_cast<size_t>(v)], v); });
}

void CollectLargest(std::span<const float> row, int64_t k, std::vector<Candidate>& out) {
  out.clear();
  const auto count = static_cast<size_t>(k);
  if (count >= row.size()) {
    for (size_t v = 0; v < row.size(); ++v) out.emplace_back(row[v], static_cast<int32_t>(v));
    return;
  }
  const size_t full = std::max<size_t>(2 * count, 256);
  // Once `out` has been cut to k, a later id must be strictly larger than its last: an equal one comes after
  // it.
  float bound = kMinusInfinity;
  bool cut = false;
  const auto cut_to_k = [&] {
    if (out.size() <= count) return;
    std::nth_element(out.begin(), out.begin() + static_cast<ptrdiff_t>(count) - 1, out.end(), Before);
    out.resize(count);
    bound = out[count - 1].first;
    cut = true;
  };
  VisitAccepted(
      row, [&](float x) { return cut ? x > bound : x >= bound; },
      [&](int32_t v) {
        out.emplace_back(row[static_cast<size_t>(v)], v);
        if (out.size() >= full) cut_to_k();
      });
  cut_to_k();
}

}  // namespace tandem::sampling
