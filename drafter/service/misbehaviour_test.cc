#include "drafter/service/misbehaviour.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "common/speculation/wire/speculate_messages.h"

namespace tandem::drafter {
namespace {

using speculation::DraftBatch;

constexpr int32_t kVocab = 50;

DraftBatch GoodBatch() {
  DraftBatch batch;
  batch.number = 1;
  batch.rows_granted = 100;
  batch.drafts.resize(1);
  speculation::SequenceDraft& draft = batch.drafts[0];
  draft.id = 4;
  draft.epoch = 2;
  draft.length = 9;
  draft.anchor = 3;
  draft.round = 5;
  draft.tokens = {7, 8, 9};
  draft.confidence_logits = {0.5f, 0.5f, 0.5f};
  return batch;
}

// What a verifier that knows nothing but the stream's constants makes of a batch: "" = nothing wrong, a check
// of an entry, or "batch".
std::string Verdict(const DraftBatch& batch) {
  v1::DraftBatch message;
  speculation::FillBatch(batch, message);
  const auto checked = speculation::ReadBatch(
      message, {.vocab_size = kVocab, .block_size = 3, .has_confidence = true, .acceptance = {}, .top_m = 0});
  if (!checked.ok()) return "batch";
  if (!checked->dropped.empty()) return checked->dropped[0];
  speculation::BatchOrder order(50);
  return order.Check(checked->batch, 10).ok() ? "" : "batch";
}

Script ScriptOf(Misbehaviour kind, int64_t every = 1) {
  Script script;
  script.block_size = 3;
  script.has_confidence = true;
  script.misdeeds = {{kind, every}};
  return script;
}

DraftBatch Spoiled(Misbehaviour kind) {
  const Script script = ScriptOf(kind);
  return Misbehaviours(script, kVocab).Spoil(GoodBatch()).at(0);
}

TEST(Misbehaviour, WhatMessagesShowByThemselvesIsCaughtByTheirChecks) {
  EXPECT_EQ(Verdict(GoodBatch()), "");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kTooManyTokens)), "token_count");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kNoTokens)), "token_count");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kIdBeyondVocab)), "token_id");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kNegativeId)), "token_id");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kNanConfidence)), "confidence");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kNumberGap)), "batch");
  EXPECT_EQ(Verdict(Spoiled(Misbehaviour::kCreditFalls)), "batch");
}

TEST(Misbehaviour, TheRestIsWrongOnlyForWhoKnowsTheSequence) {
  const speculation::SequenceDraft good = GoodBatch().drafts[0];
  EXPECT_EQ(Spoiled(Misbehaviour::kWrongEpoch).drafts[0].epoch, good.epoch + 1);
  EXPECT_EQ(Spoiled(Misbehaviour::kStaleLength).drafts[0].length, good.length - 1);
  EXPECT_NE(Spoiled(Misbehaviour::kWrongAnchor).drafts[0].anchor, good.anchor);
  EXPECT_EQ(Spoiled(Misbehaviour::kWrongRound).drafts[0].round, good.round - 1);
  EXPECT_NE(Spoiled(Misbehaviour::kUnknownSequence).drafts[0].id, good.id);
  EXPECT_TRUE(Spoiled(Misbehaviour::kSilence).drafts.empty());
  const DraftBatch out = Spoiled(Misbehaviour::kOutOfSync);
  EXPECT_TRUE(out.drafts.empty());
  EXPECT_EQ(out.out_of_sync.at(0).have, 0);
  for (const Misbehaviour kind :
       {Misbehaviour::kWrongEpoch, Misbehaviour::kStaleLength, Misbehaviour::kSilence,
        Misbehaviour::kWrongAnchor, Misbehaviour::kOutOfSync})
    EXPECT_EQ(Verdict(Spoiled(kind)), "");
}

TEST(Misbehaviour, AFloodIsTheSameBatchOverAndOver) {
  const Script script = ScriptOf(Misbehaviour::kFlood);
  EXPECT_EQ(Misbehaviours(script, kVocab).Spoil(GoodBatch()).size(), 1000u);
}

TEST(Misbehaviour, HappensAsOftenAsSaidAndNeverToBatchesWithoutDrafts) {
  const Script script = ScriptOf(Misbehaviour::kNoTokens, 3);
  Misbehaviours misbehaviours(script, kVocab);
  std::string seen;
  for (int i = 0; i < 9; ++i) {
    DraftBatch without_drafts = GoodBatch();
    without_drafts.drafts.clear();
    EXPECT_EQ(Verdict(misbehaviours.Spoil(without_drafts).at(0)), "");
    seen += misbehaviours.Spoil(GoodBatch()).at(0).drafts.at(0).tokens.empty() ? 'x' : '.';
  }
  EXPECT_EQ(seen, "..x..x..x");
}

TEST(Misbehaviour, AWrongProjectionIsNamedInTheHello) {
  const Script honest, script = ScriptOf(Misbehaviour::kWrongProjection);
  speculation::DrafterHello hello;
  hello.projection_hash = std::string(64, 'a');
  Misbehaviours(honest, kVocab).Spoil(hello);
  EXPECT_EQ(hello.projection_hash, std::string(64, 'a'));
  Misbehaviours(script, kVocab).Spoil(hello);
  EXPECT_NE(hello.projection_hash, std::string(64, 'a'));
}

}  // namespace
}  // namespace tandem::drafter
