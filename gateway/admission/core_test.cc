#include "gateway/admission/core.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gateway/admission/fake_text.h"
#include "gateway/admission/fake_verifier.h"
#include "gateway/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

using ::testing::ElementsAre;

ModelText BytesModel() {
  ModelText text;
  text.tokenizer = std::make_unique<ByteTokenizer>();
  text.vocab_size = kFakeVocab;
  text.max_position = 512;
  text.eos_token_ids = {kFakeEos};
  return text;
}

// Lends a verifier of the test to a core that owns its links.
class LentLink : public VerifierLink {
 public:
  explicit LentLink(FakeVerifier& verifier) : verifier_(verifier) {}
  void Connect(const GatewayHello& hello, Listener& listener) override { verifier_.Connect(hello, listener); }
  uint64_t SendPlan(Plan plan) override { return verifier_.SendPlan(std::move(plan)); }
  void Close(const absl::Status& why) override { verifier_.Close(why); }
  const std::string& name() const override { return verifier_.name(); }

 private:
  FakeVerifier& verifier_;
};

// How many verifiers are ready, to be waited for.
class ReadyObserver : public Observer {
 public:
  void OnLoad(const Load& load) override {
    const std::lock_guard lock(mu_);
    num_ready_ = load.verifiers[static_cast<int>(VerifierState::kReady)];
    changed_.notify_all();
  }
  bool AwaitReady(size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(30),
                             [&] { return static_cast<size_t>(num_ready_) == count; });
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  int num_ready_ = 0;
};

class CoreTest : public ::testing::Test {
 protected:
  ~CoreTest() override { StopVerifiers(); }

