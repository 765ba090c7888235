// Sequences that wait for a verifier, in the order of their admission: higher priority first, then those that
// have run before (preempted, lost), then by arrival. Borrows the sequences. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>

#include "gateway/admission/sequence.h"

namespace tandem::gateway {

class WaitQueue {
 public:
  // Smaller goes first. Ids rise with arrival, and choices of a request follow each other.
  struct Place {
    int32_t negated_priority;
    int fresh;  // 0: has run before
    uint64_t id;
    auto operator<=>(const Place&) const = default;
  };
  using Map = std::map<Place, Sequence*>;

  void Add(Sequence& sequence) {
    places_.emplace(PlaceOf(sequence), &sequence);
    num_tokens_ += sequence.length();
  }
  // Requires that it is here, unchanged since.
  void Remove(Sequence& sequence) {
    places_.erase(PlaceOf(sequence));
    num_tokens_ -= sequence.length();
  }
  // The same for an iterator; returns the next.
  Map::iterator Remove(Map::iterator at) {
    num_tokens_ -= at->second->length();
    return places_.erase(at);
  }

  Map::iterator begin() { return places_.begin(); }
  Map::iterator end() { return places_.end(); }
  size_t size() const { return places_.size(); }
  bool empty() const { return places_.empty(); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  static Place PlaceOf(const Sequence& s) { return {-s.request->params.priority, s.resumed ? 0 : 1, s.id}; }

  Map places_;
  int64_t num_tokens_ = 0;
};

}  // namespace tandem::gateway
