#include "gateway/admission/verifier_link.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

namespace tandem::gateway {

void MergePlan(Plan& pending, Plan&& next) {
  for (const Admission& admission : next.admissions) {
    std::erase_if(pending.admissions, [&](const Admission& old) { return old.id == admission.id; });
  }
  std::erase_if(next.cancellations, [&](const Cancellation& cancellation) {
    return std::erase_if(pending.admissions, [&](const Admission& old) {
             return old.id == cancellation.id && old.epoch == cancellation.epoch;
           }) > 0;
  });
  std::move(next.admissions.begin(), next.admissions.end(), std::back_inserter(pending.admissions));
  std::move(next.cancellations.begin(), next.cancellations.end(), std::back_inserter(pending.cancellations));

  std::map<std::pair<uint64_t, uint32_t>, int64_t> lengths;
  for (const auto* list : {&pending.acknowledgements, &next.acknowledgements}) {
    for (const Acknowledgement& ack : *list) lengths[{ack.id, ack.epoch}] = ack.length;
  }
  pending.acknowledgements.clear();
  for (const auto& [key, length] : lengths)
    pending.acknowledgements.push_back({key.first, key.second, length});

  pending.prefill_token_budget = next.prefill_token_budget;
  pending.waiting_sequences = next.waiting_sequences;
  pending.waiting_tokens = next.waiting_tokens;
}

}  // namespace tandem::gateway
