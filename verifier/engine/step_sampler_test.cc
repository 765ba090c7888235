// Windows in rejection mode, on given logits and fixed noise: what a window decides is what one row at a time
// would, each with the history of the tokens that stood before it.
#include "verifier/engine/step_sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

#include "common/sampling/rejection.h"

namespace tandem::verifier {
namespace {

constexpr int32_t kVocab = 24;
constexpr int32_t kStop = 3;

struct Case {
  Admission request;
  std::vector<float> logits;  // [drafts + 1, kVocab]
  std::vector<int32_t> drafts;
  std::vector<std::vector<speculation::TokenProbability>> distributions;
  uint32_t round = 0;
};

Case RandomCase(uint32_t number) {
  std::mt19937 random(number);
  const auto unit = [&] { return std::uniform_real_distribution<float>(0, 1)(random); };
  Case c;
  for (int i = 0; i < 12; ++i) c.request.tokens.push_back(static_cast<int32_t>(random() % kVocab));
  c.request.prompt_length = 7;
  c.request.max_tokens = 100;
  c.request.sampling.seed = random();
  c.request.sampling.temperature = std::array{0.0f, 0.7f, 1.0f, 1.4f}[number % 4];
  if (number % 3 != 0) {
    c.request.sampling.repetition_penalty = 1.5f;
    c.request.sampling.frequency_penalty = 0.8f;
    c.request.sampling.presence_penalty = -0.6f;
  }
  if (number % 5 == 1) c.request.sampling.top_k = 6;
  if (number % 5 == 2) c.request.sampling.top_p = 0.8f;
  if (number % 5 == 3) c.request.sampling.min_p = 0.05f;
  if (number % 2 == 0) {
    c.request.stop_token_ids = {kStop};
    c.request.min_tokens = 5 + static_cast<int32_t>(random() % 5);  // 5 are there: the window crosses it
  }
  if (number % 3 == 1) c.request.num_logprobs = 2;
  c.round = static_cast<uint32_t>(random() % 1000);
  const size_t num_drafts = random() % 6;
  for (size_t i = 0; i < (num_drafts + 1) * kVocab; ++i) c.logits.push_back(8 * unit() - 4);
  for (size_t k = 0; k < num_drafts; ++k) {
    // Few tokens, those that the logits like among them, so that whole windows stand now and then.
    const std::span<const float> row(c.logits.data() + k * kVocab, kVocab);
    const auto best = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
    const int32_t other = (best + 1 + static_cast<int32_t>(random() % (kVocab - 1))) % kVocab;
    const float q = 0.5f + 0.5f * unit();
    c.distributions.push_back({{best, q}, {other, 1 - q}});
    c.drafts.push_back(unit() < q ? best : other);
    // Same tokens again and again: penalties inside the window matter.
    if (k > 0 && unit() < 0.3f) {
      c.drafts[k] = c.drafts[k - 1];
      c.distributions[k] = {{c.drafts[k], 1.0f}};
    }
  }
  return c;
}

void ExpectEqual(const sampling::TokenCounts& got, const sampling::TokenCounts& want) {
  ASSERT_EQ(got.counts().size(), want.counts().size());
  for (const auto& [token, count] : want.counts()) {
    const auto found = got.counts().find(token);
    ASSERT_NE(found, got.counts().end()) << token;
    EXPECT_EQ(found->second.prompt, count.prompt) << token;
    EXPECT_EQ(found->second.output, count.output) << token;
  }
}

TEST(RejectionWindow, IsOneTokenAtATime) {
  ThreadPool pool(2);
  StepSampler sampler(pool, kVocab, 16, {speculation::AcceptanceMode::kRejection, {}});
  int num_whole = 0, num_rejected = 0, num_stops = 0, num_accepted = 0;
  for (uint32_t number = 0; number < 3000; ++number) {
    SCOPED_TRACE(number);
    const Case c = RandomCase(number);
    Sequence sequence(1, 1, Admission(c.request));
    const SampleWindow window{&sequence, 0, c.drafts, c.distributions, c.round};
    sampler.Sample(c.logits, {&window, 1});

    Admission so_far = c.request;
    for (size_t k = 0;; ++k) {
      // A new sequence with the tokens up to here: its history is counted from them.
      const Sequence alone(1, 1, Admission(so_far));
      const auto index = static_cast<int32_t>(so_far.tokens.size());
      const std::span<const float> row(c.logits.data() + k * kVocab, kVocab);
      const sampling::Position position{&so_far.sampling, &alone.history, alone.MaskedAt(index),
                                        static_cast<uint64_t>(index)};
      const auto p = sampling::ProcessedDistribution(row, position);
      ASSERT_TRUE(p.ok()) << p.status();
      sampling::RejectionStep want;
      if (k < c.drafts.size()) {
        std::vector<float> q(kVocab, 0.0f);
        for (const auto& pair : c.distributions[k]) q[pair.token] = pair.probability;
        want = sampling::VerifyDraft(c.drafts[k], *p, q, so_far.sampling.seed, index, c.round);
      } else {
        want.token = sampling::DrawBonus(*p, so_far.sampling.seed, index, c.round);
      }
      const SampledToken& got = sampler.results()[k];
      ASSERT_TRUE(got.status.ok()) << got.status;
      ASSERT_EQ(got.token, want.token) << "at " << k;
      ASSERT_EQ(got.accepted, want.accepted) << "at " << k;
      ASSERT_GT((*p)[got.token], 0) << "a token that the parameters forbid";
      if (index - so_far.prompt_length < so_far.min_tokens && !so_far.stop_token_ids.empty()) {
        ASSERT_NE(got.token, kStop);
      }
      num_stops += got.token == kStop;
      ASSERT_EQ(got.logprobs.has_value(), so_far.num_logprobs.has_value());
      if (got.logprobs) {
        // Of the raw row, whatever the draft's law was.
        const auto logprobs = sampling::ComputeLogprobs(row, got.token, *so_far.num_logprobs);
        EXPECT_EQ(got.logprobs->chosen, logprobs.chosen);
        EXPECT_EQ(got.logprobs->top, logprobs.top);
      }
      so_far.tokens.push_back(got.token);
      num_accepted += got.accepted;
      num_rejected += k < c.drafts.size() && !got.accepted;
      num_whole += k == c.drafts.size() && k > 0;
      if (!got.accepted) break;
    }
    if (c.request.sampling.has_penalties()) {
      const Sequence end(1, 1, Admission(so_far));
      ExpectEqual(sequence.history, end.history);
    }
  }
  EXPECT_GT(num_accepted, 1000);
  EXPECT_GT(num_rejected, 500);
  EXPECT_GT(num_whole, 200);
  EXPECT_GT(num_stops, 50);
}

}  // namespace
}  // namespace tandem::verifier
