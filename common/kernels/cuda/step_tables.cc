#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/base/status.h"
#include "common/kernels/cuda/attention.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

constexpr int kPairsPerGroup = 16;

template <typename T>
void Upload(const std::vector<T>& values, const DeviceBuffer& to, Device& device) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  TANDEM_CHECK(bytes <= to.bytes());
  device.Upload(to.data(), values.data(), bytes);
}

}  // namespace

absl::StatusOr<StepTables> StepTables::Create(int max_tokens, int heads_per_kv, Device& device) {
  StepTables tables;
  tables.heads_per_kv_ = heads_per_kv;
  // Each sequence's last group may be small: no more than if all had one row.
  const int64_t max_groups = int64_t{max_tokens} * ((heads_per_kv + kPairsPerGroup - 1) / kPairsPerGroup);
  ASSIGN_OR_RETURN(tables.sequences_, device.Allocate(max_tokens * sizeof(DeviceSequence)));
  ASSIGN_OR_RETURN(tables.groups_, device.Allocate(max_groups * sizeof(AttentionGroup)));
  ASSIGN_OR_RETURN(tables.sequence_of_row_, device.Allocate(max_tokens * sizeof(int32_t)));
  return tables;
}

void StepTables::Load(std::span<const SequenceRows> sequences, Device& device) {
  host_sequences_.clear();
  host_groups_.clear();
  host_sequence_of_row_.clear();
  host_blocks_.clear();
  largest_group_ = 0;
  last_seen_ = 0;
  for (const SequenceRows& rows : sequences) {
    const auto index = static_cast<int32_t>(host_sequences_.size());
    host_sequences_.push_back({rows.first_row, rows.num_rows, rows.first_position,
                               static_cast<int32_t>(host_blocks_.size()), rows.whole_block});
    const int32_t last = rows.first_position + rows.num_rows - 1;
    last_seen_ = std::max(last_seen_, last);
    const auto seen = rows.blocks.first(last / kKvBlockPositions + 1);
    host_blocks_.insert(host_blocks_.end(), seen.begin(), seen.end());
    host_sequence_of_row_.insert(host_sequence_of_row_.end(), rows.num_rows, index);
    const int32_t pairs = rows.num_rows * heads_per_kv_;
    for (int32_t first = 0; first < pairs; first += kPairsPerGroup) {
      const int32_t count = std::min(kPairsPerGroup, pairs - first);
      host_groups_.push_back({index, first, count});
      largest_group_ = std::max(largest_group_, count);
    }
  }
  const auto block_bytes = static_cast<int64_t>(host_blocks_.size() * sizeof(int32_t));
  if (blocks_.bytes() < block_bytes) {
    device.Synchronize();  // nobody reads the old ones any more
    absl::StatusOr<DeviceBuffer> grown = device.Allocate(2 * block_bytes);
    if (!grown.ok()) {
      std::fprintf(stderr, "a step's block tables: %s\n", std::string(grown.status().message()).c_str());
      std::abort();
    }
    blocks_ = *std::move(grown);
  }
  Upload(host_sequences_, sequences_, device);
  Upload(host_groups_, groups_, device);
  Upload(host_sequence_of_row_, sequence_of_row_, device);
  Upload(host_blocks_, blocks_, device);
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
