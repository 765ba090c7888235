// golden/sampling/distributions.json and distributions.safetensors.
#include <algorithm>
#include <cstring>
#include <limits>

#include "common/formats/safetensors.h"
#include "common/sampling/filters.h"
#include "common/sampling/golden_file.h"
#include "common/sampling/processed_row.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

using nlohmann::json;

std::vector<float> Floats(const formats::TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  EXPECT_EQ(tensor.data.size(), values.size() * sizeof(float)) << tensor.name;
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

// A case's `params`, as the sampler takes them.
struct Case {
  SamplingParams params;
  TokenCounts history;
  std::vector<int32_t> masked;

  Case(const json& fields, size_t vocab_size) {
    for (const auto& [name, value] : fields.items()) {
      if (name == "temperature") {
        params.temperature = value.get<float>();
      } else if (name == "top_k") {
        params.top_k = value.get<int32_t>();
      } else if (name == "top_p") {
        params.top_p = value.get<float>();
      } else if (name == "min_p") {
        params.min_p = value.get<float>();
      } else if (name == "repetition_penalty") {
        params.repetition_penalty = value.get<float>();
      } else if (name == "frequency_penalty") {
        params.frequency_penalty = value.get<float>();
      } else if (name == "presence_penalty") {
        params.presence_penalty = value.get<float>();
      } else if (name == "logit_bias") {
        for (const auto& [id, bias] : value.items())
          params.logit_bias.emplace_back(std::stoi(id), bias.get<float>());
      } else if (name == "prompt_counts") {
        ForEachCount(value, [&](int32_t id) { history.AddPrompt(id); });
      } else if (name == "output_counts") {
        ForEachCount(value, [&](int32_t id) { history.AddOutput(id); });
      } else if (name == "allowed") {
        std::vector<bool> allowed(vocab_size);
        for (const json& id : value) allowed.at(id.get<size_t>()) = true;
        for (size_t v = 0; v < vocab_size; ++v) {
          if (!allowed[v]) masked.push_back(static_cast<int32_t>(v));
        }
      } else {
        ADD_FAILURE() << "unknown parameter " << name;
      }
    }
  }

 private:
  template <typename Add>
  static void ForEachCount(const json& counts, const Add& add) {
    for (const auto& [id, value] : counts.items()) {
      const int count = value;
      for (int i = 0; i < count; ++i) add(std::stoi(id));
    }
  }
};

TEST(DistributionsGolden, ProbabilitiesSurvivorsAndChoicesEqualTheReference) {
  const json golden = ReadGolden("distributions.json");
  const auto file =
      formats::SafetensorsFile::Open((testing::GoldenDir() / "sampling/distributions.safetensors").string());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_FALSE(golden.empty());
  for (const json& c : golden) {
    const auto name = c["name"].get<std::string>();
    const std::string number = std::to_string(c["i"].get<int>());
    const std::vector<float> logits = Floats((*file)->tensors().at("logits." + number));
    const std::vector<float> expected = Floats((*file)->tensors().at("probs." + number));
    const Case inputs(c["params"], logits.size());
    Position position = {&inputs.params, &inputs.history, inputs.masked, 0};

    const auto probs = ProcessedDistribution(logits, position);
    ASSERT_TRUE(probs.ok()) << name << ": " << probs.status();
    ASSERT_EQ(probs->size(), expected.size()) << name;
    for (size_t v = 0; v < expected.size(); ++v) {
      EXPECT_NEAR((*probs)[v], expected[v], 1e-6 + 1e-5 * static_cast<double>(expected[v]))
          << name << ", token " << v;
      EXPECT_EQ((*probs)[v] > 0, expected[v] > 0) << name << ", token " << v;
    }

    Scratch scratch;
    ASSERT_FALSE(c["choices"].empty()) << name;
    for (const json& choice : c["choices"]) {
      SamplingParams params = inputs.params;
      params.seed = Hex(choice["seed"]);
      position.params = &params;
      position.index = Hex(choice["index"]);
      const auto token = SampleCoupled(logits, position, scratch);
      ASSERT_TRUE(token.ok()) << name << ": " << token.status();
      EXPECT_EQ(*token, choice["token"].get<int32_t>()) << name;
      EXPECT_EQ(ArgmaxWithNoise(*probs, params.seed, position.index, 0), *token) << name;
    }
  }
}

// `kept` also counts survivors whose probability underflows; the sampler's own filters must keep as many.
TEST(DistributionsGolden, FiltersKeepAsManyAsTheReference) {
  const json golden = ReadGolden("distributions.json");
  const auto file =
      formats::SafetensorsFile::Open((testing::GoldenDir() / "sampling/distributions.safetensors").string());
  ASSERT_TRUE(file.ok()) << file.status();
  int num_filtered = 0;
  for (const json& c : golden) {
    const std::vector<float> logits =
        Floats((*file)->tensors().at("logits." + std::to_string(c["i"].get<int>())));
    const Case inputs(c["params"], logits.size());
    if (inputs.params.greedy() || !HasFilters(inputs.params, logits.size())) continue;
    std::vector<float> buffer, weights;
    std::vector<Candidate> survivors;
    const auto row = ProcessRow(logits, {&inputs.params, &inputs.history, inputs.masked, 0}, buffer);
    ASSERT_TRUE(row.ok()) << row.status();
    FilterRow(*row, inputs.params, weights, survivors);
    const auto possible = [](const Candidate& s) {
      return s.first > -std::numeric_limits<float>::infinity();
    };
    EXPECT_EQ(std::count_if(survivors.begin(), survivors.end(), possible), c["kept"].get<int>()) << c["name"];
    ++num_filtered;
  }
  EXPECT_GT(num_filtered, 0);
}

}  // namespace
}  // namespace tandem::sampling
