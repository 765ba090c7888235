#include "gateway/admission/batcher.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gateway/admission/fake_text.h"
#include "gateway/admission/fake_verifier.h"
#include "gateway/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

using ::testing::ElementsAre;

class CountingObserver : public Observer {
 public:
  void OnRequestEnd(const RequestSummary& summary) override { ends.push_back(summary); }
  void OnPreemption() override { ++preemptions; }
  void OnFailover(const char* outcome) override { ++failovers[outcome]; }
  void OnLoad(const Load& load) override { last = load; }
  void OnHandshakeFailure(int, const char* field) override { handshake_failures.push_back(field); }
  void OnProtocolError(int, const char* check) override { protocol_errors.push_back(check); }
  void OnStaleMessage() override { ++stale; }

  std::vector<RequestSummary> ends;
  int preemptions = 0, stale = 0;
  std::map<std::string, int> failovers;
  Load last;
  std::vector<std::string> handshake_failures, protocol_errors;
};

class BatcherTest : public ::testing::Test {
 protected:
  struct DirectEar : VerifierLink::Listener {
    Batcher* batcher = nullptr;
    int index = 0;
    void OnHello(VerifierHello hello) override { batcher->OnHello(index, std::move(hello)); }
    void OnReport(Report report) override { batcher->OnReport(index, std::move(report)); }
    void OnDraining(absl::Duration) override { batcher->OnDraining(index); }
    void OnSource(std::shared_ptr<MessageSource>) override {}
    void OnFallback(absl::Status) override {}
    void OnClosed(absl::Status why) override { batcher->OnClosed(index, std::move(why)); }
  };
  struct Client {
    RecordingSink sink;
    std::shared_ptr<SinkGate> gate;
    uint64_t key = 0;
  };
  struct Ask {
    std::string prompt = "hello";
    int max_tokens = 20;
    uint64_t seed = 7;
    int n = 1;
    int priority = 0;
    std::vector<std::string> stop = {};
    std::optional<int32_t> num_logprobs = std::nullopt;
    absl::Duration time = absl::Minutes(10);
    bool asked_max_tokens = true;
    std::vector<std::string> more_prompts = {};
  };

  // Verifiers that have been connected and have said Hello.
  void Serve(std::vector<FakeVerifier::Options> options, bool hello = true) {
    BatcherOptions batcher_options;
    batcher_options.model_id = "m";
    batcher_options.tokenizer_hash = "h1";
    batcher_options.vocab_size = kFakeVocab;
    batcher_options.eos_token_ids = {kFakeEos};
    batcher_options.jitter_seed = 5;
    std::vector<VerifierLink*> links;
    std::vector<VerifierLink::Listener*> listeners;
    for (const auto& o : options) {
      verifiers_.push_back(std::make_unique<FakeVerifier>(o));
      ears_.push_back(std::make_unique<DirectEar>());
      ears_.back()->index = static_cast<int>(links.size());
      links.push_back(verifiers_.back().get());
      listeners.push_back(ears_.back().get());
    }
    batcher_ =
        std::make_unique<Batcher>(batcher_options, tokenizer_, links, listeners, door_, clock_, observer_);
    for (auto& ear : ears_) ear->batcher = batcher_.get();
    batcher_->Advance();
    if (!hello) return;
    for (auto& verifier : verifiers_) verifier->SayHello();
    batcher_->Advance();
  }

  Client& Submit(const Ask& ask) {
    clients_.push_back(std::make_unique<Client>());
    Client& client = *clients_.back();
    client.gate = std::make_shared<SinkGate>(client.sink);
    client.key = clients_.size();
    Submission submission;
    submission.sink = client.gate;
    submission.request_id = "r" + std::to_string(client.key);
    submission.params.sampling.seed = ask.seed;
    submission.params.n = ask.n;
    submission.params.priority = ask.priority;
    submission.params.stop = ask.stop;
    submission.params.num_logprobs = ask.num_logprobs;
    if (ask.asked_max_tokens) submission.params.max_tokens = ask.max_tokens;
    std::vector<std::string> prompts = ask.more_prompts;
    prompts.insert(prompts.begin(), ask.prompt);
    for (const std::string& words : prompts) {
      Submission::Prompt prompt;
      for (const char c : words) prompt.ids.push_back(static_cast<unsigned char>(c));
      prompt.max_tokens = ask.max_tokens;
      submission.prompts.push_back(prompt);
    }
    submission.received = clock_.Now();
    submission.deadline = clock_.Now() + ask.time;
    EXPECT_TRUE(door_.Enter(ask.n * static_cast<int>(prompts.size())).ok());
    batcher_->Submit(client.key, std::move(submission));
    batcher_->Advance();
    return client;
  }

