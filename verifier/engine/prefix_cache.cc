#include "verifier/engine/prefix_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <optional>

#include "common/base/status.h"

namespace tandem::verifier {

PrefixCache::PrefixCache(BlockPool& pool, bool enabled)
    : pool_(pool), enabled_(enabled), entries_(pool.total()), index_(0, Hash{&entries_}, Equal{&entries_}) {
  if (enabled_) index_.reserve(pool.total());
}

size_t PrefixCache::Hash::operator()(const Probe& probe) const {
  const XXH64_hash_t seed = XXH3_64bits_withSeed(probe.owner.data(), probe.owner.size(), probe.parent);
  return XXH3_64bits_withSeed(probe.tokens.data(), probe.tokens.size_bytes(), seed);
}
size_t PrefixCache::Hash::operator()(int32_t block) const {
  const Entry& entry = (*entries)[block];
  return (*this)(Probe{entry.parent.number, entry.owner, entry.tokens});
}

bool PrefixCache::Equal::operator()(const Probe& a, const Probe& b) const {
  return a.parent == b.parent && a.owner == b.owner && std::ranges::equal(a.tokens, b.tokens);
}
PrefixCache::Probe PrefixCache::Equal::ProbeOf(int32_t block) const {
  const Entry& entry = (*entries)[block];
  return {entry.parent.number, entry.owner, entry.tokens};
}

PrefixCache::Probe PrefixCache::MakeProbe(const PrefixEntry& parent, std::string_view owner,
                                          std::span<const int32_t> tokens) {
  TANDEM_CHECK(tokens.size() == kBlock);
  return {parent.number, parent.number == 0 ? owner : std::string_view(), tokens};
}

int32_t PrefixCache::Find(const Probe& probe) const {
  const auto found = index_.find(probe);
  return found == index_.end() ? kNone : *found;
}

std::vector<int32_t> PrefixCache::Match(std::string_view owner, std::span<const int32_t> tokens,
                                        int32_t max_length, PrefixEntry* last) {
  *last = PrefixEntry();
  std::vector<int32_t> blocks;
  for (int32_t end = kBlock; end <= max_length; end += kBlock) {
    const int32_t block = MatchNext(owner, last, tokens.subspan(end - kBlock, kBlock));
    if (block == kNone) break;
    blocks.push_back(block);
  }
  return blocks;
}

PrefixCache::Found PrefixCache::Peek(std::string_view owner, std::span<const int32_t> tokens,
                                     int32_t max_length) const {
  Found found;
  PrefixEntry parent;
  for (int32_t end = kBlock; enabled_ && end <= max_length; end += kBlock) {
    const int32_t block = Find(MakeProbe(parent, owner, tokens.subspan(end - kBlock, kBlock)));
    if (block == kNone || (usable_ && !usable_(block))) break;
    ++found.blocks;
    found.unreferenced += pool_.is_cached(block);
    parent = {entries_[block].number, block};
  }
  return found;
}

int32_t PrefixCache::MatchNext(std::string_view owner, PrefixEntry* parent,
                               std::span<const int32_t> block_tokens) {
  if (!enabled_) return kNone;
  const int32_t block = Find(MakeProbe(*parent, owner, block_tokens));
  if (block == kNone || (usable_ && !usable_(block))) return kNone;
  Share(block);
  *parent = {entries_[block].number, block};
  return block;
}

int32_t PrefixCache::Insert(std::string_view owner, PrefixEntry* parent,
                            std::span<const int32_t> block_tokens, int32_t block) {
  if (!enabled_) return block;
  const Probe probe = MakeProbe(*parent, owner, block_tokens);
  if (const int32_t twin = Find(probe); twin != kNone) {
    TANDEM_CHECK(twin != block);
    Share(twin);
    ReleaseOne(block);
    *parent = {entries_[twin].number, twin};
    return twin;
  }
  Entry& entry = entries_[block];
  TANDEM_CHECK(entry.number == 0);
  entry.number = ++last_number_;
  entry.parent = *parent;
  entry.owner = probe.owner;
  std::ranges::copy(block_tokens, entry.tokens.begin());
  if (parent->number != 0) {
    TANDEM_CHECK(entries_[parent->block].number == parent->number);
    ++entries_[parent->block].num_children;
  }
  index_.insert(block);
  *parent = {entry.number, block};
  return block;
}

int32_t PrefixCache::Take() {
  if (pool_.free() == 0 && oldest_ != kNone) Evict(oldest_);
  return pool_.Take().value_or(kNone);
}

void PrefixCache::Release(std::span<const int32_t> blocks) {
  for (size_t i = blocks.size(); i-- > 0;) ReleaseOne(blocks[i]);
}

void PrefixCache::Share(int32_t block) {
  if (pool_.is_cached(block)) Unlink(block);
  pool_.Share(block);
}

void PrefixCache::ReleaseOne(int32_t block) {
  const bool keep = entries_[block].number != 0;
  if (pool_.Release(block, keep) && keep) Append(block);
}

void PrefixCache::Evict(int32_t block) {
  Entry& entry = entries_[block];
  TANDEM_CHECK(entry.num_children == 0);
  Unlink(block);
  index_.erase(block);
  if (entry.parent.number != 0) --entries_[entry.parent.block].num_children;
  entry.number = 0;
  entry.parent = PrefixEntry();
  entry.owner.clear();
  pool_.Discard(block);
}

void PrefixCache::Append(int32_t block) {
  entries_[block].older = newest_;
  entries_[block].newer = kNone;
  (newest_ == kNone ? oldest_ : entries_[newest_].newer) = block;
  newest_ = block;
}

void PrefixCache::Unlink(int32_t block) {
  Entry& entry = entries_[block];
  (entry.older == kNone ? oldest_ : entries_[entry.older].newer) = entry.newer;
  (entry.newer == kNone ? newest_ : entries_[entry.newer].older) = entry.older;
  entry.older = entry.newer = kNone;
}

}  // namespace tandem::verifier
