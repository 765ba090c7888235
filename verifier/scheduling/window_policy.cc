#include "verifier/scheduling/window_policy.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "common/base/status.h"
#include "common/speculation/messages.h"
#include "verifier/scheduling/draft_rows.h"
#include "verifier/scheduling/frontier.h"
#include "verifier/scheduling/latency_target.h"

namespace tandem::verifier {
namespace {

// The whole text as a number; false otherwise.
template <typename T>
bool ParseNumber(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// Drafts of a sequence that the policy would check if there were room for all.
int WantedWindow(const WindowPolicy& policy, const DraftedSequence& sequence) {
  const auto num_drafts = static_cast<int>(sequence.survivals.size());
  if (policy.kind == PolicyKind::kFixed) return std::min(policy.fixed_window, num_drafts);
  if (policy.kind != PolicyKind::kThreshold || sequence.confidences.empty()) return num_drafts;
  const auto confidences = sequence.confidences.first(static_cast<size_t>(num_drafts));
  // One that is no number is not sure of anything.
  const auto first_below = std::find_if_not(confidences.begin(), confidences.end(), [&](double confidence) {
    return confidence >= policy.threshold;
  });
  return static_cast<int>(first_below - confidences.begin());
}

// Takes drafts away until `max_rows` remain: the latest positions first, of one position those of the highest
// order. What remains is the start of one fixed list, so that fewer rows never lengthen a window.
void CutWindows(std::span<const DraftedSequence> sequences, int max_rows, std::vector<int>& windows) {
  int64_t excess = -static_cast<int64_t>(max_rows);
  int position = 0;
  for (const int window : windows) {
    excess += window;
    position = std::max(position, window);
  }
  std::vector<size_t> longest;
  for (; excess > 0; --position) {
    longest.clear();
    for (size_t i = 0; i < windows.size(); ++i) {
      if (windows[i] == position) longest.push_back(i);
    }
    std::sort(longest.begin(), longest.end(), [&](size_t a, size_t b) {
      return sequences[a].order != sequences[b].order ? sequences[a].order > sequences[b].order : a > b;
    });
    longest.resize(std::min(longest.size(), static_cast<size_t>(excess)));
    for (const size_t i : longest) --windows[i];
    excess -= static_cast<int64_t>(longest.size());
  }
}

// Probes are checked in full, as far as there is room, whether they pay or not. Returns the rows they take.
int GiveProbesTheirRows(std::span<const DraftedSequence> sequences, int max_rows, std::vector<int>& windows) {
  int num_rows = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!sequences[i].probe) continue;
    windows[i] = std::min(static_cast<int>(sequences[i].survivals.size()), max_rows - num_rows);
    num_rows += windows[i];
  }
  return num_rows;
}

void ChoosePrefixes(const StepLoad& load, std::span<const DraftedSequence> sequences, int max_rows,
                    std::vector<int>& windows) {
  const int num_probe_rows = GiveProbesTheirRows(sequences, max_rows, windows);
  double tokens = load.num_anchors;
  StepShape shape = {load.num_anchors + num_probe_rows, load.num_kv_positions, load.num_prefill_tokens};
  std::vector<DraftedSequence> without_probes;  // filled only if there are any
  if (num_probe_rows > 0) {
    without_probes.assign(sequences.begin(), sequences.end());
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (!sequences[i].probe) continue;
      for (int j = 0; j < windows[i]; ++j)
        tokens += std::max(sequences[i].survivals[static_cast<size_t>(j)], 0.0);
      without_probes[i].survivals = {};
    }
    sequences = without_probes;
  }
  Frontier frontier(sequences);
  std::vector<uint32_t> admitted;
  admitted.reserve(static_cast<size_t>(max_rows - num_probe_rows));
  const int num_base_rows = shape.num_decode_rows;
  const FrontierPoint best = SearchFrontier(
      tokens, max_rows - num_probe_rows, load.no_look_ahead ? PathEnd::kFirstLoss : PathEnd::kHopeless,
      [&](double& survival) {
        Frontier::Draft draft;
        if (!frontier.Next(draft)) return false;
        admitted.push_back(static_cast<uint32_t>(draft.sequence));
        survival = draft.survival;
        return true;
      },
      [&](int num_drafts) {
        shape.num_decode_rows = num_base_rows + num_drafts;
        return load.step_time->Predict(shape) + load.draft_seconds;
      });
  for (int n = 0; n < best.num_admitted; ++n) ++windows[admitted[static_cast<size_t>(n)]];
}