  void Step(int replica = 0, const std::function<void(Report&)>& edit = nullptr) {
    verifiers_[replica]->Step(edit);
    batcher_->Advance();
  }
  void Kill(int replica = 0) {
    verifiers_[replica]->Die();
    batcher_->Advance();
  }
  void Pass(absl::Duration time) {
    clock_.Advance(time);
    batcher_->Advance();
  }
  // Lets the reconnect time pass; the verifier answers.
  void Revive(int replica = 0) {
    Pass(absl::Seconds(5));
    ASSERT_TRUE(verifiers_[replica]->connected());
    verifiers_[replica]->SayHello();
    batcher_->Advance();
  }
  // Steps all verifiers until nothing is left to do.
  void RunAll(int max_steps = 5000) {
    for (int i = 0; i < max_steps && batcher_->num_requests() > 0; ++i) {
      for (size_t v = 0; v < verifiers_.size(); ++v) Step(static_cast<int>(v));
      Pass(absl::Milliseconds(10));
    }
    EXPECT_EQ(batcher_->num_requests(), 0u);
  }
  void ExpectClean() {
    for (const auto& client : clients_) EXPECT_EQ(client->sink.disorder(), 0);
    EXPECT_EQ(door_.waiting(), 0);
    EXPECT_EQ(observer_.ends.size(), clients_.size());
  }
  static void ExpectReason(const Client& client, ErrorReason reason) {
    ASSERT_TRUE(client.sink.end().has_value());
    EXPECT_EQ(ErrorReasonName(ReasonOf(*client.sink.end())), std::string(ErrorReasonName(reason)))
        << client.sink.end()->message();
  }

  FakeClock clock_;
  ByteTokenizer tokenizer_;
  CountingObserver observer_;
  QueueDoor door_;
  std::vector<std::unique_ptr<FakeVerifier>> verifiers_;
  std::vector<std::unique_ptr<DirectEar>> ears_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::unique_ptr<Batcher> batcher_;
};

TEST_F(BatcherTest, OneRequestGetsItsTextAndItsEvents) {
  Serve({{}});
  Client& client = Submit({.prompt = "hi", .max_tokens = 12, .seed = 3});
  Step();
  ASSERT_TRUE(client.sink.started());
  EXPECT_EQ(client.sink.started()->seed, 3u);
  EXPECT_THAT(client.sink.started()->prompt_tokens, ElementsAre(2));
  EXPECT_EQ(client.sink.started()->system_fingerprint.substr(0, 3), "fp_");
  RunAll();
  EXPECT_TRUE(client.sink.finished());
  EXPECT_EQ(client.sink.text(), ExpectedText("hi", 3, 12));
  const auto finished = client.sink.choice(0).finished;
  ASSERT_TRUE(finished);
  EXPECT_EQ(finished->reason, Finished::Reason::kLength);
  EXPECT_EQ(finished->output_tokens, 12);
  Step();
  Step();
  EXPECT_EQ(verifiers_[0]->num_known(), 0u);  // its final length was acknowledged
  ExpectClean();
}

TEST_F(BatcherTest, EosEndsWithStopAndHasNoText) {
  FakeVerifier::Options options;
  options.burst = 3;
  options.token = [](const std::vector<int32_t>& ids, int32_t prompt, uint64_t) -> int32_t {
    return static_cast<int>(ids.size()) - prompt == 4 ? kFakeEos : 'x';
  };
  Serve({options});
  Client& client = Submit({});
  RunAll();
  EXPECT_EQ(client.sink.text(), "xxxx");
  EXPECT_EQ(client.sink.choice(0).finished->reason, Finished::Reason::kStop);
  EXPECT_EQ(client.sink.choice(0).finished->output_tokens, 5);
}

TEST_F(BatcherTest, ChoicesOfPromptsUseSeedPlusIndexOfTheirPrompt) {
  Serve({{}});
  Client& client =
      Submit({.prompt = "ab", .max_tokens = 9, .seed = ~uint64_t{0}, .n = 2, .more_prompts = {"cd"}});
  RunAll();
  EXPECT_EQ(client.sink.text(0), ExpectedText("ab", ~uint64_t{0}, 9));
  EXPECT_EQ(client.sink.text(1), ExpectedText("ab", 0, 9));
  EXPECT_EQ(client.sink.text(2), ExpectedText("cd", ~uint64_t{0}, 9));
  EXPECT_EQ(client.sink.text(3), ExpectedText("cd", 0, 9));
  ExpectClean();
}

TEST_F(BatcherTest, StopTextInABurstEndsTokensUsageAndTheSequence) {
  FakeVerifier::Options options;
  options.burst = 5;
  const std::string script = "The end. Then more";
  options.token = [&](const std::vector<int32_t>& ids, int32_t prompt, uint64_t) -> int32_t {
    return static_cast<unsigned char>(script[(ids.size() - static_cast<size_t>(prompt)) % script.size()]);
  };
  Serve({options});
  Client& client = Submit({.max_tokens = 100, .stop = {"end. T"}, .num_logprobs = 2});
  Step();
  EXPECT_EQ(client.sink.text(), "The ");  // "e" is held back
  EXPECT_EQ(client.sink.choice(0).ids.size(), 5u);
  RunAll();
  EXPECT_EQ(client.sink.text(), "The ");
  const auto choice = client.sink.choice(0);
  EXPECT_EQ(choice.finished->reason, Finished::Reason::kStop);
  EXPECT_EQ(choice.finished->output_tokens, 10);  // up to the T that completes the stop text
  ASSERT_EQ(choice.tokens.size(), 10u);
  EXPECT_EQ(choice.tokens.back().bytes, "T");
  EXPECT_EQ(choice.tokens.back().top.size(), 2u);
  Step();
  Step();
  EXPECT_EQ(verifiers_[0]->num_known(), 0u);
  ExpectClean();
}

