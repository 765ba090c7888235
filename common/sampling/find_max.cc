#include <algorithm>
#include <cstddef>
#include <limits>

#include "common/sampling/row_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/sampling/find_max.cc"
#include <hwy/foreach_target.h>  // compiles the part below once per instruction set
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::sampling::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Largest of the values, all of them finite or -inf unless *has_nan is set.
float MaxOfChunk(std::span<const float> chunk, bool* has_nan) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto max0 = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto max1 = max0;
  auto nan = hn::IsNaN(max0);
  size_t v = 0;
  for (; v + 2 * lanes <= chunk.size(); v += 2 * lanes) {
    const auto x0 = hn::LoadU(d, &chunk[v]);
    const auto x1 = hn::LoadU(d, &chunk[v + lanes]);
    max0 = hn::Max(max0, x0);
    max1 = hn::Max(max1, x1);
    nan = hn::Or(nan, hn::Or(hn::IsNaN(x0), hn::IsNaN(x1)));
  }
  float max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
  *has_nan |= !hn::AllFalse(d, nan);
  for (; v < chunk.size(); ++v) {
    max = chunk[v] > max ? chunk[v] : max;
    *has_nan |= chunk[v] != chunk[v];
  }
  return max;
}

}  // namespace tandem::sampling::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::sampling {
HWY_EXPORT(MaxOfChunk);

RowMax FindMax(std::span<const float> row) {
  constexpr size_t kChunk = 1024;  // the id is searched in the winning chunk only
  RowMax best = {-std::numeric_limits<float>::infinity(), 0, false};
  size_t best_chunk = 0;
  for (size_t begin = 0; begin < row.size(); begin += kChunk) {
    const auto chunk = row.subspan(begin, std::min(kChunk, row.size() - begin));
    const float max = HWY_DYNAMIC_DISPATCH(MaxOfChunk)(chunk, &best.has_nan);
    if (max > best.value) {
      best.value = max;
      best_chunk = begin;
    }
  }
  const auto found = std::find(row.begin() + static_cast<ptrdiff_t>(best_chunk), row.end(), best.value);
  if (found != row.end()) best.id = static_cast<int32_t>(found - row.begin());  // else NaN, or an empty row
  return best;
}

}  // namespace tandem::sampling
#endif
