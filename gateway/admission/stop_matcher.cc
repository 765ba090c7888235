#include "gateway/admission/stop_matcher.h"

#include <algorithm>

namespace tandem::gateway {

bool StopMatcher::Push(std::string_view piece, std::string& out) {
  if (stops_.empty()) {
    out += piece;
    return false;
  }
  held_ += piece;
  size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t stop_end = at + stop.size();
    if (end == std::string::npos || stop_end < end || (stop_end == end && at < begin)) {
      begin = at;
      end = stop_end;
    }
  }
  if (end != std::string::npos) {
    out += std::string_view(held_).substr(0, begin);
    held_.clear();
    return true;
  }
  const size_t free = held_.size() - PossibleMatch();
  out += std::string_view(held_).substr(0, free);
  held_.erase(0, free);
  return false;
}

void StopMatcher::Flush(std::string& out) {
  out += held_;
  held_.clear();
}

size_t StopMatcher::PossibleMatch() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(held_.size(), stop.size() - 1); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

}  // namespace tandem::gateway
