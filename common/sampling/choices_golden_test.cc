// golden/sampling/coupling.json and rejection.json.
#include "common/sampling/golden_file.h"
#include "common/sampling/philox.h"
#include "common/sampling/rejection.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

using nlohmann::json;

std::vector<float> Flatten(const json& rows) {
  std::vector<float> flat;
  for (const json& row : rows) {
    for (const json& value : row) flat.push_back(value.get<float>());
  }
  return flat;
}

void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t v = 0; v < actual.size(); ++v)
    EXPECT_NEAR(actual[v], expected[v], 1e-6) << what << ", token " << v;
}

TEST(CouplingGolden, PairsChooseTheSameTokens) {
  const json golden = ReadGolden("coupling.json");
  ASSERT_FALSE(golden["pairs"].empty());
  for (const json& c : golden["pairs"]) {
    const uint64_t seed = Hex(c["seed"]);
    const auto index = c["index"].get<uint64_t>();
    const int32_t target = ArgmaxWithNoise(c["p"].get<std::vector<float>>(), seed, index, 0);
    const int32_t draft = ArgmaxWithNoise(c["q"].get<std::vector<float>>(), seed, index, 0);
    EXPECT_EQ(target, c["target"]) << c["seed"];
    EXPECT_EQ(draft, c["draft"]) << c["seed"];
    EXPECT_EQ(target == draft, c["accepted"]) << c["seed"];
  }
}

TEST(CouplingGolden, CountsFollowTheLaw) {
  const json law = ReadGolden("coupling.json")["law"];
  const auto p = law["p"].get<std::vector<float>>(), q = law["q"].get<std::vector<float>>();
  std::vector<int> target_counts(p.size()), draft_counts(q.size());
  int equal = 0;
  const auto num_indices = law["indices"].get<uint64_t>();
  for (uint64_t i = 0; i < num_indices; ++i) {
    const int32_t target = ArgmaxWithNoise(p, Hex(law["seed"]), i, 0);
    const int32_t draft = ArgmaxWithNoise(q, Hex(law["seed"]), i, 0);
    ++target_counts[static_cast<size_t>(target)];
    ++draft_counts[static_cast<size_t>(draft)];
    equal += target == draft;
  }
  for (size_t v = 0; v < p.size(); ++v) {
    EXPECT_NEAR(target_counts[v], law["target_counts"][v].get<int>(), 3) << v;
    EXPECT_NEAR(draft_counts[v], law["draft_counts"][v].get<int>(), 3) << v;
  }
  EXPECT_NEAR(equal, law["equal"].get<int>(), 3);
  EXPECT_GE(equal, law["bound_equal_share"].get<double>() * static_cast<double>(num_indices));
}

TEST(RejectionGolden, ResidualsEqualTheReference) {
  const json golden = ReadGolden("rejection.json");
  ASSERT_FALSE(golden["single"].empty());
  for (const json& c : golden["single"]) {
    ExpectNear(ResidualDistribution(c["p"].get<std::vector<float>>(), c["q"].get<std::vector<float>>()),
               c["residual"].get<std::vector<float>>(), c["name"].get<std::string>());
  }
}

TEST(RejectionGolden, AcceptanceRuleDecidesAsTheReference) {
  const json golden = ReadGolden("rejection.json");
  ASSERT_FALSE(golden["single"].empty());
  for (const json& c : golden["single"]) {
    const auto draft = c["draft"].get<size_t>();
    EXPECT_EQ(AcceptsDraft(c["u"].get<float>(), c["p"][draft].get<float>(), c["q"][draft].get<float>()),
              c["accepted"].get<bool>())
        << c["name"];
  }
}

TEST(RejectionGolden, WindowsAreVerifiedAsTheReference) {
  const json golden = ReadGolden("rejection.json");
  ASSERT_FALSE(golden["windows"].empty());
  for (const json& c : golden["windows"]) {
    const uint64_t seed = Hex(c["seed"]);
    const auto start = c["start"].get<uint64_t>();
    for (size_t k = 0; k < c["u"].size(); ++k) {
      EXPECT_EQ(Uniform(seed, start + k + 1, 1, 0), c["u"][k].get<float>());
    }
    const auto vocab_size = static_cast<int>(c["p"][0].size());
    const RejectionResult result = VerifyByRejection(
        c["drafts"].get<std::vector<int32_t>>(), Flatten(c["p"]),
        c["drafts"].empty() ? std::vector<float>{} : Flatten(c["q"]), vocab_size, seed, start, 0);
    EXPECT_EQ(result.accepted, c["accepted"]) << c["seed"];
    EXPECT_EQ(result.next_token, c["next_token"]) << c["seed"];
  }
}

}  // namespace
}  // namespace tandem::sampling
