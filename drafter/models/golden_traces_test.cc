// Whole decodes of each golden case: target and drafter in process, everything in f32, round by round against
// the recorded ones.
#include <gtest/gtest.h>

#include "common/models/model_driver.h"
#include "drafter/models/draft_driver.h"
#include "drafter/models/golden_drafts.h"

namespace tandem::drafter {
namespace {

using nlohmann::json;

// Confidence logits after features of our own, not the stored ones: twice the forward tolerance.
constexpr float kConfidenceAbsolute = 5e-4f, kConfidenceRelative = 2e-4f;
constexpr float kProbability = 1e-4f;

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// The recorded uniforms, in the order of use.
class Uniforms {
 public:
  explicit Uniforms(std::vector<double> values) : values_(std::move(values)) {}
  double Next() { return values_.empty() ? 0.5 : values_.at(at_++); }
  std::vector<double> Rest() const { return {values_.begin() + at_, values_.end()}; }
  void Skip(size_t n) { at_ += n; }
  bool AllUsed() const { return values_.empty() || at_ == values_.size(); }

 private:
  std::vector<double> values_;
  size_t at_ = 0;
};

class Decode {
 public:
  Decode(models::Model& target, DraftModel& drafter, const json& trace, ThreadPool& pool)
      : trace_(trace),
        info_(drafter.info()),
        temperature_(trace.at("temperature")),
        stops_(trace.at("stop_token_ids").get<std::vector<int32_t>>()),
        target_driver_(target, 64),
        draft_driver_(drafter, 64),
        uniforms_(trace.value("uniforms", std::vector<double>())),
        pool_(pool) {}

