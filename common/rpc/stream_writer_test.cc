#include "common/rpc/stream_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tandem::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Text {
  std::string value;
  void Clear() { value.clear(); }
};

// A stream that records, and a source that merges by appending.
class StreamWriterTest : public ::testing::Test {
 protected:
  void Put(const std::string& text) {
    pending_ += text;
    writer_.Wake();
  }

  std::string pending_;
  std::vector<std::string> writes_;
  std::vector<absl::Status> finishes_;
  StreamWriter<Text> writer_{{[this](const Text* text) { writes_.push_back(text->value); },
                              [this](const absl::Status& status) { finishes_.push_back(status); }},
                             [this](Text& out) {
                               if (pending_.empty()) return false;
                               out.value.swap(pending_);
                               return true;
                             }};
};

TEST_F(StreamWriterTest, HasOneWriteInFlightAndMergesWhatGathers) {
  Put("a");
  Put("b");
  Put("c");
  EXPECT_THAT(writes_, ElementsAre("a"));
  writer_.OnWriteDone(true);
  EXPECT_THAT(writes_, ElementsAre("a", "bc"));
  writer_.OnWriteDone(true);
  EXPECT_THAT(writes_, ElementsAre("a", "bc"));
}

TEST_F(StreamWriterTest, FinishSendsWhatIsPendingFirst) {
  Put("a");
  Put("b");
  writer_.Finish(absl::OkStatus());
  EXPECT_THAT(finishes_, IsEmpty());
  writer_.OnWriteDone(true);
  EXPECT_THAT(writes_, ElementsAre("a", "b"));
  EXPECT_THAT(finishes_, IsEmpty());
  writer_.OnWriteDone(true);
  EXPECT_THAT(finishes_, ElementsAre(absl::OkStatus()));
}

TEST_F(StreamWriterTest, AbortEndsAHangingWriteAndOnlyOnce) {
  Put("a");
  writer_.Abort(absl::CancelledError("x"));
  writer_.Abort(absl::InternalError("y"));
  writer_.Finish(absl::OkStatus());
  writer_.OnWriteDone(false);
  Put("b");
  EXPECT_THAT(writes_, ElementsAre("a"));
  EXPECT_THAT(finishes_, ElementsAre(absl::CancelledError("x")));
}

TEST_F(StreamWriterTest, AFailedWriteFinishesAlsoWhileDraining) {
  Put("a");
  Put("b");
  writer_.Finish(absl::OkStatus());
  writer_.OnWriteDone(false);
  EXPECT_THAT(writes_, ElementsAre("a"));
  EXPECT_THAT(finishes_, ElementsAre(absl::UnavailableError("the peer is gone")));
}

TEST_F(StreamWriterTest, TheFirstFinishCountsAndNothingFollowsIt) {
  writer_.Finish(absl::OkStatus());
  writer_.Finish(absl::InternalError("late"));
  Put("a");
  EXPECT_THAT(finishes_, ElementsAre(absl::OkStatus()));
  EXPECT_THAT(writes_, IsEmpty());
}

TEST_F(StreamWriterTest, IsANoOpAfterItsStream) {
  writer_.Detach();
  Put("a");
  writer_.Finish(absl::OkStatus());
  writer_.Abort(absl::OkStatus());
  EXPECT_THAT(writes_, IsEmpty());
  EXPECT_THAT(finishes_, IsEmpty());
}

}  // namespace
}  // namespace tandem::rpc