TEST_F(BatcherTest, QueueGoesByPriorityThenArrival) {
  FakeVerifier::Options options;
  options.max_sequences = 1;
  Serve({options});
  Submit({.prompt = "first", .max_tokens = 3});
  Submit({.prompt = "low", .max_tokens = 3, .priority = -1});
  Submit({.prompt = "b", .max_tokens = 3});
  Submit({.prompt = "c", .max_tokens = 3});
  Submit({.prompt = "high", .max_tokens = 3, .priority = 2});
  EXPECT_EQ(observer_.last.waiting, 4);
  RunAll();
  std::vector<std::string> order;
  for (const Admission& a : verifiers_[0]->admitted()) order.push_back(a.request_id);
  EXPECT_THAT(order, ElementsAre("r1", "r5", "r3", "r4", "r2"));
  ExpectClean();
}

TEST_F(BatcherTest, AdmissionStopsWhereKvEndsAndNobodyOvertakes) {
  FakeVerifier::Options options;
  options.total_blocks = 10;  // of 4 positions
  Serve({options});
  Submit({.prompt = std::string(16, 'a'), .max_tokens = 4});  // 4 blocks and one more
  Submit({.prompt = std::string(24, 'b'), .max_tokens = 4});  // does not fit beside it
  Submit({.prompt = "c", .max_tokens = 4});                   // would, but comes later
  ASSERT_EQ(verifiers_[0]->admitted().size(), 1u);
  Step();
  EXPECT_EQ(verifiers_[0]->admitted().size(), 1u);
  RunAll();
  std::vector<std::string> order;
  for (const Admission& a : verifiers_[0]->admitted()) order.push_back(a.request_id);
  EXPECT_THAT(order, ElementsAre("r1", "r2", "r3"));
  EXPECT_EQ(verifiers_[0]->num_preemptions(), 0);
  ExpectClean();
}

TEST_F(BatcherTest, PreemptedSequencesComeBackWithTheSameText) {
  FakeVerifier::Options options;
  options.total_blocks = 14;
  options.burst = 3;
  Serve({options});
  for (int i = 0; i < 6; ++i)
    Submit({.prompt = std::string(3, static_cast<char>('a' + i)), .max_tokens = 40, .seed = 1});
  RunAll();
  EXPECT_GT(observer_.preemptions, 0);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(clients_[i]->sink.text(), ExpectedText(std::string(3, static_cast<char>('a' + i)), 1, 40)) << i;
  }
  uint32_t highest = 0;
  for (const Admission& a : verifiers_[0]->admitted()) highest = std::max(highest, a.epoch);
  EXPECT_GT(highest, 1u);
  ExpectClean();
}

TEST_F(BatcherTest, ASequenceSentBackUnservedIsNotRetriedAtOnce) {
  Serve({{}});
  Client& client = Submit({});
  for (int i = 0; i < 3; ++i) {
    Step(0, [](Report& report) {
      SequenceReport& entry = report.sequences.at(0);
      entry.length = entry.first_index;
      entry.token_ids.clear();
      entry.computed_length = 0;
      entry.drafted = 0;
      entry.end = SequenceEnd::kPreempted;
    });
    EXPECT_EQ(verifiers_[0]->admitted().size(), static_cast<size_t>(i + 1));
    Pass(absl::Milliseconds(9 << i));
    EXPECT_EQ(verifiers_[0]->admitted().size(), static_cast<size_t>(i + 1)) << "before its time";
    EXPECT_LE(batcher_->next_wake(), clock_.Now() + absl::Milliseconds(1 << i));
    Pass(absl::Milliseconds(1 << i));
    EXPECT_EQ(verifiers_[0]->admitted().size(), static_cast<size_t>(i + 2));
  }
  EXPECT_FALSE(client.sink.started());  // it has never begun
  RunAll();
  EXPECT_EQ(client.sink.text(), ExpectedText("hello", 7, 20));
}

TEST_F(BatcherTest, SameTextThoughTheVerifierDiesSeveralTimes) {
  FakeVerifier::Options options;
  options.burst = 2;
  Serve({options});
  Client& a = Submit({.prompt = "a", .max_tokens = 50, .seed = 11});
  Client& b = Submit({.prompt = "b", .max_tokens = 50, .seed = 12, .n = 2, .stop = {"zzzz"}});
  for (int i = 0; i < 4; ++i) {
    Step();
    Step();
    Kill();
    EXPECT_FALSE(a.sink.end().has_value());
    Revive();
  }
  RunAll();
  EXPECT_EQ(a.sink.text(), ExpectedText("a", 11, 50));
  EXPECT_EQ(b.sink.text(0), ExpectedText("b", 12, 50));
  EXPECT_EQ(b.sink.text(1), ExpectedText("b", 13, 50));
  EXPECT_EQ(observer_.failovers["resumed"], 12);
  ExpectClean();
}

