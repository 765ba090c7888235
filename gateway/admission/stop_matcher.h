// Finds stop texts in a text that arrives in pieces, and never lets out what may still become one.
//
// The first match counts: the one that ends earliest, of those the longest. So the outcome depends on the
// text alone, not on how it was cut into pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tandem::gateway {

class StopMatcher {
 public:
  // `stops`: not empty strings, valid UTF-8; pieces are whole characters.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Appends to `out` what is certain to stay. True: a stop text is complete; `out` ends before it and nothing
  // may be pushed any more.
  bool Push(std::string_view piece, std::string& out);
  // The text has ended without a stop text: appends what was held back.
  void Flush(std::string& out);

 private:
  // Bytes at the end of held_ that are the beginning of a stop text.
  size_t PossibleMatch() const;

  const std::vector<std::string> stops_;
  std::string held_;  // shorter than the longest stop text between calls
};

}  // namespace tandem::gateway
