// Whole decodes of golden/drafters, round by round, through both engines with everything in f32: the same
// drafts, the same confidences, as many accepted, the same text.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/models/model.h"
#include "drafter/models/golden_drafts.h"
#include "tests/speculation/pair.h"

namespace tandem {
namespace {

using testing::PairLink;
using verifier::testing::FakeGateway;

struct Round {
  int32_t start = 0, anchor = 0;
  std::vector<int32_t> drafts;
  std::vector<float> confidence_logits;
  int accepted = 0;
};

class TracesTest : public ::testing::TestWithParam<drafter::DraftCase> {};

std::vector<Round> RoundsOf(const nlohmann::json& trace) {
  std::vector<Round> rounds;
  for (const auto& json : trace.at("rounds")) {
    Round round;
    round.start = json.at("start");
    round.anchor = json.at("anchor");
    round.drafts = json.at("drafts").get<std::vector<int32_t>>();
    if (const auto logits = json.find("all_confidence_logits"); logits != json.end() && logits->is_array()) {
      round.confidence_logits = logits->get<std::vector<float>>();
    }
    round.accepted = json.at("accepted");
    rounds.push_back(std::move(round));
  }
  return rounds;
}

// Eagle3's reference proposes nothing behind a drafted stop token; our drafter knows none and goes on, which
// changes no text.
void EndDraftsAtStop(const std::vector<int32_t>& stops, Round& round) {
  const auto stop = std::find_first_of(round.drafts.begin(), round.drafts.end(), stops.begin(), stops.end());
  if (stop != round.drafts.end()) round.drafts.erase(stop + 1, round.drafts.end());
}

void ExpectSameRound(const Round& got, const Round& want, size_t number) {
  SCOPED_TRACE(fmt::format("round {}", number));
  EXPECT_EQ(got.start, want.start);
  EXPECT_EQ(got.anchor, want.anchor);
  EXPECT_EQ(got.drafts, want.drafts);
  EXPECT_EQ(got.accepted, want.accepted);
  ASSERT_EQ(got.confidence_logits.size(), want.confidence_logits.size());
  for (size_t k = 0; k < want.confidence_logits.size(); ++k) {
    EXPECT_NEAR(got.confidence_logits[k], want.confidence_logits[k],
                1e-4 + 1e-4 * std::abs(want.confidence_logits[k]));
  }
}

TEST_P(TracesTest, GreedyTracesAreReproducedRoundByRound) {
  const drafter::DraftCase& c = GetParam();
  ThreadPool pool(2);
  auto draft_model = drafter::LoadCase(c, pool);
  if (draft_model == nullptr) return;  // a failure
  const std::string draft_algorithm = draft_model->info().algorithm;
  const auto checkpoint = formats::Checkpoint::Open(c.target);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  models::ModelOptions model_options;
  model_options.weight_type = kernels::WeightType::kF32;
  model_options.activation_type = kernels::ActivationType::kF32;
  model_options.kv_type = kernels::KvType::kF32;
  model_options.max_step_tokens = 128;
  const auto model = models::LoadModel(**checkpoint, model_options, pool);
  ASSERT_TRUE(model.ok()) << model.status();

  const auto traces = nlohmann::json::parse(tandem::testing::ReadFile(c.directory / "trace_greedy.json"));
  const auto list = traces.is_array() ? traces : nlohmann::json::array({traces});
  ASSERT_FALSE(list.empty());
  for (const auto& trace : list) {
    verifier::EngineOptions options;
    options.kv_bytes = int64_t{64} << 20;
    options.max_draft_tokens = draft_model->info().block_size;
    options.speculation.num_drafters = 1;
    options.speculation.policy = {.kind = verifier::PolicyKind::kFixed,
                                  .fixed_window = options.max_draft_tokens};
    options.speculation.row_type = speculation::RowType::kF32;
    const auto engine = verifier::Engine::Create(options, **model, pool, Clock::Real());
    ASSERT_TRUE(engine.ok()) << engine.status();
    const auto draft_engine = drafter::DraftEngine::Create({}, *draft_model);
    ASSERT_TRUE(draft_engine.ok()) << draft_engine.status();

    const std::vector<Round> want = RoundsOf(trace);
    std::vector<Round> got;
    PairLink link(**draft_engine, 0);
    link.on_batch = [&](const speculation::DraftBatch& batch) {
      for (const speculation::SequenceDraft& draft : batch.drafts) {
        got.push_back({draft.length - 1, draft.anchor, draft.tokens, draft.confidence_logits, 0});
      }
    };
    ASSERT_TRUE((*engine)->OpenDrafter(0, link.Open(options.speculation)).ok());

    verifier::Admission request;
    request.tokens = trace.at("prompt_ids").get<std::vector<int32_t>>();
    request.prompt_length = static_cast<int32_t>(request.tokens.size());
    // Room behind the recorded end, where the reference trims what its last round gave beyond it.
    const auto expected = trace.at("output_ids").get<std::vector<int32_t>>();
    const int32_t room = (*engine)->max_model_len() - request.prompt_length;
    request.max_tokens =
        std::min<int32_t>(trace.at("max_new_tokens").get<int32_t>() + 2 * options.max_draft_tokens, room);
    request.stop_token_ids = trace.at("stop_token_ids").get<std::vector<int32_t>>();
    request.sampling.temperature = 0;
    FakeGateway gateway(**engine, 1);
    const uint64_t id = gateway.Submit(request);
    int64_t accepted = 0;
    testing::RunPair(**engine, Clock::Real(), {&gateway}, {&link}, [&] {
      const int64_t now = (*engine)->stats().accepted;
      if ((*engine)->last_step().draft_tokens > 0) got.back().accepted = static_cast<int>(now - accepted);
      accepted = now;
    });
    if ((*engine)->last_step().draft_tokens > 0) {
      got.back().accepted = static_cast<int>((*engine)->stats().accepted - accepted);
    }

    std::vector<int32_t> output = gateway.outcome(id).output;
    ASSERT_GE(output.size(), expected.size());
    output.resize(expected.size());
    EXPECT_EQ(output, expected);
    ASSERT_GE(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      if (draft_algorithm == "eagle3") EndDraftsAtStop(request.stop_token_ids, got[i]);
      ExpectSameRound(got[i], want[i], i);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, TracesTest, ::testing::ValuesIn(drafter::DraftCases()),
                         [](const auto& info) { return info.param.name; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TracesTest);

TEST(TracesTest, ThereAreCases) { EXPECT_FALSE(drafter::DraftCases().empty()); }

}  // namespace
}  // namespace tandem