TEST_F(BatcherTest, ALostVerifiersSequencesGoOnAtItsEqual) {
  Serve({{}, {}});
  Client& a = Submit({.prompt = "a", .max_tokens = 30});
  Client& b = Submit({.prompt = "b", .max_tokens = 30});
  EXPECT_EQ(verifiers_[0]->num_running(), 1);
  EXPECT_EQ(verifiers_[1]->num_running(), 1);
  Step(0);
  Step(1);
  Kill(0);
  EXPECT_EQ(verifiers_[1]->num_running(), 2);
  EXPECT_EQ(verifiers_[1]->admitted().back().epoch, 2u);
  EXPECT_EQ(verifiers_[1]->admitted().back().token_ids.size(), 2u);
  EXPECT_EQ(verifiers_[1]->admitted().back().prompt_length, 1);
  RunAll();
  EXPECT_EQ(a.sink.text(), ExpectedText("a", 7, 30));
  EXPECT_EQ(b.sink.text(), ExpectedText("b", 7, 30));
  ExpectClean();
}

TEST_F(BatcherTest, NeverResumesUnderAnotherIdentityAndTakesItWhenNothingDependsOnTheOld) {
  FakeVerifier::Options other;
  other.numerics_id = "n2";
  Serve({{}, other}, /*hello=*/false);
  verifiers_[0]->SayHello();
  batcher_->Advance();
  verifiers_[1]->SayHello();
  batcher_->Advance();
  EXPECT_THAT(observer_.handshake_failures, ElementsAre("numerics_id"));
  EXPECT_TRUE(verifiers_[1]->closing());
  EXPECT_NE(std::string(verifiers_[1]->close_reason()->message()).find("n1"), std::string::npos);
  verifiers_[1]->Die();
  Client& client = Submit({});
  Step(0);
  Kill(0);
  // The mismatched one is tried again after 30 s only; the sequence gives up at that time.
  Pass(absl::Seconds(29));
  EXPECT_EQ(verifiers_[1]->num_connects(), 1);
  EXPECT_FALSE(client.sink.end().has_value());
  Pass(absl::Seconds(1));
  ExpectReason(client, ErrorReason::kBackendLost);
  EXPECT_EQ(client.sink.end()->message(), "backend lost after 1 tokens");
  EXPECT_EQ(observer_.failovers["lost"], 1);
  batcher_->Advance();
  ASSERT_TRUE(verifiers_[1]->connected());
  verifiers_[1]->SayHello();
  batcher_->Advance();
  EXPECT_TRUE(batcher_->any_ready());
  Client& next = Submit({});
  RunAll();
  EXPECT_TRUE(next.sink.finished());
  ExpectClean();
}

TEST_F(BatcherTest, HelloOfEveryWrongKindIsRefused) {
  Serve({{}}, /*hello=*/false);
  const std::vector<std::pair<std::string, std::function<void(VerifierHello&)>>> cases = {
      {"protocol", [](VerifierHello& h) { h.protocol_major = 2; }},
      {"sampling_version", [](VerifierHello& h) { h.sampling_version = 9; }},
      {"model_fingerprint", [](VerifierHello& h) { h.identity.fingerprint.clear(); }},
      {"numerics_id", [](VerifierHello& h) { h.identity.numerics_id.clear(); }},
      {"tokenizer_hash", [](VerifierHello& h) { h.tokenizer_hash = "other"; }},
      {"vocab_size", [](VerifierHello& h) { h.vocab_size = 1; }},
      {"max_model_len", [](VerifierHello& h) { h.max_model_len = 0; }},
      {"max_model_len", [](VerifierHello& h) { h.max_model_len = 0xFFFFFFFF; }},
      {"kv_block_positions", [](VerifierHello& h) { h.kv_block_positions = 0; }},
      {"kv_total_blocks", [](VerifierHello& h) { h.kv_total_blocks = 0; }},
      {"max_sequences", [](VerifierHello& h) { h.max_sequences = 0; }},
      {"eos_token_ids", [](VerifierHello& h) { h.eos_token_ids = {-1}; }},
      {"eos_token_ids", [](VerifierHello& h) { h.eos_token_ids.assign(1000, 1); }},
  };
  for (const auto& [field, spoil] : cases) {
    ASSERT_TRUE(verifiers_[0]->connected()) << field;
    VerifierHello hello = verifiers_[0]->MakeHello();
    spoil(hello);
    verifiers_[0]->SayHello(hello);
    batcher_->Advance();
    ASSERT_FALSE(observer_.handshake_failures.empty());
    EXPECT_EQ(observer_.handshake_failures.back(), field);
    EXPECT_FALSE(batcher_->any_ready());
    verifiers_[0]->Die();
    Pass(absl::Seconds(29));
    EXPECT_FALSE(verifiers_[0]->connected()) << field;
    Pass(absl::Seconds(1));
  }
  verifiers_[0]->SayHello();
  EXPECT_TRUE(batcher_->any_ready());
}

