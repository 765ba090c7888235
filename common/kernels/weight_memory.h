// Memory of packed weights: matrices that are packed one after the other lie one behind the other, in large
// pages where the system has them. A step passes over all weights, more than the address caches of small
// pages cover.
//
// Not thread-safe: whoever packs a model's matrices owns it. Matrices keep alive the chunk that they lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tandem::kernels {

class WeightMemory {
 public:
  // `bytes` aligned to 64, not initialised; null if there is no memory.
  std::shared_ptr<std::byte> Allocate(int64_t bytes);

 private:
  std::shared_ptr<std::byte> chunk_;
  int64_t used_ = 0, size_ = 0;
};

}  // namespace tandem::kernels