  void Run() {
    const std::vector<int32_t> prompt = trace_.at("prompt_ids");
    const auto last = static_cast<int32_t>(prompt.size()) - 1;
    const auto prefill = target_driver_.Step({{&target_, prompt, {last}}}, info_.projection.taps)[0];
    const int32_t anchor = Choose(Softmax(prefill.logits[0], temperature_), uniforms_.Next());
    ASSERT_EQ(anchor, trace_.at("first_token").get<int32_t>());
    confirmed_ = prompt;
    confirmed_.push_back(anchor);
    Feed(prefill.taps, static_cast<int32_t>(prompt.size()));
    for (const json& round : trace_.at("rounds")) {
      SCOPED_TRACE("start " + std::to_string(round.at("start").get<int>()));
      Round(round);
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_TRUE(uniforms_.AllUsed());
    const std::vector<int32_t> output = trace_.at("output_ids");
    ASSERT_GE(confirmed_.size(), prompt.size() + output.size());
    EXPECT_TRUE(std::equal(output.begin(), output.end(), confirmed_.begin() + prompt.size()));
  }

 private:
  // The first `rows` of the taps belong to the positions before the last `rows` + 1 of confirmed_.
  void Feed(const std::vector<std::vector<float>>& taps, int32_t rows) {
    const size_t hidden = info_.hidden_size;
    std::vector<float> features;
    for (int32_t t = 0; t < rows; ++t) {
      for (const auto& tap : taps) {
        features.insert(features.end(), tap.begin() + t * hidden, tap.begin() + (t + 1) * hidden);
      }
    }
    draft_driver_.Append(draft_, Project(info_, features, pool_), std::span(confirmed_).last(rows + 1));
  }

  void Round(const json& round) {
    const auto start = static_cast<int32_t>(confirmed_.size()) - 1;
    ASSERT_EQ(start, round.at("start").get<int32_t>());
    ASSERT_EQ(confirmed_.back(), round.at("anchor").get<int32_t>());

    const bool ends_at_stop = info_.algorithm == "eagle3";
    const RecordedDrawer drawer(temperature_, uniforms_.Rest(),
                                ends_at_stop ? stops_ : std::vector<int32_t>());
    const DraftedBlock block = draft_driver_.DraftWith(drawer, draft_);
    uniforms_.Skip(drawer.used());
    if (round.contains("all_confidence_logits")) {
      EXPECT_TRUE(AllNear(block.confidence_logits,
                          round.at("all_confidence_logits").get<std::vector<float>>(), kConfidenceAbsolute,
                          kConfidenceRelative));
    }
    std::vector<int32_t> drafts = drawer.drawn();
    drafts.resize(Window(block, drafts.size()));
    ASSERT_EQ(drafts, round.at("drafts").get<std::vector<int32_t>>());
    Verify(round, drafts, drawer.laws());
  }

  // How many drafts are kept: those before the first step with too little confidence.
  size_t Window(const DraftedBlock& block, size_t drawn) const {
    const double threshold = trace_.at("confidence_threshold");
    if (threshold <= 0) return drawn;
    for (size_t k = 0; k < drawn; ++k) {
      if (1 / (1 + std::exp(-double{block.confidence_logits[k]})) < threshold) return k;
    }
    return drawn;
  }

  void Verify(const json& round, const std::vector<int32_t>& drafts,
              const std::vector<std::vector<double>>& q) {
    std::vector<int32_t> tokens = {confirmed_.back()};
    tokens.insert(tokens.end(), drafts.begin(), drafts.end());
    std::vector<int32_t> all(tokens.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    const int32_t start = target_.position;
    const auto result = target_driver_.Step({{&target_, tokens, all}}, info_.projection.taps)[0];
    std::vector<std::vector<double>> p;
    for (const auto& row : result.logits) p.push_back(Softmax(row, temperature_));
    CheckProbabilities(round, drafts, p, q);

    size_t accepted = 0;
    bool standing = true;
    for (size_t i = 0; i < drafts.size(); ++i) {
      const double u = uniforms_.Next();
      standing = standing && u < std::min(1.0, p[i][drafts[i]] / std::max(q[i][drafts[i]], 1e-8));
      accepted += standing;
    }
    std::vector<double> law = p[accepted];
    if (accepted < drafts.size()) {
      double mass = 0;
      for (size_t v = 0; v < law.size(); ++v) mass += law[v] = std::max(law[v] - q[accepted][v], 0.0);
      if (mass <= 1e-8) law = p[accepted];
    }
    int32_t next = Choose(law, uniforms_.Next());
    const auto stop = std::find_if(drafts.begin(), drafts.begin() + accepted,
                                   [&](int32_t token) { return Contains(stops_, token); });
    const bool stopped = stop != drafts.begin() + static_cast<ptrdiff_t>(accepted);
    if (stopped) accepted = stop - drafts.begin() + 1;
    EXPECT_EQ(accepted, round.at("accepted").get<size_t>());
    EXPECT_EQ(stopped, round.at("ended_by_stop_token").get<bool>());
    confirmed_.insert(confirmed_.end(), drafts.begin(), drafts.begin() + accepted);
    if (stopped) return;
    ASSERT_EQ(next, round.at("next_token").get<int32_t>());
    confirmed_.push_back(next);
    target_.position = start + static_cast<int32_t>(accepted) + 1;
    Feed(result.taps, static_cast<int32_t>(accepted) + 1);
  }

  static void CheckProbabilities(const json& round, const std::vector<int32_t>& drafts,
                                 const std::vector<std::vector<double>>& p,
                                 const std::vector<std::vector<double>>& q) {
    const auto compare = [&](const char* field, const std::vector<std::vector<double>>& laws) {
      if (!round.contains(field)) return;
      std::vector<float> values;
      for (size_t i = 0; i < drafts.size(); ++i) values.push_back(static_cast<float>(laws[i][drafts[i]]));
      EXPECT_TRUE(AllNear(values, round.at(field).get<std::vector<float>>(), kProbability, kProbability))
          << field;
    };
    compare("target_probs_of_drafts", p);
    compare("draft_probs_of_drafts", q);
  }

  const json& trace_;
  const DraftModelInfo& info_;
  const double temperature_;
  const std::vector<int32_t> stops_;
  models::ModelDriver target_driver_;
  DraftDriver draft_driver_;
  models::ModelDriver::Sequence target_;
  DraftDriver::Sequence draft_;
  Uniforms uniforms_;
  std::vector<int32_t> confirmed_;
  ThreadPool& pool_;
};

class GoldenTraces : public ::testing::TestWithParam<DraftCase> {};

TEST_P(GoldenTraces, AreReproducedRoundByRound) {
  ThreadPool pool(2);
  const auto drafter = LoadCase(GetParam(), pool);
  if (drafter == nullptr) return;
  const auto checkpoint = formats::Checkpoint::Open(GetParam().target);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto target = models::LoadModel(**checkpoint,
                                  {.activation_type = kernels::ActivationType::kF32,
                                   .kv_type = kernels::KvType::kF32,
                                   .max_step_tokens = 256},
                                  pool);
  ASSERT_TRUE(target.ok()) << target.status();
  int traces = 0;
  for (const auto& entry : std::filesystem::directory_iterator(GetParam().directory)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("trace_")) continue;
    SCOPED_TRACE(name);
    json list = json::parse(testing::ReadFile(entry.path()));
    if (!list.is_array()) list = json::array({list});
    for (const json& trace : list) {
      Decode(**target, *drafter, trace, pool).Run();
      ++traces;
    }
  }
  EXPECT_GT(traces, 0);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTraces, ::testing::ValuesIn(DraftCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::drafter