TEST_F(BatcherTest, DraftedTokensKeepTheirMarksAndTheirText) {
  Serve(
      {{.token = [](const std::vector<int32_t>& ids, int32_t, uint64_t) { return "abcdef"[ids.size() % 6]; },
        .burst = 4}});
  Client& client = Submit({.prompt = "123456", .max_tokens = 8});
  const auto with_drafts = [&](std::string marks, std::vector<uint64_t> rounds) {
    Step(0, [&](Report& report) {
      for (SequenceReport& s : report.sequences) {
        if (s.token_ids.empty()) continue;
        s.drafted_marks = marks;
        s.rounds_by_accepted = rounds;
        s.drafted = s.checked = 6;
        s.accepted = rounds.size() > 1 ? rounds[1] + 2 * rounds[2] : 0;
      }
    });
  };
  with_drafts(std::string("\1\1\0\1", 4), {0, 1, 1});
  with_drafts("", {0, 1, 1});
  ASSERT_TRUE(client.sink.finished());
  const RecordingSink::Choice choice = client.sink.choice(0);
  EXPECT_EQ(choice.text.size(), 8u);
  EXPECT_EQ(choice.drafted_spans, (std::vector<TextSpan>{{0, 2}, {3, 4}}));
  EXPECT_TRUE(choice.tokens[1].drafted);
  EXPECT_FALSE(choice.tokens[2].drafted);
  EXPECT_EQ(choice.finished->rounds_by_accepted, (std::vector<int64_t>{0, 1, 1}));
}

TEST(TextSpansTest, AppendedSpansMoveAndJoin) {
  std::vector<TextSpan> spans = {{1, 4}};
  AppendSpans({{0, 2}, {5, 6}}, 4, spans);
  EXPECT_EQ(spans, (std::vector<TextSpan>{{1, 6}, {9, 10}}));
}

// Each lie is told twice about one sequence: the first time it resumes, the second time its client hears of
// it; a bystander on the same verifier goes on.
TEST_F(BatcherTest, ReportsOfEveryBadKindCostOneRetryThenInternal) {
  using Edit = std::function<void(SequenceReport&)>;
  const std::vector<std::pair<std::string, Edit>> cases = {
      {"gap", [](SequenceReport& s) { ++s.first_index, ++s.length; }},
      {"gap", [](SequenceReport& s) { s.first_index = 0xFFFFFFFF; }},
      {"length", [](SequenceReport& s) { ++s.length; }},
      {"length", [](SequenceReport& s) { s.length = 0; }},
      {"max_length", [](SequenceReport& s) { s.token_ids.resize(500, 'x'), s.length = s.first_index + 500; }},
      {"token_id", [](SequenceReport& s) { s.token_ids.back() = kFakeVocab; }},
      {"token_id", [](SequenceReport& s) { s.token_ids.back() = -1; }},
      {"repeat", [](SequenceReport& s) { --s.first_index, s.token_ids.insert(s.token_ids.begin(), 1); }},
      {"computed_length", [](SequenceReport& s) { s.computed_length = s.length + 1; }},
      {"cached_length", [](SequenceReport& s) { s.cached_length = s.computed_length + 1; }},
      {"accepted", [](SequenceReport& s) { s.accepted = s.checked + 1; }},
      {"accepted", [](SequenceReport& s) { s.checked = s.drafted + 1; }},
      {"drafted", [](SequenceReport& s) { s.drafted = ~uint64_t{0}; }},
      {"drafted_marks", [](SequenceReport& s) { s.drafted_marks = std::string(s.token_ids.size() + 1, 0); }},
      {"drafted_marks", [](SequenceReport& s) { s.drafted_marks = std::string(s.token_ids.size(), 2); }},
      {"rounds", [](SequenceReport& s) { s.rounds_by_accepted = {1}; }},
      {"rounds",
       [](SequenceReport& s) {
         s.drafted = s.checked = s.accepted = 4;
         s.rounds_by_accepted = {0, ~uint64_t{0}};
       }},
      {"rounds",
       [](SequenceReport& s) {
         s.drafted = s.checked = s.accepted = 4;
         s.rounds_by_accepted.resize(66);
       }},
      {"logprobs", [](SequenceReport& s) { s.logprobs.clear(); }},
      {"logprobs", [](SequenceReport& s) { s.logprobs[0].chosen = std::nanf(""); }},
      {"logprobs", [](SequenceReport& s) { s.logprobs[0].top[0].first = -4; }},
      {"logprobs", [](SequenceReport& s) { s.logprobs[0].top.pop_back(); }},
      {"end", [](SequenceReport& s) { s.end = SequenceEnd::kStop; }},
      {"end", [](SequenceReport& s) { s.end = SequenceEnd::kLength; }},
      {"end", [](SequenceReport& s) { s.end = SequenceEnd::kCancelled; }},
      {"end", [](SequenceReport& s) { s.end = SequenceEnd::kUnknown; }},
      {"end", [](SequenceReport& s) { s.end = SequenceEnd::kFailed; }},
      {"epoch", [](SequenceReport& s) { ++s.epoch; }},
  };
  Serve({{}});
  for (const auto& [check, spoil] : cases) {
    Client& victim = Submit({.prompt = "victim", .num_logprobs = 1});
    Client& bystander = Submit({.prompt = "bystander"});
    for (int time = 0; time < 2; ++time) {
      Step();
      Step(0, [&, spoil = spoil](Report& report) { spoil(report.sequences.at(0)); });
      ASSERT_FALSE(observer_.protocol_errors.empty());
      EXPECT_EQ(observer_.protocol_errors.back(), check);
      EXPECT_TRUE(verifiers_[0]->closing());
      EXPECT_EQ(victim.sink.end().has_value(), time == 1) << check;
      verifiers_[0]->Die();
      Revive();
    }
    ExpectReason(victim, ErrorReason::kPeerProtocol);
    EXPECT_TRUE(ExpectedText("victim", 7, 20).starts_with(victim.sink.text()));
    RunAll();
    EXPECT_EQ(bystander.sink.text(), ExpectedText("bystander", 7, 20)) << check;
  }
  ExpectClean();
}

