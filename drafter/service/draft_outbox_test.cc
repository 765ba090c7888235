#include "drafter/service/draft_outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/speculation/projection_bytes.h"

namespace tandem::drafter {
namespace {

using speculation::DraftBatch;

speculation::DrafterHello Hello(int32_t row_width) {
  speculation::DrafterHello hello;
  hello.row_width = row_width;
  return hello;
}

DraftBatch BatchOf(uint64_t id, uint64_t feed_number) {
  DraftBatch batch;
  batch.feed_number = feed_number;
  batch.drafts.resize(1);
  batch.drafts[0].id = id;
  batch.drafts[0].tokens = {1};
  return batch;
}

v1::SpeculateResponse Take(DraftOutbox& outbox) {
  v1::SpeculateResponse response;
  EXPECT_TRUE(outbox.Take(response));
  return response;
}

bool IsEmpty(DraftOutbox& outbox) {
  v1::SpeculateResponse response;
  return !outbox.Take(response);
}

TEST(DraftOutbox, HelloThenRingThenChunksThenBatches) {
  speculation::Projection projection;
  projection.width = 1;
  projection.fc.assign((5 << 20) / 8, 0.5f);  // 2.5 MiB
  DraftOutbox outbox;
  EXPECT_TRUE(IsEmpty(outbox));
  outbox.PutHello(Hello(1), projection);
  outbox.PutBatch(BatchOf(1, 1));
  EXPECT_TRUE(Take(outbox).has_hello());
  int64_t offset = 0;
  const auto take_chunk = [&] {
    const v1::SpeculateResponse response = Take(outbox);
    EXPECT_TRUE(response.has_projection());
    EXPECT_EQ(response.projection().offset(), static_cast<uint64_t>(offset));
    EXPECT_LE(static_cast<int64_t>(response.projection().data().size()), speculation::kProjectionChunkBytes);
    offset += static_cast<int64_t>(response.projection().data().size());
  };
  take_chunk();
  outbox.PutRingAnswer("nonce");
  EXPECT_EQ(Take(outbox).ring().nonce(), "nonce");
  take_chunk();
  take_chunk();
  EXPECT_EQ(offset, speculation::ProjectionNumBytes(projection));
  EXPECT_EQ(Take(outbox).drafts().number(), 1u);
  EXPECT_TRUE(IsEmpty(outbox));
}

TEST(DraftOutbox, BatchesThatWaitBecomeOne) {
  DraftOutbox outbox;
  outbox.PutHello(Hello(0), {});
  Take(outbox);
  outbox.PutBatch(BatchOf(1, 1));
  outbox.PutBatch(BatchOf(2, 2));
  outbox.PutBatch(BatchOf(1, 3));
  v1::DraftBatch batch = Take(outbox).drafts();
  EXPECT_EQ(batch.number(), 1u);
  EXPECT_EQ(batch.feed_number(), 3u);
  EXPECT_EQ(batch.drafts_size(), 2);
  EXPECT_TRUE(IsEmpty(outbox));
  outbox.PutBatch(BatchOf(1, 4));
  EXPECT_EQ(Take(outbox).drafts().number(), 2u);
}

TEST(DraftOutbox, LeavingIsTheLastWord) {
  DraftOutbox outbox;
  outbox.PutHello(Hello(0), {});
  outbox.PutBatch(BatchOf(1, 1));
  outbox.PutDraining();
  EXPECT_TRUE(Take(outbox).has_draining());
  EXPECT_TRUE(IsEmpty(outbox));
  outbox.PutBatch(BatchOf(1, 2));
  EXPECT_TRUE(IsEmpty(outbox));
}

TEST(DraftOutbox, AHookMayTurnABatchIntoSeveralOrNone) {
  int copies = 3;
  DraftOutbox outbox;
  outbox.PutHello(Hello(0), {}, [&](DraftBatch batch) { return std::vector<DraftBatch>(copies, batch); });
  Take(outbox);
  outbox.PutBatch(BatchOf(1, 1));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Take(outbox).drafts().number(), 1u);
  EXPECT_TRUE(IsEmpty(outbox));
  copies = 0;
  outbox.PutBatch(BatchOf(1, 2));
  EXPECT_TRUE(IsEmpty(outbox));
}

}  // namespace
}  // namespace tandem::drafter
