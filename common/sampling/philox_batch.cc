#include "common/sampling/philox_batch.h"

#include <algorithm>
#include <array>

#include "common/sampling/philox.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/sampling/philox_batch.cc"
#include <hwy/foreach_target.h>  // compiles the part below once per instruction set
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::sampling::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR  // Highway's baseline on x86-64; its one lane leaves no room for the pairs below

uint32_t PhiloxWordsVector(uint64_t seed, uint64_t index, uint32_t tag, uint32_t first_token,
                           std::span<uint32_t, kPhiloxBatch> words) {
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (uint32_t i = 0; i < words.size(); i += 4) {
    const PhiloxBlock block = Philox4x32_10(
        {(first_token + i) / 4, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), tag}, key);
    std::copy(block.begin(), block.end(), words.begin() + i);
  }
  return *std::max_element(words.begin(), words.end());
}

#else

// One block per 64-bit lane. Each counter word lies in the low half of its lane; the high half holds garbage,
// which neither MulEven nor xor carry downwards.
uint32_t PhiloxWordsVector(uint64_t seed, uint64_t index, uint32_t tag, uint32_t first_token,
                           std::span<uint32_t, kPhiloxBatch> words) {
  const hn::CappedTag<uint64_t, 8> d;  // 8 blocks = 32 tokens, so that the sizes divide
  const hn::Repartition<uint32_t, decltype(d)> d32;
  using V = hn::Vec<decltype(d)>;
  const auto multiplier0 = hn::Set(d32, kPhiloxMultiplier0);
  const auto multiplier1 = hn::Set(d32, kPhiloxMultiplier1);
  const size_t lanes = hn::Lanes(d);
  auto max = hn::Zero(d32);
  for (size_t i = 0; i < words.size(); i += 4 * lanes) {
    V c0 = hn::Iota(d, (first_token + i) / 4);
    V c1 = hn::Set(d, index & 0xffffffffu);
    V c2 = hn::Set(d, index >> 32);
    V c3 = hn::Set(d, tag);
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const V product0 = hn::MulEven(hn::BitCast(d32, c0), multiplier0);
      const V product1 = hn::MulEven(hn::BitCast(d32, c2), multiplier1);
      c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c1), hn::Set(d, k0));
      c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c3), hn::Set(d, k1));
      c1 = product1;
      c3 = product0;
      k0 += kPhiloxWeyl0;
      k1 += kPhiloxWeyl1;
    }
    // Words 0 and 1, then 2 and 3 of each block, as little-endian pairs.
    const V low_half = hn::Set(d, 0xffffffffu);
    const V pair0 = hn::Or(hn::And(c0, low_half), hn::ShiftLeft<32>(c1));
    const V pair1 = hn::Or(hn::And(c2, low_half), hn::ShiftLeft<32>(c3));
    max = hn::Max(max, hn::Max(hn::BitCast(d32, pair0), hn::BitCast(d32, pair1)));
    hn::StoreInterleaved2(pair0, pair1, d, reinterpret_cast<uint64_t*>(words.data() + i));
  }
  return hn::GetLane(hn::MaxOfLanes(d32, max));
}

#endif

}  // namespace tandem::sampling::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::sampling {
HWY_EXPORT(PhiloxWordsVector);

uint32_t PhiloxWords(uint64_t seed, uint64_t index, uint32_t tag, uint32_t first_token,
                     std::span<uint32_t, kPhiloxBatch> words) {
  return HWY_DYNAMIC_DISPATCH(PhiloxWordsVector)(seed, index, tag, first_token, words);
}
}  // namespace tandem::sampling
#endif
