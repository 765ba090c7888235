#include "verifier/engine/fair_shares.h"

#include <algorithm>
#include <vector>

#include "common/base/status.h"

namespace tandem::verifier {

void DivideFairly(int64_t capacity, std::span<const int64_t> demands, size_t first,
                  std::span<int64_t> grants) {
  TANDEM_CHECK(grants.size() == demands.size());
  std::ranges::fill(grants, 0);
  const size_t n = demands.size();
  // Each round gives every unsatisfied entry an equal part of what is left; a round satisfies somebody, or
  // gives all away.
  while (capacity > 0) {
    int64_t num_hungry = 0;
    for (size_t i = 0; i < n; ++i) num_hungry += grants[i] < demands[i];
    if (num_hungry == 0) return;
    const int64_t part = capacity / num_hungry;
    if (part == 0) {
      for (size_t k = 0; k < n && capacity > 0; ++k) {
        const size_t i = (first + k) % n;
        if (grants[i] >= demands[i]) continue;
        ++grants[i];
        --capacity;
      }
      return;
    }
    for (size_t i = 0; i < n; ++i) {
      const int64_t more = std::min(part, demands[i] - grants[i]);
      if (more <= 0) continue;
      grants[i] += more;
      capacity -= more;
    }
  }
}

int64_t ShareOf(size_t self, int64_t capacity, std::span<const int64_t> demands) {
  if (capacity <= 0) return 0;
  std::vector<int64_t> wishes(demands.begin(), demands.end());
  wishes[self] = capacity;
  std::vector<int64_t> grants(wishes.size());
  DivideFairly(capacity, wishes, self, grants);
  return std::max<int64_t>(1, grants[self]);
}

}  // namespace tandem::verifier