// Sequences that are to be faster than what pays for all gives them, in their order.
void MeetTargets(const StepLoad& load, std::span<const DraftedSequence> sequences,
                 std::vector<int>& windows) {
  std::vector<size_t> promised;
  int num_drafts = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].wanted_pace > 0) promised.push_back(i);
    num_drafts += windows[i];
  }
  std::ranges::stable_sort(promised, {}, [&](size_t i) { return sequences[i].order; });
  for (const size_t i : promised) {
    const auto seconds_with = [&](int num_more) {
      return load.step_time->Predict(
                 {load.num_anchors + num_drafts + num_more, load.num_kv_positions, load.num_prefill_tokens}) +
             load.draft_seconds;
    };
    const int window = WindowForPace(sequences[i].wanted_pace, sequences[i].survivals, windows[i],
                                     load.max_draft_rows - num_drafts, load.no_look_ahead, seconds_with);
    num_drafts += window - std::exchange(windows[i], window);
  }
}

}  // namespace

absl::StatusOr<WindowPolicy> ParseWindowPolicy(std::string_view text) {
  WindowPolicy policy;
  const size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const std::string_view value = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  if (text == "off") {
    policy.kind = PolicyKind::kOff;
    return policy;
  }
  if (text == "prefix") {
    policy.kind = PolicyKind::kPrefix;
    return policy;
  }
  if (name == "fixed" && ParseNumber(value, policy.fixed_window) && policy.fixed_window >= 0 &&
      policy.fixed_window <= speculation::kMaxBlockSize) {
    policy.kind = PolicyKind::kFixed;
    return policy;
  }
  if (name == "threshold" && ParseNumber(value, policy.threshold) && policy.threshold >= 0 &&
      policy.threshold <= 1) {
    policy.kind = PolicyKind::kThreshold;
    return policy;
  }
  return InvalidArgument(
      "window policy: must be off, fixed:0 to fixed:{}, threshold:0 to threshold:1 or prefix, is '{}'",
      speculation::kMaxBlockSize, text.substr(0, 80));
}

std::string WindowPolicyName(const WindowPolicy& policy) {
  switch (policy.kind) {
    case PolicyKind::kOff:
      return "off";
    case PolicyKind::kFixed:
      return fmt::format("fixed:{}", policy.fixed_window);
    case PolicyKind::kThreshold:
      return fmt::format("threshold:{}", policy.threshold);
    case PolicyKind::kPrefix:
      return "prefix";
  }
  TANDEM_CHECK(false);
}

void ChooseWindows(const WindowPolicy& policy, const StepLoad& load,
                   std::span<const DraftedSequence> sequences, std::vector<int>& windows) {
  windows.assign(sequences.size(), 0);
  if (policy.kind == PolicyKind::kOff) return;
  int64_t num_drafts = 0;
  for (const DraftedSequence& sequence : sequences) {
    TANDEM_CHECK(sequence.confidences.empty() || sequence.confidences.size() >= sequence.survivals.size());
    num_drafts += static_cast<int64_t>(sequence.survivals.size());
  }
  // The limit counts drafts, not survivals: it may be used without looking ahead.
  const int max_rows = MaxDraftRows(policy, load, num_drafts);
  if (policy.kind == PolicyKind::kPrefix) {
    TANDEM_CHECK(load.step_time != nullptr);
    if (max_rows > 0) ChoosePrefixes(load, sequences, max_rows, windows);
    if (HasUseForDrafts(policy, load)) MeetTargets(load, sequences, windows);
    return;
  }
  if (max_rows == 0) return;
  for (size_t i = 0; i < sequences.size(); ++i) windows[i] = WantedWindow(policy, sequences[i]);
  CutWindows(sequences, max_rows, windows);
}

}  // namespace tandem::verifier
