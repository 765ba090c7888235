#include "verifier/engine/messages.h"

#include <iterator>

#include "absl/container/flat_hash_map.h"
#include "common/base/status.h"

namespace tandem::verifier {
namespace {

void MergeSequence(SequenceReport& pending, SequenceReport&& next) {
  TANDEM_CHECK(pending.end == SequenceEnd::kRunning);
  TANDEM_CHECK(next.first_index == pending.length);
  next.first_index = pending.first_index;
  std::vector<int32_t> tokens = std::move(pending.new_tokens);
  tokens.insert(tokens.end(), next.new_tokens.begin(), next.new_tokens.end());
  std::vector<sampling::TokenLogprobs> logprobs = std::move(pending.logprobs);
  logprobs.insert(logprobs.end(), std::make_move_iterator(next.logprobs.begin()),
                  std::make_move_iterator(next.logprobs.end()));
  next.drafted_marks.insert(0, pending.drafted_marks);
  pending = std::move(next);
  pending.new_tokens = std::move(tokens);
  pending.logprobs = std::move(logprobs);
}

}  // namespace

void MergeReport(Report& pending, Report&& next) {
  absl::flat_hash_map<std::pair<uint64_t, uint32_t>, size_t> places;
  for (size_t i = 0; i < pending.sequences.size(); ++i) {
    places[{pending.sequences[i].id, pending.sequences[i].epoch}] = i;
  }
  std::vector<SequenceReport> sequences = std::move(pending.sequences);
  for (SequenceReport& report : next.sequences) {
    const auto place = places.find({report.id, report.epoch});
    if (place == places.end()) {
      sequences.push_back(std::move(report));
    } else {
      MergeSequence(sequences[place->second], std::move(report));
    }
  }
  pending = std::move(next);
  pending.sequences = std::move(sequences);
}

}  // namespace tandem::verifier
