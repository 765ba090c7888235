// The links of --one-process, over the real loops and models made up for tests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <optional>

#include "cli/local_drafter_link.h"
#include "cli/local_verifier_link.h"
#include "common/rpc/protocol_version.h"
#include "drafter/engine/fake_draft_model.h"
#include "drafter/engine/fake_verifier.h"
#include "verifier/engine/fake_model.h"

namespace tandem::cli {
namespace {

using ::testing::HasSubstr;

// What a listener has heard, awaited by the test.
class Heard {
 public:
  template <typename F>
  void Note(const F& change) {
    const std::lock_guard lock(mu_);
    change();
    changed_.notify_all();
  }
  template <typename F>
  bool Await(const F& condition) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(20), condition);
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
};

// --- The Run stream
// -----------------------------------------------------------------------------------------

struct GatewaySide : gateway::VerifierLink::Listener {
  void OnHello(gateway::VerifierHello hello) override {
    heard.Note([&] { hellos.push_back(std::move(hello)); });
  }
  void OnReport(gateway::Report report) override {
    heard.Note([&] {
      numbers.push_back(report.number);
      for (gateway::SequenceReport& sequence : report.sequences) {
        std::vector<int32_t>& all = tokens[sequence.id];
        all.insert(all.end(), sequence.token_ids.begin(), sequence.token_ids.end());
        if (sequence.end != gateway::SequenceEnd::kRunning) ends[sequence.id] = sequence;
      }
    });
  }
  void OnDraining(absl::Duration) override {}
  void OnSource(std::shared_ptr<MessageSource>) override {}
  void OnFallback(absl::Status) override {}
  void OnClosed(absl::Status why) override {
    heard.Note([&] { closed.push_back(std::move(why)); });
  }
  bool AwaitEnd(uint64_t id) {
    return heard.Await([&] { return ends.contains(id); });
  }

  Heard heard;
  std::vector<gateway::VerifierHello> hellos;
  std::vector<uint64_t> numbers;
  std::map<uint64_t, std::vector<int32_t>> tokens;
  std::map<uint64_t, gateway::SequenceReport> ends;
  std::vector<absl::Status> closed;
};

class LocalVerifierLinkTest : public ::testing::Test {
 protected:
  LocalVerifierLinkTest() : pool_(2) {
    verifier::EngineOptions options;
    options.kv_bytes = 1 << 20;
    engine_ = *verifier::Engine::Create(options, model_, pool_, Clock::Real());
    loop_ = verifier::StepLoop::Start(*engine_, Clock::Real(),
                                      [](const verifier::StepStats&, const verifier::EngineStats&) {});
    identity_.incarnation = "0123456789abcdef";
    identity_.numerics_id = "n1";
    identity_.vocab_size = verifier::testing::FakeModel::kVocab;
    identity_.max_model_len = engine_->max_model_len();
    identity_.kv_block_positions = 16;
    identity_.kv_total_blocks = engine_->kv_total_blocks();
    identity_.max_sequences = 64;
    identity_.max_step_tokens = 512;
    link_ = NewLocalVerifierLink(*loop_, identity_);
    hello_.incarnation = "fedcba9876543210";
    hello_.vocab_size = identity_.vocab_size;
  }

  static gateway::Plan Admit(uint64_t id, int32_t token, int32_t max_tokens) {
    gateway::Admission admission;
    admission.id = id;
    admission.epoch = 1;
    admission.token_ids = {1, 2, token};
    admission.prompt_length = 3;
    admission.max_tokens = max_tokens;
    gateway::Plan plan;
    plan.admissions.push_back(admission);
    return plan;
  }