TEST_F(BatcherTest, ReportFiguresOfEveryBadKindEndTheStream) {
  const std::vector<std::pair<std::string, std::function<void(Report&)>>> cases = {
      {"number", [](Report& r) { ++r.number; }},
      {"number", [](Report& r) { r.number = 0; }},
      {"plan_number", [](Report& r) { r.plan_number += 5; }},
      {"kv_blocks",
       [](Report& r) {
         r.kv_free_blocks = 0xFFFFFFFF;
         r.kv_cached_blocks = 0xFFFFFFFF;
       }},
      {"sequence_share", [](Report& r) { r.sequence_share = 1000; }},
      {"utilization", [](Report& r) { r.utilization = std::nanf(""); }},
      {"sequence_id", [](Report& r) { r.sequences.at(0).id = 1'000'000; }},
      {"sequence_id", [](Report& r) { r.sequences.at(0).id = 0; }},
  };
  Serve({{}});
  for (const auto& [check, spoil] : cases) {
    Client& client = Submit({});
    Step();
    Step(0, spoil);
    EXPECT_EQ(observer_.protocol_errors.back(), check);
    EXPECT_TRUE(verifiers_[0]->closing());
    verifiers_[0]->Die();
    Revive();
    RunAll();
    EXPECT_EQ(client.sink.text(), ExpectedText("hello", 7, 20)) << check;
  }
  ExpectClean();
}

TEST_F(BatcherTest, RepeatedTokensAreDroppedAndOldEpochsCounted) {
  Serve({{}});
  Client& client = Submit({});
  Step();
  Step();
  Step(0, [&](Report& report) {
    SequenceReport& s = report.sequences.at(0);
    const auto ids = client.sink.choice(0).ids;
    s.first_index -= 2;
    s.token_ids.insert(s.token_ids.begin(), ids.end() - 2, ids.end());
    s.logprobs.clear();
    SequenceReport stale = s;
    stale.epoch = 0;
    stale.token_ids = {'?'};
    report.sequences.push_back(stale);
  });
  EXPECT_EQ(observer_.stale, 1);
  RunAll();
  EXPECT_EQ(client.sink.text(), ExpectedText("hello", 7, 20));
  ExpectClean();
}

TEST_F(BatcherTest, CancelInTheQueueAndWhileRunningFreesEverything) {
  FakeVerifier::Options options;
  options.max_sequences = 1;
  Serve({options});
  Client& running = Submit({});
  Client& waiting = Submit({});
  Client& last = Submit({.max_tokens = 2});
  Step();
  waiting.gate->Close();
  batcher_->Cancel(waiting.key);
  batcher_->Advance();
  running.gate->Close();
  batcher_->Cancel(running.key);
  batcher_->Advance();
  ASSERT_EQ(verifiers_[0]->plans().back().cancellations.size(), 1u);
  EXPECT_EQ(verifiers_[0]->admitted().size(),
            1u);  // the slot is not free before the verifier has heard of it
  Step();
  EXPECT_EQ(verifiers_[0]->admitted().size(), 2u);
  RunAll();
  EXPECT_TRUE(last.sink.finished());
  Step();
  Step();
  EXPECT_EQ(verifiers_[0]->num_known(), 0u);
  EXPECT_FALSE(running.sink.end().has_value());  // a closed sink hears nothing
  EXPECT_EQ(ReasonOf(observer_.ends[1].status), ErrorReason::kCancelled);
  ExpectClean();
}

TEST_F(BatcherTest, DeadlineHoldsInTheQueueAndWhileRunning) {
  FakeVerifier::Options options;
  options.max_sequences = 1;
  Serve({options});
  Client& running = Submit({.time = absl::Seconds(10)});
  Client& waiting = Submit({.time = absl::Seconds(9)});
  EXPECT_EQ(batcher_->next_wake(), absl::Seconds(9));
  Pass(absl::Seconds(9) - absl::Nanoseconds(1));
  EXPECT_FALSE(waiting.sink.end().has_value());
  Pass(absl::Nanoseconds(1));
  ExpectReason(waiting, ErrorReason::kDeadline);
  EXPECT_EQ(waiting.sink.end()->message(), "deadline exceeded after 9 s");
  Step();
  Pass(absl::Seconds(1));
  ExpectReason(running, ErrorReason::kDeadline);
  EXPECT_EQ(verifiers_[0]->plans().back().cancellations.size(), 1u);
  ExpectClean();
}

TEST_F(BatcherTest, WithoutVerifierNewRequestsAreToldAfterThreeSeconds) {
  Serve({{}}, /*hello=*/false);
  Client& early = Submit({});
  Pass(absl::Seconds(3) - absl::Nanoseconds(1));
  EXPECT_FALSE(early.sink.end().has_value());
  Pass(absl::Nanoseconds(1));
  ExpectReason(early, ErrorReason::kStarting);
  verifiers_[0]->SayHello();
  batcher_->Advance();
  Client& accepted = Submit({});
  Kill();
  Client& late = Submit({});
  Pass(absl::Seconds(3));
  ExpectReason(late, ErrorReason::kNoBackend);
  EXPECT_FALSE(accepted.sink.end().has_value());  // it had been taken on
  EXPECT_TRUE(RetryAfterOf(*late.sink.end()).has_value());
  verifiers_[0]->SayHello();
  batcher_->Advance();
  RunAll();
  EXPECT_TRUE(accepted.sink.finished());
  ExpectClean();
}

