#include "drafter/service/misbehaviour.h"

#include <limits>
#include <utility>

namespace tandem::drafter {
namespace {

using speculation::DraftBatch;
using speculation::SequenceDraft;

constexpr int kFloodBatches = 1000;

void SpoilDraft(Misbehaviour kind, int32_t vocab_size, int32_t block_size, SequenceDraft& draft) {
  switch (kind) {
    case Misbehaviour::kTooManyTokens:
      draft.tokens.resize(block_size + 1, draft.anchor);
      if (!draft.confidence_logits.empty()) draft.confidence_logits.resize(block_size + 1, 0.0f);
      break;
    case Misbehaviour::kNoTokens:
      draft.tokens.clear();
      draft.confidence_logits.clear();
      break;
    case Misbehaviour::kIdBeyondVocab:
      draft.tokens.back() = vocab_size;
      break;
    case Misbehaviour::kNegativeId:
      draft.tokens.front() = -1;
      break;
    case Misbehaviour::kNanConfidence:
      draft.confidence_logits.assign(draft.tokens.size(), std::numeric_limits<float>::quiet_NaN());
      break;
    case Misbehaviour::kWrongEpoch:
      ++draft.epoch;
      break;
    case Misbehaviour::kStaleLength:
      --draft.length;
      break;
    case Misbehaviour::kWrongAnchor:
      draft.anchor = (draft.anchor + 1) % vocab_size;
      break;
    case Misbehaviour::kWrongRound:
      --draft.round;
      break;
    case Misbehaviour::kUnknownSequence:
      draft.id ^= uint64_t{1} << 60;
      break;
    case Misbehaviour::kNumberGap:
    case Misbehaviour::kCreditFalls:
    case Misbehaviour::kFlood:
    case Misbehaviour::kSilence:
    case Misbehaviour::kOutOfSync:
    case Misbehaviour::kWrongProjection:
      break;
  }
}

}  // namespace

void Misbehaviours::Spoil(speculation::DrafterHello& hello) const {
  for (const Script::Misdeed& misdeed : script_.misdeeds) {
    if (misdeed.kind != Misbehaviour::kWrongProjection) continue;
    hello.projection_hash.assign(64, 'f');
  }
}

std::vector<DraftBatch> Misbehaviours::Spoil(DraftBatch batch) {
  if (batch.drafts.empty()) return {std::move(batch)};
  ++num_batches_;
  int copies = 1;
  for (const Script::Misdeed& misdeed : script_.misdeeds) {
    if (num_batches_ % misdeed.every != 0) continue;
    for (SequenceDraft& draft : batch.drafts)
      SpoilDraft(misdeed.kind, vocab_size_, script_.block_size, draft);
    switch (misdeed.kind) {
      case Misbehaviour::kNumberGap:
        ++batch.number;
        break;
      case Misbehaviour::kCreditFalls:
        batch.rows_granted = 0;
        break;
      case Misbehaviour::kFlood:
        copies = kFloodBatches;
        break;
      case Misbehaviour::kSilence:
        batch.drafts.clear();
        break;
      case Misbehaviour::kOutOfSync:
        for (const SequenceDraft& draft : batch.drafts)
          batch.out_of_sync.push_back({draft.id, draft.epoch, 0});
        batch.drafts.clear();
        break;
      default:
        break;
    }
  }
  return std::vector<DraftBatch>(copies, batch);
}

}  // namespace tandem::drafter
