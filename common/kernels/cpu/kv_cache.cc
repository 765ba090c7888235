#include "common/kernels/kv_cache.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/cpu/large_pages.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kAlignment = 64;
// Kernels load V in full vectors of 16 elements, past the end if head_dim is no multiple of 16.
constexpr int64_t kSlackBytes = 64;

int64_t ElementBytes(KvType type) {
  switch (type) {
    case KvType::kF32:
      return 4;
    case KvType::kBF16:
      return 2;
    case KvType::kInt8:
      return 1;
  }
  TANDEM_CHECK(false);
}

class HostMemory : public KvMemory {
 public:
  explicit HostMemory(std::byte* data) : data_(data) {}
  ~HostMemory() override { std::free(data_); }
  std::byte* data() const override { return data_; }
  void Poison(std::byte* at, int64_t bytes) override { std::memset(at, 0xff, bytes); }

 private:
  std::byte* const data_;
};

}  // namespace

KvLayout KvLayout::Create(KvType type, std::vector<KvLayerShape> layers) {
  KvLayout layout;
  layout.type = type;
  layout.layers = std::move(layers);
  for (size_t i = 0; i < layout.layers.size(); ++i) {
    const KvLayerShape& layer = layout.layers[i];
    TANDEM_CHECK(layer.num_kv_heads > 0 && layer.head_dim > 0);
    layout.layer_offset.push_back(layout.block_bytes);
    const int64_t bytes = layer.num_kv_heads * layout.head_bytes(static_cast<int>(i));
    layout.block_bytes += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  return layout;
}

int64_t KvLayout::half_bytes(int layer) const {
  return int64_t{layers[layer].head_dim} * kKvBlockPositions * ElementBytes(type);
}

int64_t KvLayout::head_bytes(int layer) const {
  const int64_t scales = type == KvType::kInt8 ? kKvBlockPositions * sizeof(float) : 0;
  return 2 * (half_bytes(layer) + scales);
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(KvLayout layout, int num_blocks) {
  TANDEM_CHECK(num_blocks > 0 && layout.block_bytes > 0);
  std::byte* data = nullptr;
  if (layout.block_bytes <= (std::numeric_limits<int64_t>::max() - kSlackBytes) / num_blocks) {
    data = AllocateInLargePages(layout.block_bytes * num_blocks + kSlackBytes);
  }
  if (data == nullptr) {
    return ResourceExhausted("no memory for a KV cache of {} blocks of {} bytes", num_blocks,
                             layout.block_bytes);
  }
  return std::make_unique<KvCache>(std::move(layout), num_blocks, std::make_unique<HostMemory>(data));
}

void KvCache::Poison(int32_t b) {
  // All bits set is a NaN in f32, in bf16 and as the scale of int8.
  memory_->Poison(block(b), layout_.block_bytes);
}

}  // namespace tandem::kernels
