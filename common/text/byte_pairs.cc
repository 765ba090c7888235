#include "common/text/byte_pairs.h"

#include <algorithm>
#include <limits>
#include <queue>

namespace tandem::text {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

constexpr int32_t kGone = -1;
constexpr size_t kMaxWord = 32;  // symbols up to which the quadratic way is the faster one

struct Symbol {
  int32_t id;
  int32_t previous, next;  // -1 at the ends
};

// A pair as it was when it entered the queue; it may have changed since.
struct Candidate {
  int32_t rank, position;
  int32_t left, right, merged;
};

struct GoesLater {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

}  // namespace

bool BytePairMerges::Add(int32_t left, int32_t right, int32_t merged, int32_t rank) {
  return merges_.try_emplace(PairKey(left, right), Merge{rank, merged}).second;
}

const BytePairMerges::Merge* BytePairMerges::Find(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairMerges::ApplyToWord(std::span<const int32_t> ids, std::vector<int32_t>* out) const {
  constexpr Merge kNone = {std::numeric_limits<int32_t>::max(), kGone};
  int32_t symbols[kMaxWord];
  Merge pairs[kMaxWord];  // of each symbol and the next
  size_t n = ids.size();
  const auto look_up = [&](size_t i) {
    const Merge* merge = i + 1 < n ? Find(symbols[i], symbols[i + 1]) : nullptr;
    pairs[i] = merge != nullptr ? *merge : kNone;
  };
  std::copy(ids.begin(), ids.end(), symbols);
  for (size_t i = 0; i < n; ++i) look_up(i);
  while (true) {
    const size_t best =
        std::min_element(pairs, pairs + n, [](const Merge& a, const Merge& b) { return a.rank < b.rank; }) -
        pairs;
    if (pairs[best].merged == kGone) break;
    symbols[best] = pairs[best].merged;
    std::copy(symbols + best + 2, symbols + n, symbols + best + 1);
    std::copy(pairs + best + 2, pairs + n, pairs + best + 1);
    --n;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  out->insert(out->end(), symbols, symbols + n);
}

void BytePairMerges::Apply(std::span<const int32_t> ids, std::vector<int32_t>* out) const {
  const int32_t n = static_cast<int32_t>(ids.size());
  if (n < 2) {
    out->insert(out->end(), ids.begin(), ids.end());
    return;
  }
  if (ids.size() <= kMaxWord) return ApplyToWord(ids, out);
  std::vector<Symbol> symbols(n);
  for (int32_t i = 0; i < n; ++i) symbols[i] = {ids[i], i - 1, i + 1 < n ? i + 1 : -1};

  std::vector<Candidate> first;
  first.reserve(n);
  const auto candidate = [&](int32_t left, Candidate* out) {
    if (left < 0 || symbols[left].next < 0) return false;
    const int32_t left_id = symbols[left].id, right_id = symbols[symbols[left].next].id;
    const Merge* merge = Find(left_id, right_id);
    if (merge == nullptr) return false;
    *out = {merge->rank, left, left_id, right_id, merge->merged};
    return true;
  };
  Candidate pair;
  for (int32_t i = 0; i < n; ++i) {
    if (candidate(i, &pair)) first.push_back(pair);
  }
  std::priority_queue<Candidate, std::vector<Candidate>, GoesLater> queue(GoesLater{}, std::move(first));

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id != best.left || left.next < 0 || symbols[left.next].id != best.right)
      continue;  // changed since
    Symbol& right = symbols[left.next];
    left.id = best.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (candidate(left.previous, &pair)) queue.push(pair);
    if (candidate(best.position, &pair)) queue.push(pair);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) out->push_back(symbols[i].id);
}

}  // namespace tandem::text
