#include "verifier/scheduling/acceptance_history.h"

#include <algorithm>

namespace tandem::verifier {

AcceptanceHistory::AcceptanceHistory(size_t block_size, double memory)
    : memory_(memory), positions_(block_size), survivals_(block_size) {
  Summarise();
}

void AcceptanceHistory::Observe(int window, int accepted) {
  if (window == 0) return;
  for (Position& position : positions_) {
    position.tried -= position.tried / memory_;
    position.accepted -= position.accepted / memory_;
  }
  const int num_tried = std::min(accepted + 1, window);  // the first rejected one too
  for (int k = 0; k < num_tried; ++k) {
    positions_[static_cast<size_t>(k)].tried += 1;
    positions_[static_cast<size_t>(k)].accepted += k < accepted;
  }
  Summarise();
}

void AcceptanceHistory::Summarise() {
  double conditional = kPriorAcceptance, survival = 1;
  for (size_t k = 0; k < positions_.size(); ++k) {
    conditional =
        (positions_[k].accepted + kPriorRounds * conditional) / (positions_[k].tried + kPriorRounds);
    survivals_[k] = survival *= conditional;
  }
}

}  // namespace tandem::verifier
