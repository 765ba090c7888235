// Where each weight lies inside a panel of 16 rows (matrix.h). Offsets in bytes from the panel's start.
//
//   f32, bf16   column c, row r          [cols][16]
//   int8, q4    the quants of all blocks of 32 columns, then [blocks][16] f16 scales, then, if the matrix has
//               them, [blocks][16] f16 minimums
//     int8 block [8 groups][16 rows][4 columns] u8: q + 128
//     q4 block   [4][16 rows][4] u8: byte (i, r, k) holds column 4 i + k below and column 16 + 4 i + k above;
//                nibble = q + 8, q in [-8, 7], without minimum, and q itself, 0 to 15, with one
// A lane (row) thus reads 4 neighbouring columns as one 32-bit word, as byte dot products want them. Quants
// are stored unsigned because these instructions take one unsigned operand; a product subtracts offset *
// sum(x).
#pragma once

#include <cstdint>

#include "common/kernels/matrix.h"

namespace tandem::kernels {

inline constexpr int kGroupColumns = 4;
inline constexpr int kGroupsPerBlock = kBlockColumns / kGroupColumns;
inline constexpr int kInt8BlockBytes = kPanelRows * kBlockColumns;
inline constexpr int kInt4BlockBytes = kPanelRows * kBlockColumns / 2;
inline constexpr int kScaleBytes = kPanelRows * 2;  // one block's f16 scales, or minimums
inline constexpr int kInt8Offset = 128;

// How far ahead of its use a weight is asked for: more than memory answers in, less than the first cache
// holds.
inline constexpr int64_t kPrefetchBytes = 8 << 10;

inline bool IsQuantised(WeightType type) { return type == WeightType::kInt8 || type == WeightType::kInt4; }

// What is added to a quant when it is stored.
inline int QuantOffset(WeightType type, bool has_minimum) {
  if (type == WeightType::kInt8) return kInt8Offset;
  return has_minimum ? 0 : 8;
}

inline constexpr int64_t QuantBlockBytes(WeightType type) {
  return type == WeightType::kInt8 ? kInt8BlockBytes : kInt4BlockBytes;
}
inline int64_t ScalesOffset(WeightType type, int64_t cols) {
  return cols / kBlockColumns * QuantBlockBytes(type);
}
inline int64_t MinimumsOffset(WeightType type, int64_t cols) {
  return cols / kBlockColumns * (QuantBlockBytes(type) + kScaleBytes);
}

inline int64_t PanelBytes(WeightType type, int64_t cols, bool has_minimum) {
  switch (type) {
    case WeightType::kF32:
      return cols * kPanelRows * 4;
    case WeightType::kBF16:
      return (cols * kPanelRows * 2 + 63) / 64 * 64;
    case WeightType::kInt8:
    case WeightType::kInt4:
      break;
  }
  const int64_t block = QuantBlockBytes(type) + kScaleBytes * (has_minimum ? 2 : 1);
  return (cols / kBlockColumns * block + 63) / 64 * 64;
}

}  // namespace tandem::kernels
