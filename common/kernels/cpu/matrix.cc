#include "common/kernels/matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/kernels/cpu/block_quants.h"
#include "common/kernels/cpu/panel.h"
#include "common/kernels/half.h"

namespace tandem::kernels {
namespace {

using formats::DType;
using formats::TensorView;

constexpr int64_t kMaxMatrixBytes = int64_t{1} << 40;

uint16_t LoadHalf(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

void StoreHalf(std::byte* p, uint16_t bits) { std::memcpy(p, &bits, sizeof bits); }

// Packs single rows of one tensor; several threads share it.
class RowPacker {
 public:
  RowPacker(const TensorView& tensor, WeightType type, bool has_minimum)
      : tensor_(tensor),
        type_(type),
        has_minimum_(has_minimum),
        exact_blocks_(kernels::IsQuantised(type) && HoldsBlocksExactly(type, tensor.dtype)) {}

  // Writes the tensor's row into lane `lane` of the panel; false if it holds what the type cannot.
  // `scratch` holds one row.
  bool PackRow(int64_t source_row, int lane, std::byte* panel, std::span<float> scratch) const {
    if (!exact_blocks_) formats::Dequantize(tensor_.dtype, tensor_.row(source_row), scratch);
    switch (type_) {
      case WeightType::kF32:
        return PackF32(lane, panel, scratch);
      case WeightType::kBF16:
        return PackBF16(lane, panel, scratch);
      case WeightType::kInt8:
      case WeightType::kInt4:
        return PackBlocks(source_row, lane, panel, scratch);
    }
    return false;
  }

 private:
  static bool PackF32(int lane, std::byte* panel, std::span<const float> row) {
    bool finite = true;
    for (size_t c = 0; c < row.size(); ++c) {
      finite &= std::isfinite(row[c]);
      std::memcpy(panel + (c * kPanelRows + lane) * sizeof(float), &row[c], sizeof(float));
    }
    return finite;
  }

  static bool PackBF16(int lane, std::byte* panel, std::span<const float> row) {
    bool finite = true;
    for (size_t c = 0; c < row.size(); ++c) {
      const uint16_t bits = BF16FromFloat(row[c]);
      finite &= std::isfinite(FloatFromBF16(bits));
      StoreHalf(panel + (c * kPanelRows + lane) * 2, bits);
    }
    return finite;
  }

  bool PackBlocks(int64_t source_row, int lane, std::byte* panel, std::span<const float> row) const {
    const int64_t cols = tensor_.shape[1];
    const int64_t block_bytes = formats::BlockBytes(tensor_.dtype);
    for (int64_t b = 0; b < cols / kBlockColumns; ++b) {
      BlockQuants block;
      const bool ok =
          exact_blocks_
              ? ReadBlock(tensor_.dtype, tensor_.row(source_row).subspan(b * block_bytes, block_bytes), block)
              : QuantiseBlock(type_, row.subspan(b * kBlockColumns).first<kBlockColumns>(), block);
      if (!ok) return false;
      StoreBlock(b, lane, block, panel);
    }
    return true;
  }

  void StoreBlock(int64_t b, int lane, const BlockQuants& block, std::byte* panel) const {
    const int64_t cols = tensor_.shape[1];
    const int offset = QuantOffset(type_, has_minimum_);
    std::byte* const quants = panel + b * QuantBlockBytes(type_);
    for (int c = 0; c < kBlockColumns; ++c) {
      const auto stored = static_cast<std::byte>(block.q[c] + offset);
      if (type_ == WeightType::kInt8) {
        quants[(c / kGroupColumns * kPanelRows + lane) * kGroupColumns + c % kGroupColumns] = stored;
      } else {
        const int low = c % (kBlockColumns / 2);
        std::byte& byte =
            quants[(low / kGroupColumns * kPanelRows + lane) * kGroupColumns + low % kGroupColumns];
        byte |= c < kBlockColumns / 2 ? stored : stored << 4;
      }
    }
    const int64_t at = b * kScaleBytes + lane * 2;
    StoreHalf(panel + ScalesOffset(type_, cols) + at, block.scale);
    if (has_minimum_) StoreHalf(panel + MinimumsOffset(type_, cols) + at, block.minimum);
  }

  const TensorView& tensor_;
  const WeightType type_;
  const bool has_minimum_;
  const bool exact_blocks_;
};

}  // namespace

WeightType LosslessWeightType(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_1:
      return WeightType::kInt4;
    case DType::kQ8_0:
    case DType::kQ5_0:
    case DType::kQ5_1:
      return WeightType::kInt8;
    case DType::kBF16:
      return WeightType::kBF16;
    default:
      return WeightType::kF32;
  }
}

absl::StatusOr<Matrix> Matrix::Pack(const TensorView& tensor, const PackOptions& options) {
  const char* const dtype = formats::DTypeName(tensor.dtype);
  if (tensor.shape.size() != 2 || tensor.shape[0] < 1 || tensor.shape[1] < 1) {
    return InvalidArgument("tensor '{}': expected two dimensions of at least 1, found {} dimensions",
                           tensor.name, tensor.shape.size());
  }
  if (!formats::CanDequantize(tensor.dtype)) {
    return InvalidArgument("tensor '{}': weights of type {} are not supported", tensor.name, dtype);
  }
  const int64_t cols = tensor.shape[1];
  const WeightType type = options.type;
  if (kernels::IsQuantised(type) && cols % kBlockColumns != 0) {
    return InvalidArgument("tensor '{}': {} weights need a multiple of {} columns, found {}", tensor.name,
                           WeightTypeName(type), kBlockColumns, cols);
  }
  for (const int32_t source : options.source_row) TANDEM_CHECK(source >= 0 && source < tensor.shape[0]);

  Matrix m;
  m.type_ = type;
  m.has_minimum_ = kernels::IsQuantised(type) && BlocksHaveMinimum(type, tensor.dtype);
  m.rows_ = options.source_row.empty() ? tensor.shape[0] : static_cast<int64_t>(options.source_row.size());
  m.cols_ = cols;
  if (m.num_panels() > kMaxMatrixBytes / (cols * kPanelRows * 4)) {
    return ResourceExhausted("tensor '{}': [{}, {}] is more than {} bytes", tensor.name, m.rows_, cols,
                             kMaxMatrixBytes);
  }
  m.panel_bytes_ = PanelBytes(type, cols, m.has_minimum_);
  m.bytes_ = m.num_panels() * m.panel_bytes_;
  if (options.memory != nullptr) {
    m.data_ = options.memory->Allocate(m.bytes_);
  } else {
    m.data_ = {static_cast<std::byte*>(std::aligned_alloc(64, m.bytes_)), [](std::byte* p) { std::free(p); }};
  }
  if (m.data_ == nullptr) {
    return ResourceExhausted("tensor '{}': no memory for {} bytes of packed weights", tensor.name, m.bytes_);
  }

  const RowPacker packer(tensor, type, m.has_minimum_);
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> bad_row{kNone};
  // One thread's share; each tile has its own scratch row.
  const int64_t panels_per_tile = std::max<int64_t>(1, m.num_panels() / 64);
  const int num_tiles = static_cast<int>((m.num_panels() + panels_per_tile - 1) / panels_per_tile);
  const auto pack_tile = [&](int tile) {
    std::vector<float> scratch(cols);
    const int64_t end = std::min(m.num_panels(), (tile + 1) * panels_per_tile);
    for (int64_t p = tile * panels_per_tile; p < end; ++p) {
      std::byte* const panel = m.data_.get() + p * m.panel_bytes_;
      std::memset(panel, 0, m.panel_bytes_);
      for (int lane = 0; lane < kPanelRows && p * kPanelRows + lane < m.rows_; ++lane) {
        const int64_t r = p * kPanelRows + lane;
        const int64_t source = options.source_row.empty() ? r : options.source_row[r];
        if (!packer.PackRow(source, lane, panel, scratch)) {
          int64_t seen = bad_row.load();
          while (source < seen && !bad_row.compare_exchange_weak(seen, source)) {
          }
        }
      }
    }
  };
  if (options.pool != nullptr) {
    options.pool->ForEachTile(num_tiles, pack_tile);
  } else {
    for (int tile = 0; tile < num_tiles; ++tile) pack_tile(tile);
  }
  if (bad_row.load() != kNone) {
    return InvalidArgument(
        "tensor '{}' ({}): row {} has weights that are not finite or beyond the range of {}", tensor.name,
        dtype, bad_row.load(), WeightTypeName(type));
  }
  return m;
}

void Matrix::DequantizeRow(int64_t r, std::span<float> out) const {
  TANDEM_CHECK(r >= 0 && r < rows_ && static_cast<int64_t>(out.size()) == cols_);
  const std::byte* const p = panel(r / kPanelRows);
  const int lane = static_cast<int>(r % kPanelRows);
  if (type_ == WeightType::kF32) {
    for (int64_t c = 0; c < cols_; ++c)
      std::memcpy(&out[c], p + (c * kPanelRows + lane) * sizeof(float), sizeof(float));
    return;
  }
  if (type_ == WeightType::kBF16) {
    for (int64_t c = 0; c < cols_; ++c) out[c] = FloatFromBF16(LoadHalf(p + (c * kPanelRows + lane) * 2));
    return;
  }
  const int offset = QuantOffset(type_, has_minimum_);
  for (int64_t b = 0; b < cols_ / kBlockColumns; ++b) {
    const int64_t at = b * kScaleBytes + lane * 2;
    const float scale = FloatFromF16(LoadHalf(p + ScalesOffset(type_, cols_) + at));
    const float minimum = has_minimum_ ? FloatFromF16(LoadHalf(p + MinimumsOffset(type_, cols_) + at)) : 0.0f;
    const std::byte* const quants = p + b * QuantBlockBytes(type_);
    for (int c = 0; c < kBlockColumns; ++c) {
      int stored;
      if (type_ == WeightType::kInt8) {
        stored = static_cast<uint8_t>(
            quants[(c / kGroupColumns * kPanelRows + lane) * kGroupColumns + c % kGroupColumns]);
      } else {
        const int low = c % (kBlockColumns / 2);
        const int byte = static_cast<uint8_t>(
            quants[(low / kGroupColumns * kPanelRows + lane) * kGroupColumns + low % kGroupColumns]);
        stored = c < kBlockColumns / 2 ? byte & 15 : byte >> 4;
      }
      // scale * quant is exact in f32 (11 and 8 bits), so fusing or not gives the same value.
      out[b * kBlockColumns + c] = scale * static_cast<float>(stored - offset) + minimum;
    }
  }
}

}  // namespace tandem::kernels
