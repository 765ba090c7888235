// Cuts row-wise work into parallel tiles worth a thread's while; small work stays on the caller.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/thread_pool.h"

namespace tandem::kernels {

// Calls f(begin, end) for ranges that together cover [0, n), each of about 16 Ki elements of `row_elements` a
// row: a few microseconds, against well under one for claiming a tile.
template <typename F>
void ForEachRange(int64_t n, int64_t row_elements, ThreadPool& pool, const F& f) {
  constexpr int64_t kTileElements = 16 << 10;
  const int64_t rows = std::max<int64_t>(1, kTileElements / std::max<int64_t>(1, row_elements));
  const int num_tiles = static_cast<int>((n + rows - 1) / rows);
  pool.ForEachTile(num_tiles, [&](int tile) { f(tile * rows, std::min(n, (tile + 1) * rows)); });
}

}  // namespace tandem::kernels
