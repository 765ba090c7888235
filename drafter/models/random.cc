#include "drafter/models/random.h"

#include "common/base/status.h"

namespace tandem::drafter {
namespace {

// SplitMix64's finaliser.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class RandomDrafter final : public TokenDrafter {
 public:
  explicit RandomDrafter(const RandomOptions& options) : seed_(options.seed) {
    TANDEM_CHECK(options.vocab_size >= 1);
    TANDEM_CHECK(options.block_size >= 1 && options.block_size <= speculation::kMaxBlockSize);
    info_.algorithm = info_.name = "random";
    info_.vocab_size = options.vocab_size;
    info_.block_size = options.block_size;
  }

 private:
  void Propose(const DraftRequest& request, DraftedBlock& block) override {
    uint64_t hash = Mix(seed_ ^ request.id);
    hash = Mix(hash ^ (uint64_t{request.epoch} << 32 | request.round));
    for (int32_t i = 0; i < info_.block_size; ++i) {
      const uint64_t draw = Mix(hash + static_cast<uint64_t>(i)) >> 32;  // times the size: no modulo bias
      block.tokens.push_back(static_cast<int32_t>(draw * static_cast<uint64_t>(info_.vocab_size) >> 32));
    }
  }

  const uint64_t seed_;
};

}  // namespace

std::unique_ptr<DraftModel> NewRandomDrafter(const RandomOptions& options) {
  return std::make_unique<RandomDrafter>(options);
}

}  // namespace tandem::drafter
