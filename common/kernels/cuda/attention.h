// attention.h of the folder above on the device: the same cache, the same spans and the same operations in
// the same order, hence the same bits whatever else is in the step, and those of the CPU.
//
// A block of threads serves one KV head and up to 16 (row, query head) pairs of one sequence, for which it
// reads K and V once. Long contexts are cut: with few blocks otherwise, each span gets one of its own, whose
// results a second kernel joins in the spans' order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/kernels/attention.h"
#include "common/kernels/cuda/device.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

inline constexpr int kMaxDeviceHeadDim = 256;

// SequenceRows, as kernels read them.
struct DeviceSequence {
  int32_t first_row, num_rows, first_position;
  int32_t first_block;  // of the step's block tables, which lie one behind the other
  int32_t whole_block;
};

// Pairs [first_pair, first_pair + num_pairs) of a sequence and KV head; pair p is row p / heads_per_kv and
// query head p % heads_per_kv of the KV head's.
struct AttentionGroup {
  int32_t sequence, first_pair, num_pairs;
};

// What kernels need to know of a step beside its tokens, on the device.
class StepTables {
 public:
  // heads_per_kv: of the layers that will attend. Memory for `max_tokens` rows is had once; block tables grow
  // with what the longest step needs.
  static absl::StatusOr<StepTables> Create(int max_tokens, int heads_per_kv, Device& device);

  // Cuts the rows into groups and copies everything to the device. Block tables are read up to each
  // sequence's last row.
  void Load(std::span<const SequenceRows> sequences, Device& device);

  const DeviceSequence* sequences() const { return sequences_.as<const DeviceSequence>(); }
  const AttentionGroup* groups() const { return groups_.as<const AttentionGroup>(); }
  const int32_t* sequence_of_row() const { return sequence_of_row_.as<const int32_t>(); }  // [tokens]
  const int32_t* blocks() const { return blocks_.as<const int32_t>(); }
  int heads_per_kv() const { return heads_per_kv_; }
  int num_tokens() const { return static_cast<int>(host_sequence_of_row_.size()); }
  int num_groups() const { return static_cast<int>(host_groups_.size()); }
  int largest_group() const { return largest_group_; }  // pairs
  int32_t last_seen() const { return last_seen_; }      // the highest of all

 private:
  int heads_per_kv_ = 1, largest_group_ = 0;
  int32_t last_seen_ = 0;
  DeviceBuffer sequences_, groups_, sequence_of_row_, blocks_;
  std::vector<DeviceSequence> host_sequences_;
  std::vector<AttentionGroup> host_groups_;
  std::vector<int32_t> host_sequence_of_row_, host_blocks_;
};

// The memory of a KvCache on the device: block b at data + b * layout.block_bytes.
struct DeviceKv {
  std::byte* data;
  const KvLayout& layout;  // f32 or bf16
};

// k, v [tokens, kv_heads, head_dim], `stride` floats between tokens.
void WriteKv(const float* k, const float* v, int64_t stride, int layer, const StepTables& step,
             DeviceKv cache, Device& device);

// q, out [tokens, num_heads, head_dim]; num_heads = step.heads_per_kv() * kv_heads; head_dim at most
// kMaxDeviceHeadDim. `partials` is memory for spans that are computed apart; what does not fit into it, or
// needs no cutting, is not.
void Attention(const float* q, int64_t q_stride, int layer, const StepTables& step, DeviceKv cache,
               float scale, float* out, int64_t out_stride, int32_t window, std::span<float> partials,
               Device& device);

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
