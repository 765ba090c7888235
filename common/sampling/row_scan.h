// Vectorised scans over one row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace tandem::sampling {

// Largest value and the lowest id that has it; -inf and 0 if every value is -inf or the row is empty.
struct RowMax {
  float value;
  int32_t id;
  bool has_nan;  // then value and id mean nothing
};
RowMax FindMax(std::span<const float> row);

// Largest value of a short, not empty, piece of a row without NaN.
float BlockMax(std::span<const float> block);

using Candidate = std::pair<float, int32_t>;  // (value, token id)
// The order of all filters: larger value first, equal ones by id.
inline bool Before(const Candidate& a, const Candidate& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

// out = all (row[v], v) with row[v] >= bound, by id.
void CollectAtLeast(std::span<const float> row, float bound, std::vector<Candidate>& out);

// out = the k first of the row in the order Before, in no particular order. 1 <= k; no NaN in the row.
void CollectLargest(std::span<const float> row, int64_t k, std::vector<Candidate>& out);

}  // namespace tandem::sampling