  void Create(std::vector<FakeVerifierOptions> options, const Clock& clock = Clock::Real(),
              CoreOptions core_options = {}) {
    std::vector<std::unique_ptr<VerifierLink>> links;
    for (const auto& o : options) {
      verifiers_.push_back(std::make_unique<FakeVerifier>(o));
      links.push_back(std::make_unique<LentLink>(*verifiers_.back()));
    }
    core_options.model_id = "bytes";
    auto core = Core::Create(core_options, BytesModel(), std::move(links), clock, observer_);
    ASSERT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
  }
  // A thread per verifier that does what there is to do. `lives`: after so many steps with sequences the
  // first, second, ... stream dies; those after that live on.
  void RunVerifiers(const std::vector<int>& lives = {}) {
    for (auto& verifier : verifiers_) {
      threads_.emplace_back([v = verifier.get(), lives] {
        size_t life = 0;
        int steps = 0;
        while (true) {
          switch (v->AwaitWork()) {
            case FakeVerifier::Work::kStop:
              return;
            case FakeVerifier::Work::kSayHello:
              steps = 0;
              v->SayHello();
              break;
            case FakeVerifier::Work::kDie:
              v->Die();
              break;
            case FakeVerifier::Work::kStep:
              if (life < lives.size() && v->num_running() > 0 && ++steps > lives[life]) {
                ++life;
                v->Die();
              } else {
                v->Step();
              }
              break;
          }
        }
      });
    }
  }
  void StopVerifiers() {
    for (auto& verifier : verifiers_) verifier->Stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  void AwaitReady() { ASSERT_TRUE(observer_.AwaitReady(verifiers_.size())); }
  static GenerationRequest Ask(const std::string& prompt, int max_tokens, uint64_t seed) {
    GenerationRequest request;
    request.model = "default";
    request.api = "completions";
    request.prompts = {prompt};
    request.max_tokens = max_tokens;
    request.seed = seed;
    return request;
  }

  ReadyObserver observer_;
  FakeClock clock_;
  std::vector<std::unique_ptr<FakeVerifier>> verifiers_;
  std::unique_ptr<Core> core_;
  std::vector<std::thread> threads_;
};

TEST_F(CoreTest, ARequestGoesThrough) {
  Create({{}});
  RunVerifiers();
  RecordingSink sink;
  GenerationRequest request = Ask("hello", 20, 5);
  request.request_id = "mine";
  request.echo = true;
  const auto generation = core_->Start(request, sink);
  ASSERT_TRUE(generation.ok()) << generation.status();
  EXPECT_EQ((*generation)->request_id(), "mine");
  ASSERT_TRUE(sink.WaitForEnd(absl::Seconds(30)));
  EXPECT_TRUE(sink.finished());
  EXPECT_EQ(sink.text(), "hello" + ExpectedText("hello", 5, 20));
  EXPECT_EQ(sink.started()->request_id, "mine");
  EXPECT_EQ(sink.disorder(), 0);
  const ModelInfo info = core_->model_info();
  EXPECT_EQ(info.id, "bytes");
  EXPECT_THAT(info.aliases, ElementsAre("default"));
  EXPECT_EQ(info.max_model_len, 512);
  EXPECT_EQ(info.system_fingerprint, sink.started()->system_fingerprint);
  EXPECT_TRUE(core_->WaitIdle(absl::Seconds(10)));
}

TEST_F(CoreTest, WithoutSeedOneIsDrawnAndReported) {
  Create({{}});
  RunVerifiers();
  RecordingSink a, b;
  GenerationRequest request = Ask("x", 5, 0);
  request.seed.reset();
  const auto first = core_->Start(request, a);
  const auto second = core_->Start(request, b);
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(a.WaitForEnd(absl::Seconds(30)));
  ASSERT_TRUE(b.WaitForEnd(absl::Seconds(30)));
  EXPECT_NE(a.started()->seed, b.started()->seed);
  EXPECT_EQ(a.text(), ExpectedText("x", a.started()->seed, 5));
  EXPECT_NE((*first)->request_id(), (*second)->request_id());
}

TEST_F(CoreTest, ManyClientsPreemptionsAndDyingVerifiersGiveEachItsOwnText) {
  FakeVerifierOptions small;
  small.total_blocks = 40;
  small.burst = 2;
  Create({small, small});
  RunVerifiers(/*lives=*/{3, 7, 12});
  AwaitReady();
  constexpr int kClients = 24;
  std::vector<std::unique_ptr<RecordingSink>> sinks;
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < kClients; ++i) {
    sinks.push_back(std::make_unique<RecordingSink>());
    GenerationRequest request = Ask(std::string(1 + i % 7, static_cast<char>('a' + i)), 60, i);
    request.n = 1 + i % 2;
    auto generation = core_->Start(request, *sinks.back());
    ASSERT_TRUE(generation.ok()) << generation.status();
    generations.push_back(*std::move(generation));
  }
  for (int i = 0; i < kClients; ++i) {
    ASSERT_TRUE(sinks[i]->WaitForEnd(absl::Seconds(60))) << i;
    ASSERT_TRUE(sinks[i]->finished()) << *sinks[i]->end();
    EXPECT_EQ(sinks[i]->disorder(), 0) << i;
    for (int choice = 0; choice < 1 + i % 2; ++choice) {
      EXPECT_EQ(sinks[i]->text(choice),
                ExpectedText(std::string(1 + i % 7, static_cast<char>('a' + i)), i + choice, 60));
    }
  }
  for (const auto& verifier : verifiers_) EXPECT_GE(verifier->num_connects(), 2);
}

