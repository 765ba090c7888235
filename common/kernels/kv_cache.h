// Paged key-value cache of one model: memory for `num_blocks` blocks of 16 positions, each holding all
// layers.
//
// A block is one contiguous stretch; layer l's part begins at layout.layers[l].offset and holds, per KV head
// h,
//   K [head_dim][16]  then  V [16][head_dim]  and, in int8, f32 scales of K [16] and of V [16]
// K with positions in vector lanes, V with the head dimension in lanes, so that attention needs no sum across
// lanes. Scales are of one position and head: writing a position changes no other. Layers may differ in heads
// and head_dim (layout), and may share another layer's part. Reading positions that no one has written is
// allowed and harmless only because attention selects, never multiplies, masked lanes. Not thread-safe across
// one block: the step loop decides who writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/kernels/types.h"

namespace tandem::kernels {

inline constexpr int kKvBlockPositions = 16;

struct KvLayerShape {
  int num_kv_heads = 0;
  int head_dim = 0;
};

struct KvLayout {
  KvType type = KvType::kBF16;
  std::vector<KvLayerShape> layers;
  std::vector<int64_t> layer_offset;  // bytes from the block's start
  int64_t block_bytes = 0;            // multiple of 64

  // Of a block: K of one KV head without scales (V takes as much), and all of one head.
  int64_t half_bytes(int layer) const;
  int64_t head_bytes(int layer) const;
  // Of one position in all layers; 0 without layers.
  int64_t position_bytes() const { return block_bytes / kKvBlockPositions; }

  static KvLayout Create(KvType type, std::vector<KvLayerShape> layers);
};

// Where a cache's blocks lie, if not in the host's memory.
class KvMemory {
 public:
  virtual ~KvMemory() = default;
  virtual std::byte* data() const = 0;
  // Sets all bits of `bytes` from `at` on.
  virtual void Poison(std::byte* at, int64_t bytes) = 0;
};

class KvCache {
 public:
  // In the host's memory. kResourceExhausted with the sizes if the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(KvLayout layout, int num_blocks);
  // In `memory`, which holds num_blocks * layout.block_bytes; what block() points to is then for its device
  // alone.
  KvCache(KvLayout layout, int num_blocks, std::unique_ptr<KvMemory> memory)
      : layout_(std::move(layout)),
        num_blocks_(num_blocks),
        memory_(std::move(memory)),
        data_(memory_->data()) {}

  const KvLayout& layout() const { return layout_; }
  int num_blocks() const { return num_blocks_; }
  std::byte* block(int32_t b) { return data_ + b * layout_.block_bytes; }
  const std::byte* block(int32_t b) const { return data_ + b * layout_.block_bytes; }

  // Fills a block with NaN patterns: tests prove that nothing reads what was not written.
  void Poison(int32_t b);

 private:
  KvLayout layout_;
  int num_blocks_;
  std::unique_ptr<KvMemory> memory_;
  std::byte* data_;
};

}  // namespace tandem::kernels