  verifier::testing::FakeModel model_;
  ThreadPool pool_;
  std::unique_ptr<verifier::Engine> engine_;
  std::unique_ptr<verifier::StepLoop> loop_;
  verifier::RunIdentity identity_;
  gateway::GatewayHello hello_;
  GatewaySide gateway_;  // hears the link, which hence goes first
  std::unique_ptr<gateway::VerifierLink> link_;
};

TEST_F(LocalVerifierLinkTest, SequencesRunToTheirEndAndReportsAreNumbered) {
  link_->Connect(hello_, gateway_);
  ASSERT_EQ(gateway_.hellos.size(), 1u);
  EXPECT_EQ(gateway_.hellos[0].identity.numerics_id, "n1");
  EXPECT_TRUE(gateway_.heard.Await([&] { return !gateway_.numbers.empty(); }));
  EXPECT_EQ(link_->SendPlan(Admit(1, 3, 20)), 1u);
  EXPECT_EQ(link_->SendPlan(Admit(2, 4, 5)), 2u);
  ASSERT_TRUE(gateway_.AwaitEnd(1) && gateway_.AwaitEnd(2));
  link_->Close(absl::CancelledError("enough"));
  EXPECT_EQ(gateway_.tokens[1].size(), 20u);
  EXPECT_EQ(gateway_.tokens[2].size(), 5u);
  for (size_t i = 0; i < gateway_.numbers.size(); ++i) EXPECT_EQ(gateway_.numbers[i], i + 1);
  ASSERT_EQ(gateway_.closed.size(), 1u);
  EXPECT_EQ(gateway_.closed[0].message(), "enough");
  EXPECT_EQ(link_->SendPlan(Admit(3, 3, 3)), 0u);
}

TEST_F(LocalVerifierLinkTest, ABadAdmissionFailsAloneAndABadPlanEndsTheStream) {
  link_->Connect(hello_, gateway_);
  link_->SendPlan(Admit(1, identity_.vocab_size, 5));
  ASSERT_TRUE(gateway_.AwaitEnd(1));
  EXPECT_EQ(gateway_.ends[1].end, gateway::SequenceEnd::kFailed);
  EXPECT_THAT(std::string(gateway_.ends[1].error.message()), HasSubstr("token_ids"));
  EXPECT_TRUE(gateway_.closed.empty());
  gateway::Plan twice = Admit(2, 3, 5);
  twice.admissions.push_back(twice.admissions[0]);
  link_->SendPlan(twice);
  ASSERT_EQ(gateway_.closed.size(), 1u);
  EXPECT_EQ(gateway_.closed[0].code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LocalVerifierLinkTest, AGatewayThatDoesNotFitIsRefusedAndANewStreamStartsEmpty) {
  gateway::GatewayHello other = hello_;
  other.vocab_size += 1;
  link_->Connect(other, gateway_);
  ASSERT_EQ(gateway_.closed.size(), 1u);
  EXPECT_EQ(gateway_.closed[0].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(gateway_.hellos.empty());
  for (int stream = 0; stream < 2; ++stream) {
    link_->Connect(hello_, gateway_);
    EXPECT_EQ(link_->SendPlan(Admit(7, 3, 200)), 1u);
    link_->Close(absl::CancelledError("away"));
  }
  gateway_.tokens.clear();
  gateway_.ends.clear();  // an earlier stream may have been quick
  link_->Connect(hello_, gateway_);
  link_->SendPlan(Admit(7, 3, 4));
  ASSERT_TRUE(gateway_.AwaitEnd(7));
  EXPECT_EQ(gateway_.tokens[7].size(), 4u);
}

// --- The Speculate stream
// -----------------------------------------------------------------------------------

struct VerifierSide : verifier::DrafterLink::Listener {
  void OnOpen(speculation::DrafterHello answer, std::shared_ptr<const speculation::Projection> sent,
              speculation::RowTransport transport, std::shared_ptr<MessageSource> source) override {
    heard.Note([&] {
      hello = std::move(answer);
      projection = std::move(sent);
      EXPECT_EQ(transport, speculation::RowTransport::kInline);
      EXPECT_EQ(source, nullptr);
    });
  }
  void OnDrafts(speculation::DraftBatch batch) override {
    heard.Note([&] {
      EXPECT_EQ(batch.number, ++batches);
      for (auto& draft : batch.drafts) drafts.push_back(std::move(draft));
    });
  }
  void OnFallback(const std::string& instead, absl::Status why) override { ADD_FAILURE() << instead << why; }
  void OnProtocolError(std::string check) override { ADD_FAILURE() << check; }
  void OnClosed(absl::Status why) override {
    heard.Note([&] { closed.push_back(std::move(why)); });
  }

  Heard heard;
  std::optional<speculation::DrafterHello> hello;
  std::shared_ptr<const speculation::Projection> projection;
  std::vector<speculation::SequenceDraft> drafts;
  uint64_t batches = 0;
  std::vector<absl::Status> closed;
};

class LocalDrafterLinkTest : public ::testing::Test {
 protected:
  LocalDrafterLinkTest()
      : engine_(*drafter::DraftEngine::Create({.row_window = 100}, model_)),
        loop_(drafter::DraftLoop::Start(*engine_, Clock::Real())) {
    drafter::DrafterIdentity identity;
    identity.incarnation = "0123456789abcdef";
    identity.model = model_.info();
    identity.projection_hash = "hash";
    identity.row_window = 100;
    identity.max_sequences = 256;
    identity.max_context_rows = engine_->max_context_rows();
    link_ = NewLocalDrafterLink(*loop_, identity);
    hello_.protocol_major = rpc::kProtocolMajor;
    hello_.protocol_minor = rpc::kProtocolMinor;
    hello_.sampling_version = rpc::kSamplingVersion;
    hello_.vocab_size = drafter::testing::FakeDraftModel::kVocab;
    hello_.hidden_size = 4;
    hello_.num_layers = 2;
    hello_.max_model_len = 64;
    hello_.row_type = speculation::RowType::kF32;
    hello_.shared_memory = true;
  }

  // Through PutRow and SendFeed, as the engine does it.
  void Send(speculation::Feed feed) {
    const size_t row_bytes = drafter::testing::FakeDraftModel::kWidth * sizeof(float);
    const std::vector<std::byte> rows = std::exchange(feed.rows, {});
    for (size_t at = 0; at < rows.size(); at += row_bytes)
      link_->PutRow(next_row_++, std::span(rows).subspan(at, row_bytes));
    feed.number = 0;  // the link's to fill in
    link_->SendFeed(std::move(feed));
  }

  drafter::testing::FakeDraftModel model_;
  std::unique_ptr<drafter::DraftEngine> engine_;
  std::unique_ptr<drafter::DraftLoop> loop_;
  speculation::VerifierHello hello_;
  VerifierSide verifier_;  // hears the link, which hence goes first
  std::unique_ptr<verifier::DrafterLink> link_;
  int64_t next_row_ = 0;
};

TEST_F(LocalDrafterLinkTest, RowsGoInAndDraftsComeOut) {
  link_->Connect(hello_, verifier_);
  ASSERT_TRUE(verifier_.hello.has_value());
  EXPECT_EQ(verifier_.hello->row_width, drafter::testing::FakeDraftModel::kWidth);
  ASSERT_NE(verifier_.projection, nullptr);
  drafter::testing::FakeVerifier text;
  Send(text.Feed(1, 0, 10, /*round=*/1).Take());
  Send(text.Feed(2, 0, 4, /*round=*/1).Feed(1, 9, 12, /*round=*/2).Take());
  ASSERT_TRUE(verifier_.heard.Await([&] { return verifier_.drafts.size() >= 2; }));
  link_->Close();
  ASSERT_EQ(verifier_.closed.size(), 1u);
  EXPECT_EQ(verifier_.closed[0].code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(verifier_.drafts.front().tokens.size(), 5u);
}

TEST_F(LocalDrafterLinkTest, ABrokenFeedEndsTheStreamOnceAndTheNextOneWorks) {
  link_->Connect(hello_, verifier_);
  speculation::Feed feed = drafter::testing::FakeVerifier().Feed(1, 0, 10, 1).Take();
  feed.sequences[0].first_row_number = 5;  // rows 0 to 4 never came
  Send(std::move(feed));
  ASSERT_TRUE(verifier_.heard.Await([&] { return !verifier_.closed.empty(); }));
  EXPECT_EQ(verifier_.closed[0].code(), absl::StatusCode::kInvalidArgument);
  link_->Close();
  EXPECT_EQ(verifier_.closed.size(), 1u);
  next_row_ = 0;
  verifier_.batches = 0;
  link_->Connect(hello_, verifier_);
  Send(drafter::testing::FakeVerifier().Feed(1, 0, 10, 1).Take());
  ASSERT_TRUE(verifier_.heard.Await([&] { return !verifier_.drafts.empty(); }));
}

TEST_F(LocalDrafterLinkTest, AVerifierThatDoesNotFitIsRefused) {
  hello_.vocab_size += 1;
  link_->Connect(hello_, verifier_);
  ASSERT_EQ(verifier_.closed.size(), 1u);
  EXPECT_EQ(verifier_.closed[0].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(verifier_.hello.has_value());
}

}  // namespace
}  // namespace tandem::cli