TEST_F(BatcherTest, ReconnectsWithGrowingPauses) {
  Serve({{}}, /*hello=*/false);
  absl::Duration last = absl::ZeroDuration();
  for (int i = 0; i < 8; ++i) {
    verifiers_[0]->Die();
    batcher_->Advance();
    const absl::Duration pause = batcher_->next_wake() - clock_.Now();
    EXPECT_GE(pause, absl::Milliseconds(100));
    EXPECT_LE(pause, absl::Seconds(5));
    if (i >= 4) {
      EXPECT_GT(pause, absl::Milliseconds(500));
    }
    if (i < 5) {
      EXPECT_GT(pause, last);
    }  // twice as long, within 25 % each
    last = pause;
    Pass(pause - absl::Nanoseconds(1));
    EXPECT_FALSE(verifiers_[0]->connected());
    Pass(absl::Nanoseconds(1));
    EXPECT_TRUE(verifiers_[0]->connected());
  }
}

TEST_F(BatcherTest, ASilentVerifierWithWorkIsTakenForLost) {
  Serve({{}, {}});
  Client& client = Submit({});
  const int home = verifiers_[0]->num_running() == 1 ? 0 : 1;
  Step(home);
  Pass(absl::Seconds(59));
  EXPECT_FALSE(verifiers_[home]->closing());
  Pass(absl::Seconds(1));
  EXPECT_TRUE(verifiers_[home]->closing());
  EXPECT_FALSE(verifiers_[1 - home]->closing());  // idle: nothing to say
  EXPECT_EQ(verifiers_[1 - home]->num_running(), 1);
  for (int i = 0; i < 25; ++i) Step(1 - home);
  EXPECT_EQ(client.sink.text(), ExpectedText("hello", 7, 20));
}

TEST_F(BatcherTest, ADrainingVerifiersSequencesMoveIfThereIsAnother) {
  Serve({{}, {}}, /*hello=*/false);
  verifiers_[0]->SayHello();
  batcher_->Advance();
  Client& client = Submit({.max_tokens = 30});
  Step(0);
  verifiers_[0]->SayDraining();
  batcher_->Advance();
  EXPECT_FALSE(batcher_->any_ready());
  Step(0);
  EXPECT_EQ(client.sink.choice(0).ids.size(), 2u);  // it goes on where it is
  verifiers_[1]->SayHello();
  batcher_->Advance();
  EXPECT_EQ(verifiers_[1]->num_running(), 1);
  EXPECT_EQ(verifiers_[0]->plans().back().cancellations.size(), 1u);
  RunAll();
  EXPECT_EQ(client.sink.text(), ExpectedText("hello", 7, 30));
  EXPECT_EQ(observer_.failovers["resumed"], 1);
  ExpectClean();
}

TEST_F(BatcherTest, ASequenceThatTheVerifierFailsEndsItsWholeRequest) {
  Serve({{}});
  Client& client = Submit({.n = 2});
  Client& other = Submit({});
  Step(0, [](Report& report) {
    SequenceReport& s = report.sequences.at(0);
    s.end = SequenceEnd::kFailed;
    s.error = absl::InvalidArgumentError("top_p must be in (0, 1], got 2");
  });
  ExpectReason(client, ErrorReason::kValidation);
  EXPECT_EQ(verifiers_[0]->plans().back().cancellations.size(), 1u);
  RunAll();
  EXPECT_TRUE(other.sink.finished());
  ExpectClean();
}

TEST_F(BatcherTest, LengthsThatNoVerifierTakesAreRefusedImpliedOnesShortened) {
  FakeVerifier::Options options;
  options.max_model_len = 20;
  Serve({options});
  Client& too_long = Submit({.prompt = "0123456789", .max_tokens = 11});
  ExpectReason(too_long, ErrorReason::kTooLong);
  Client& fills = Submit({.prompt = std::string(20, 'x'), .max_tokens = 5, .asked_max_tokens = false});
  ExpectReason(fills, ErrorReason::kTooLong);
  Client& implied = Submit({.prompt = "0123456789", .max_tokens = 100, .asked_max_tokens = false});
  RunAll();
  EXPECT_EQ(implied.sink.choice(0).finished->output_tokens, 10);
  EXPECT_EQ(implied.sink.choice(0).finished->reason, Finished::Reason::kLength);
  ExpectClean();
}

TEST_F(BatcherTest, FailAllEndsEveryRequestOnce) {
  FakeVerifier::Options options;
  options.max_sequences = 1;
  Serve({options});
  Client& a = Submit({});
  Client& b = Submit({.n = 3});
  Step();
  batcher_->FailAll(error::Draining(absl::Seconds(5)));
  batcher_->Advance();
  ExpectReason(a, ErrorReason::kDraining);
  ExpectReason(b, ErrorReason::kDraining);
  ExpectClean();
}

