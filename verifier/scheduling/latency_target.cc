#include "verifier/scheduling/latency_target.h"

#include <algorithm>

#include "common/base/status.h"

namespace tandem::verifier {

double WantedPace(double target_seconds, double elapsed_seconds, double num_tokens) {
  TANDEM_CHECK(target_seconds > 0);
  const double arrears = elapsed_seconds - target_seconds * num_tokens;
  return std::clamp(target_seconds - arrears / kRepayTokens, target_seconds / kMostHaste,
                    target_seconds * kMostHaste);
}

int WindowForPace(double wanted_pace, std::span<const double> survivals, int window, int max_more,
                  bool no_look_ahead, const std::function<double(int)>& seconds_with) {
  double tokens = 1, survival = 1;
  const auto add = [&](int draft) {  // a survival that rises counts as the one before it
    survival = std::min(survival, std::max(survivals[static_cast<size_t>(draft - 1)], 0.0));
    tokens += survival;
  };
  for (int draft = 1; draft <= window; ++draft) add(draft);
  double best_pace = seconds_with(0) / tokens;
  int best = window;
  const int end = std::min(static_cast<int>(survivals.size()), window + std::max(max_more, 0));
  for (int next = window + 1; next <= end && best_pace > wanted_pace; ++next) {
    add(next);
    const double pace = seconds_with(next - window) / tokens;
    if (pace < best_pace) {
      best = next;
      best_pace = pace;
    } else if (no_look_ahead) {
      break;
    }
  }
  return best;
}

}  // namespace tandem::verifier