TEST_F(CoreTest, ClientsThatLeaveAtAnyMomentAreForgotten) {
  Create({{}});
  RunVerifiers();
  AwaitReady();
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([this, t] {
      std::minstd_rand random(t + 1);
      for (int i = 0; i < 100; ++i) {
        RecordingSink sink;
        auto generation = core_->Start(Ask("leave", 200, i), sink);
        if (!generation.ok()) continue;  // the queue may be full for a moment
        if (random() % 2 == 0) {
          EXPECT_TRUE(sink.WaitForTokens(static_cast<int>(random() % 200), absl::Seconds(30)));
        }
        generation->reset();
        const std::string text = sink.text();  // nothing comes any more
        std::this_thread::yield();
        EXPECT_EQ(sink.text(), text);
        EXPECT_EQ(sink.disorder(), 0);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(core_->WaitIdle(absl::Seconds(30)));
  EXPECT_TRUE(verifiers_[0]->AwaitNoneKnown(absl::Seconds(30)));
}

TEST_F(CoreTest, DrainRefusesNewRequestsAndLetsRunningOnesFinish) {
  Create({{}});
  RunVerifiers();
  AwaitReady();
  core_->Settle();
  EXPECT_TRUE(core_->ready());
  RecordingSink running, late;
  const auto generation = core_->Start(Ask("run", 100, 1), running);
  ASSERT_TRUE(generation.ok());
  core_->BeginDrain();
  EXPECT_FALSE(core_->ready());
  const auto refused = core_->Start(Ask("late", 5, 1), late);
  EXPECT_EQ(ReasonOf(refused.status()), ErrorReason::kDraining);
  EXPECT_TRUE(core_->WaitIdle(absl::Seconds(30)));
  EXPECT_TRUE(running.finished());
  EXPECT_EQ(running.text(), ExpectedText("run", 1, 100));
}

TEST_F(CoreTest, DestructionEndsWhatRunsAndGenerationsMayOutliveIt) {
  Create({{}});  // nobody steps it
  RecordingSink sink;
  auto generation = core_->Start(Ask("x", 100, 1), sink);
  ASSERT_TRUE(generation.ok());
  EXPECT_FALSE(core_->WaitIdle(absl::Milliseconds(5)));
  core_.reset();
  ASSERT_TRUE(sink.end().has_value());
  EXPECT_EQ(ReasonOf(*sink.end()), ErrorReason::kDraining);
  generation->reset();
}

TEST_F(CoreTest, TimersFollowTheInjectedClock) {
  Create({{}}, clock_);
  RecordingSink sink, early;
  const auto generation = core_->Start(Ask("x", 5, 1), sink);
  ASSERT_TRUE(generation.ok());
  GenerationRequest request = Ask("x", 5, 1);
  request.deadline = clock_.WallNow() + absl::Seconds(2);
  const auto with_deadline = core_->Start(request, early);
  ASSERT_TRUE(with_deadline.ok());
  request.deadline = clock_.WallNow();
  RecordingSink never;
  EXPECT_EQ(ReasonOf(core_->Start(request, never).status()), ErrorReason::kDeadline);
  clock_.Advance(absl::Seconds(2));
  core_->Settle();
  ASSERT_TRUE(early.WaitForEnd(absl::Seconds(30)));
  EXPECT_EQ(ReasonOf(*early.end()), ErrorReason::kDeadline);
  EXPECT_FALSE(sink.end().has_value());
  clock_.Advance(
      absl::Seconds(3));  // its wait began when the batcher first saw it, at most 2 s after it came
  core_->Settle();
  ASSERT_TRUE(sink.WaitForEnd(absl::Seconds(30)));
  EXPECT_EQ(ReasonOf(*sink.end()), ErrorReason::kStarting);
}

TEST_F(CoreTest, TellsWhenTheFirstVerifierIsReadyAndWhenTheLastOneIsNot) {
  std::vector<bool> told;  // the loop's thread, which sleeps while the test looks
  CoreOptions options;
  options.on_verifiers_ready = [&](bool any) { told.push_back(any); };
  Create({{}, {}}, clock_, options);
  core_->Settle();
  EXPECT_THAT(told, ElementsAre());
  EXPECT_FALSE(core_->ready());
  for (auto& verifier : verifiers_) verifier->SayHello();
  core_->Settle();
  EXPECT_THAT(told, ElementsAre(true));
  EXPECT_TRUE(core_->ready());
  verifiers_[0]->Die();
  core_->Settle();
  EXPECT_THAT(told, ElementsAre(true));
  verifiers_[1]->Die();
  core_->Settle();
  EXPECT_THAT(told, ElementsAre(true, false));
  EXPECT_FALSE(core_->ready());
}

TEST_F(CoreTest, ARequestThatWouldWaitMoreThanTenSecondsIsRefused) {
  FakeVerifierOptions one;
  one.max_sequences = 1;
  Create({one}, clock_);
  core_->Settle();
  verifiers_[0]->SayHello();
  std::vector<std::unique_ptr<RecordingSink>> sinks;
  std::vector<std::unique_ptr<Generation>> generations;
  const auto start = [&] {
    sinks.push_back(std::make_unique<RecordingSink>());
    auto generation = core_->Start(Ask("x", 1, 1), *sinks.back());
    if (generation.ok()) generations.push_back(*std::move(generation));
    return generation.status();
  };
  for (int i = 0; i < QueuePace::kMinFreed + 7; ++i) ASSERT_TRUE(start().ok()) << i;
  core_->Settle();
  for (int i = 0; i < QueuePace::kMinFreed; ++i) {
    clock_.Advance(absl::Seconds(2));
    verifiers_[0]->Step();
    core_->Settle();
    EXPECT_TRUE(sinks[i]->finished());
  }
  // One runs, six wait, each for two seconds.
  const absl::Status refused = start();
  EXPECT_EQ(ReasonOf(refused), ErrorReason::kQueueFull);
  EXPECT_EQ(RetryAfterOf(refused), absl::Seconds(12));
  clock_.Advance(absl::Seconds(2));
  verifiers_[0]->Step();
  core_->Settle();
  EXPECT_TRUE(start().ok());  // five wait
}

TEST_F(CoreTest, AFullQueueIsRefusedAtTheDoor) {
  Create({{}}, clock_);  // no Hello: everything waits
  std::vector<std::unique_ptr<RecordingSink>> sinks;
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < 64; ++i) {
    sinks.push_back(std::make_unique<RecordingSink>());
    auto generation = core_->Start(Ask("x", 5, 1), *sinks.back());
    ASSERT_TRUE(generation.ok()) << i << generation.status();
    generations.push_back(*std::move(generation));
  }
  RecordingSink sink;
  const auto refused = core_->Start(Ask("x", 5, 1), sink);
  EXPECT_EQ(ReasonOf(refused.status()), ErrorReason::kQueueFull);
  EXPECT_TRUE(RetryAfterOf(refused.status()).has_value());
  generations.clear();
  EXPECT_TRUE(core_->WaitIdle(absl::Seconds(30)));
  EXPECT_TRUE(core_->Start(Ask("x", 5, 1), sink).ok());
}

TEST_F(CoreTest, TokenizeAndDetokenizeCheckWhatTheyGet) {
  Create({{}}, clock_);
  const auto reason = [&](TokenizeRequest request) { return ReasonOf(core_->Tokenize(request).status()); };
  EXPECT_THAT(core_->Tokenize({"bytes", "ab", {}}).value(), ElementsAre('a', 'b'));
  EXPECT_EQ(core_->Detokenize("default", "tokens", {'a', 0xC3, 0xA9, kFakeEos}).value(), "a\u00e9<eos>");
  EXPECT_EQ(reason({"other", "ab", {}}), ErrorReason::kModel);
  EXPECT_EQ(reason({"bytes", {}, {}}), ErrorReason::kValidation);
  EXPECT_EQ(reason({"bytes", std::string(5000, 'x'), {}}), ErrorReason::kTooLong);
  EXPECT_EQ(reason({"bytes", "ab", {}, {{"nobody_listed_it", true}}}), ErrorReason::kUnsupported);
  const auto messages = nlohmann::ordered_json::parse(R"([{"role":"user","content":"x"}])");
  EXPECT_EQ(reason({"bytes", {}, messages}), ErrorReason::kUnsupported);
  const absl::Status bad_id = core_->Detokenize("bytes", "tokens", {kFakeVocab}).status();
  EXPECT_EQ(ReasonOf(bad_id), ErrorReason::kValidation);
  EXPECT_EQ(ParamOf(bad_id), "tokens");
  const std::vector<int64_t> many(static_cast<size_t>(core_->model_info().max_model_len) + 1, 'a');
  EXPECT_EQ(ReasonOf(core_->Detokenize("bytes", "tokens", many).status()), ErrorReason::kValidation);
}

TEST_F(CoreTest, ShedsAtNineTenthsOfMemory) {
  CoreOptions options;
  options.memory_limit_bytes = 1000;
  std::atomic<int64_t> resident = 899;
  options.resident_bytes = [&] { return resident.load(); };
  Create({{}}, clock_, options);
  RecordingSink sink;
  EXPECT_TRUE(core_->Start(Ask("x", 5, 1), sink).ok());
  resident = 900;
  const absl::Status refused = core_->Start(Ask("x", 5, 1), sink).status();
  EXPECT_EQ(ReasonOf(refused), ErrorReason::kMemory);
  EXPECT_TRUE(RetryAfterOf(refused).has_value());
  resident = 800;
  EXPECT_TRUE(core_->Start(Ask("x", 5, 1), sink).ok());
}

}  // namespace
}  // namespace tandem::gateway
