// Observed acceptance by position, whatever the drafter says of itself: conditional frequencies over recent
// rounds, each position over the rounds in which its turn came (it was checked and all before it stood), so
// that short windows don't distort it.
//
// Positions without evidence follow the one before them, the first a prior; evidence fades with every round,
// also where none comes in, so that a position given up after bad luck is tried again.
#pragma once

#include <cstddef>
#include <vector>

namespace tandem::verifier {

class AcceptanceHistory {
 public:
  static constexpr double kUsualMemory = 1024;     // rounds
  static constexpr double kPriorAcceptance = 0.7;  // of a first draft
  static constexpr double kPriorRounds = 2;        // that a prior counts as

  explicit AcceptanceHistory(size_t block_size, double memory = kUsualMemory);

  // 0 <= accepted <= window <= block_size; a round without window says nothing.
  void Observe(int window, int accepted);

  // [block_size], a_1 >= a_2 >= ...
  const std::vector<double>& survivals() const { return survivals_; }

 private:
  struct Position {
    double tried = 0, accepted = 0;
  };
  void Summarise();

  double memory_;  // rounds
  std::vector<Position> positions_;
  std::vector<double> survivals_;
};

}  // namespace tandem::verifier
