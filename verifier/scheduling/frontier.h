// Drafts of many sequences in the order in which they deserve to be checked.
//
// The frontier holds, of each sequence, the first draft that is not yet admitted; the likeliest of them is
// admitted next and its successor takes its place. Survivals do not rise along a sequence, so this is their
// descending order, and the best choice of n drafts for every n (dspark.md 6.4). What Next returns depends on
// drafts already returned and on their successors only, never on later ones: a search that stops at the first
// draft that does not pay has not looked ahead.
//
// Next costs O(log R). Not thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

// Between drafts of equal survival.
enum class TieBreak {
  kPosition,  // the earlier position, then the lower order: windows grow evenly
  kOrder,     // the lower order, whatever the position: as published tables have it
};

class Frontier {
 public:
  struct Draft {
    size_t sequence = 0;  // index
    double survival = 0;  // > 0; not above that of the draft before it in its sequence
  };

  // Borrows the sequences. A survival that rises counts as the one before it; one that is not above 0 (or is
  // no number) ends its sequence.
  explicit Frontier(std::span<const DraftedSequence> sequences, TieBreak tie_break = TieBreak::kPosition)
      : sequences_(sequences), tie_break_(tie_break) {
    heap_.reserve(sequences.size());
    for (size_t i = 0; i < sequences.size(); ++i) {
      Node node = {.sequence = static_cast<uint32_t>(i)};
      if (Advance(node, 1)) heap_.push_back(node);
    }
    for (size_t i = heap_.size() / 2; i-- > 0;) SiftDown(i);
  }

  // False when no draft is left.
  bool Next(Draft& draft) {
    if (heap_.empty()) return false;
    Node& top = heap_.front();
    draft = {top.sequence, top.survival};
    if (!Advance(top, top.survival)) {
      top = heap_.back();
      heap_.pop_back();
    }
    SiftDown(0);
    return true;
  }

 private:
  struct Node {
    double survival = 0;
    uint32_t sequence = 0;
    uint32_t position = 0;  // of this draft, from 1
  };

  // To the sequence's next draft; false if there is none.
  bool Advance(Node& node, double limit) const {
    const std::span<const double> survivals = sequences_[node.sequence].survivals;
    if (node.position >= survivals.size() || !(survivals[node.position] > 0)) return false;
    node.survival = std::min(survivals[node.position], limit);
    ++node.position;
    return true;
  }

  bool Before(const Node& a, const Node& b) const {
    if (a.survival != b.survival) return a.survival > b.survival;
    if (tie_break_ == TieBreak::kPosition && a.position != b.position) return a.position < b.position;
    const uint64_t a_order = sequences_[a.sequence].order, b_order = sequences_[b.sequence].order;
    if (a_order != b_order) return a_order < b_order;
    return a.sequence < b.sequence;
  }

  void SiftDown(size_t i) {
    const size_t size = heap_.size();
    if (i >= size) return;
    const Node node = heap_[i];
    for (size_t child = 2 * i + 1; child < size; child = 2 * i + 1) {
      if (child + 1 < size && Before(heap_[child + 1], heap_[child])) ++child;
      if (!Before(heap_[child], node)) break;
      heap_[i] = heap_[child];
      i = child;
    }
    heap_[i] = node;
  }

  const std::span<const DraftedSequence> sequences_;
  const TieBreak tie_break_;
  std::vector<Node> heap_;
};

// Where along a path of admissions the expected tokens per second are highest; ties go to fewer drafts.
struct FrontierPoint {
  int num_admitted = 0;
  double tokens = 0;
  double seconds = 0;
};

// How far a path of admissions is seen. Real step times are jagged, and a loss now may pay later.
enum class PathEnd {
  kFirstLoss,  // the first draft that does not raise tokens per second
  kHopeless,   // nothing that is left could pay, given that times never fall
  kAll,
};

// Admits up to `max_admitted` drafts. `next_survival(double&)` gives the survival of the next one, not above
// that of the one before, false when there is none; `seconds_of(n)` is the time of the step with n drafts,
// positive; `tokens` are expected without any.
template <typename NextSurvival, typename SecondsOf>
FrontierPoint SearchFrontier(double tokens, int max_admitted, PathEnd end, NextSurvival&& next_survival,
                             SecondsOf&& seconds_of) {
  FrontierPoint best = {0, tokens, seconds_of(0)};
  double survival = 0;
  for (int n = 1; n <= max_admitted && next_survival(survival); ++n) {
    tokens += survival;
    const double seconds = seconds_of(n);
    // tokens / seconds > best.tokens / best.seconds
    if (tokens * best.seconds > best.tokens * seconds) {
      best = {n, tokens, seconds};
    } else if (end == PathEnd::kFirstLoss) {
      break;
    }
    // Not even if all that are left were as likely as this one and took no time.
    if (end == PathEnd::kHopeless && n % 16 == 0 &&
        (tokens + (max_admitted - n) * survival) * best.seconds <= best.tokens * seconds) {
      break;
    }
  }
  return best;
}

}  // namespace tandem::verifier