TEST(QueueDoorTest, HoldsItsBoundAllOrNothing) {
  QueueDoor door;
  door.set_limit(64);
  EXPECT_TRUE(door.Enter(60).ok());
  const absl::Status full = door.Enter(5);
  EXPECT_EQ(ReasonOf(full), ErrorReason::kQueueFull);
  EXPECT_EQ(door.waiting(), 60);
  EXPECT_TRUE(door.Enter(4).ok());
  door.Leave(64);
  EXPECT_TRUE(door.Enter(1).ok());
  door.BeginDrain();
  EXPECT_EQ(ReasonOf(door.Enter(1)), ErrorReason::kDraining);
}

TEST(QueueDoorTest, RefusesAWaitThatIsPredictedToBeTooLong) {
  QueueDoor door;
  door.set_wait_per_choice(absl::Seconds(4));
  EXPECT_TRUE(door.Enter(3).ok());  // nobody in front, however many they are
  EXPECT_TRUE(door.Enter(1).ok());  // 12 s, and no bound on the wait unless asked for
  door.Leave(1);
  door.set_max_predicted_wait(absl::Seconds(12));
  EXPECT_TRUE(door.Enter(1).ok());             // 12 s
  const absl::Status refused = door.Enter(1);  // 16 s
  EXPECT_EQ(ReasonOf(refused), ErrorReason::kQueueFull);
  EXPECT_EQ(RetryAfterOf(refused), absl::Seconds(16));
  EXPECT_EQ(door.waiting(), 4);  // it left no trace
  door.set_wait_per_choice(std::nullopt);
  EXPECT_TRUE(door.Enter(1).ok());  // without an estimate nobody is turned away
  door.Leave(5);
  door.set_wait_per_choice(absl::Hours(1));
  EXPECT_TRUE(door.Enter(1).ok());
}

TEST_F(BatcherTest, ThePaceOfTheQueueReachesTheDoor) {
  FakeVerifier::Options one;
  one.max_sequences = 1;
  Serve({one});
  door_.set_max_predicted_wait(absl::Seconds(10));
  for (int i = 0; i < QueuePace::kMinFreed + 8; ++i) Submit({.max_tokens = 1});
  for (int i = 0; i < QueuePace::kMinFreed; ++i) {
    EXPECT_TRUE(door_.Enter(1).ok()) << "without an estimate, after " << i;
    door_.Leave(1);
    clock_.Advance(absl::Seconds(2));
    Step();
  }
  // Two seconds a choice, seven in front.
  EXPECT_EQ(door_.waiting(), 7);
  const absl::Status refused = door_.Enter(1);
  EXPECT_EQ(ReasonOf(refused), ErrorReason::kQueueFull);
  EXPECT_EQ(RetryAfterOf(refused), absl::Seconds(14));
  for (int i = 0; i < 2; ++i) {
    clock_.Advance(absl::Seconds(2));
    Step();
  }
  EXPECT_TRUE(door_.Enter(1).ok());  // five in front
  door_.Leave(1);
  for (int i = 0; i < 20; ++i) Step();
  ExpectClean();
}

TEST_F(BatcherTest, TimeWithoutAVerifierIsNotThePaceOfTheQueue) {
  FakeVerifier::Options one;
  one.max_sequences = 1;
  Serve({one});
  door_.set_max_predicted_wait(absl::Seconds(10));
  for (int i = 0; i < QueuePace::kMinFreed + 4; ++i) Submit({.max_tokens = 1});
  Kill();
  Pass(absl::Seconds(29));
  verifiers_[0]->SayHello();
  batcher_->Advance();
  for (int i = 0; i < QueuePace::kMinFreed; ++i) {
    clock_.Advance(absl::Seconds(1));
    Step();
  }
  EXPECT_EQ(door_.waiting(), 3);
  EXPECT_TRUE(door_.Enter(1).ok());  // with the 29 s of nobody it would be 14 s
  door_.Leave(1);
  for (int i = 0; i < 20; ++i) Step();
  ExpectClean();
}

TEST(MergePlanTest, KeepsAdmissionsAndTheLastAcknowledgement) {
  Plan pending, next;
  pending.admissions.resize(3);
  pending.admissions[0].id = 1;
  pending.admissions[1].id = 2;
  pending.admissions[2].id = 4;  // taken back below
  pending.acknowledgements = {{1, 1, 10}, {2, 1, 5}};
  pending.waiting_sequences = 9;
  next.admissions.resize(2);
  next.admissions[0].id = 2;
  next.admissions[0].epoch = 2;
  next.admissions[1].id = 3;
  next.cancellations = {{3, 1}, {4, 0}};
  next.acknowledgements = {{1, 1, 12}};
  next.waiting_sequences = 1;
  MergePlan(pending, std::move(next));
  ASSERT_EQ(pending.admissions.size(), 3u);
  EXPECT_EQ(pending.admissions[1].epoch, 2u);
  EXPECT_EQ(pending.cancellations.size(), 1u);
  ASSERT_EQ(pending.acknowledgements.size(), 2u);
  EXPECT_EQ(pending.acknowledgements[0].length, 12);
  EXPECT_EQ(pending.waiting_sequences, 1);
}

}  // namespace
}  // namespace tandem::gateway
