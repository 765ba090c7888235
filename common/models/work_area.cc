#include "common/models/work_area.h"

#include <algorithm>
#include <cstdlib>

#include "common/base/status.h"

namespace tandem::models {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

void WorkArea::Free::operator()(std::byte* p) const { std::free(p); }

absl::StatusOr<WorkArea> WorkArea::Create(const std::vector<int64_t>& sizes) {
  WorkArea area;
  int64_t bytes = 0;
  for (const int64_t size : sizes) {
    area.offsets_.push_back(bytes);
    bytes += (size * static_cast<int64_t>(sizeof(float)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  area.data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, std::max(bytes, kAlignment))));
  if (area.data_ == nullptr) return ResourceExhausted("no memory for work areas of {} bytes", bytes);
  return area;
}

}  // namespace tandem::models
