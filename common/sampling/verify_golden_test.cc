// golden/drafters/tables/verify: one verification round each on given logits and recorded uniforms.
#include <algorithm>
#include <cstring>

#include "common/formats/safetensors.h"
#include "common/sampling/golden_file.h"
#include "common/sampling/rejection.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

using nlohmann::json;
using Rows = std::vector<std::vector<float>>;

Rows ReadRows(const formats::SafetensorsFile& file, const std::string& name, size_t width) {
  const auto tensor = file.tensors().find(name);
  EXPECT_NE(tensor, file.tensors().end()) << name;
  if (tensor == file.tensors().end()) return {};
  EXPECT_EQ(tensor->second.dtype, formats::DType::kF32) << name;
  Rows rows(tensor->second.data.size() / sizeof(float) / width, std::vector<float>(width));
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(rows[i].data(), tensor->second.data.data() + i * width * sizeof(float),
                width * sizeof(float));
  }
  return rows;
}

// The first index whose cumulative probability exceeds u.
int32_t DrawByCumulation(std::span<const float> law, double u) {
  double total = 0, sum = 0;
  for (const float p : law) total += p;
  for (size_t v = 0; v < law.size(); ++v) {
    sum += law[v] / total;
    if (sum > u) return static_cast<int32_t>(v);
  }
  return static_cast<int32_t>(law.size()) - 1;
}

class VerifyGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto tables = testing::GoldenDir() / "drafters/tables";
    file_ = json::parse(testing::ReadFile(tables / "verify.json"), nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(file_.is_discarded());
    ASSERT_FALSE(file_.at("cases").empty());
    auto tensors = formats::SafetensorsFile::Open(tables / "verify.safetensors");
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    tensors_ = *std::move(tensors);
    vocabulary_ = file_.at("vocabulary");
  }
  Rows Tensor(size_t i, const std::string& name) const {
    return ReadRows(*tensors_, std::to_string(i) + "." + name, vocabulary_);
  }

  json file_;
  std::unique_ptr<formats::SafetensorsFile> tensors_;
  size_t vocabulary_ = 0;
};

TEST_F(VerifyGolden, DistributionsAreProcessedAsTheReferenceDoes) {
  for (size_t i = 0; i < file_["cases"].size(); ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    SamplingParams params;
    params.temperature = file_["cases"][i].at("temperature");
    for (const auto& [logits_name, law_name] : {std::pair("target_logits", "p"), {"draft_logits", "q"}}) {
      const Rows logits = Tensor(i, logits_name), laws = Tensor(i, law_name);
      ASSERT_EQ(logits.size(), laws.size());
      for (size_t row = 0; row < logits.size(); ++row) {
        const auto law = ProcessedDistribution(logits[row], Position{&params, nullptr, {}, 0});
        ASSERT_TRUE(law.ok()) << law.status();
        for (size_t v = 0; v < vocabulary_; ++v)
          EXPECT_NEAR((*law)[v], laws[row][v], 1e-6) << row << " " << v;
      }
    }
  }
}

TEST_F(VerifyGolden, RoundsEndAsTheReferences) {
  const std::vector<int32_t> stops = file_.at("stop_token_ids");
  int num_residual = 0, num_bonus = 0, num_stopped = 0;
  for (size_t i = 0; i < file_["cases"].size(); ++i) {
    const json& expected = file_["cases"][i];
    SCOPED_TRACE("case " + std::to_string(i));
    const Rows p = Tensor(i, "p"), q = Tensor(i, "q");
    const std::vector<int32_t> drafts = expected.at("drafts");
    const std::vector<float> uniforms = expected.at("uniforms");
    ASSERT_EQ(drafts.size(), expected.at("window").get<size_t>());
    ASSERT_EQ(p.size(), drafts.size() + 1);
    ASSERT_EQ(uniforms.size(), drafts.size() + 1);

    size_t accepted = 0;
    while (accepted < drafts.size() &&
           AcceptsDraft(uniforms[accepted], p[accepted][drafts[accepted]], q[accepted][drafts[accepted]])) {
      ++accepted;
    }
    const bool all = accepted == drafts.size();
    const std::vector<float> law = all ? p[accepted] : ResidualDistribution(p[accepted], q[accepted]);
    const auto stop =
        std::find_if(drafts.begin(), drafts.begin() + static_cast<ptrdiff_t>(accepted),
                     [&](int32_t token) { return std::ranges::find(stops, token) != stops.end(); });
    const bool stopped = stop != drafts.begin() + static_cast<ptrdiff_t>(accepted);
    if (stopped) accepted = static_cast<size_t>(stop - drafts.begin()) + 1;
    EXPECT_EQ(accepted, expected.at("accepted").get<size_t>());
    EXPECT_EQ(stopped, expected.at("ended_by_stop_token").get<bool>());
    num_stopped += stopped;
    if (stopped) continue;
    EXPECT_EQ(DrawByCumulation(law, uniforms.back()), expected.at("next_token").get<int32_t>());
    EXPECT_EQ(all ? "bonus" : "residual", expected.at("next_kind").get<std::string>());
    ++(all ? num_bonus : num_residual);
  }
  EXPECT_GT(num_residual, 0);
  EXPECT_GT(num_bonus, 0);
  EXPECT_GT(num_stopped, 0);
}

}  // namespace
}  // namespace tandem::sampling
