// The golden models in f32 on a CUDA device, which may be the emulated one, with deterministic products.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "common/kernels/cuda/device.h"
#include "common/models/cuda/device_decoder.h"
#include "common/models/golden_case.h"
#include "common/models/golden_compare.h"
#include "common/models/model_driver.h"

namespace tandem::models::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

ModelOptions Exact() {
  ModelOptions options;
  options.weight_type = kernels::WeightType::kF32;
  options.activation_type = kernels::ActivationType::kF32;
  options.kv_type = kernels::KvType::kF32;
  options.max_step_tokens = options.max_logits_rows = 48;
  options.cuda_device = 0;
  options.deterministic = true;
  return options;
}

bool Runs(const formats::ModelConfig& config) { return config.family != formats::ModelFamily::kGemma4; }

class DeviceGolden : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    const auto device = Device::Open(0);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    checkpoint_ = OpenCase(GetParam());
    ASSERT_NE(checkpoint_, nullptr);
    expected_.emplace(GetParam().expected);
  }

  std::unique_ptr<Model> Load(ModelOptions options) {
    options.max_positions = static_cast<int>(std::min<int64_t>(checkpoint_->config().max_position, 512));
    auto model = LoadDeviceModel(*checkpoint_, options, pool_);
    if (!model.ok()) {
      ADD_FAILURE() << model.status();
      return nullptr;
    }
    return *std::move(model);
  }

  ThreadPool pool_{1};
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::optional<ExpectedTensors> expected_;
};

TEST_P(DeviceGolden, LogitsAndTapsMatchInChunksOrTheFamilyIsRefused) {
  if (!Runs(checkpoint_->config())) {
    ModelOptions options = Exact();
    options.max_positions = 64;
    const absl::Status status = LoadDeviceModel(*checkpoint_, options, pool_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("Gemma 4"));
    return;
  }
  const std::unique_ptr<Model> model = Load(Exact());
  ASSERT_NE(model, nullptr);
  ModelDriver driver(*model, 32);
  int prompt = 0;
  for (; expected_->Has(fmt::format("input_ids.{}", prompt)); ++prompt) {
    const std::string suffix = fmt::format(".{}", prompt);
    const std::vector<int32_t> ids = expected_->Ints("input_ids" + suffix);
    const std::vector<int32_t> taps = TapsOf(*expected_, prompt);
    for (const int chunk : {48, 5}) {
      ModelDriver::Sequence sequence;
      const ModelDriver::Result result = driver.Run(sequence, ids, chunk, /*with_logits=*/true, taps);
      driver.Release(sequence);
      std::vector<float> logits;
      for (const auto& row : result.logits) logits.insert(logits.end(), row.begin(), row.end());
      ExpectClose(logits, expected_->Floats("logits" + suffix), LogitTolerance,
                  fmt::format("logits{} in chunks of {}", suffix, chunk));
      for (size_t i = 0; i < taps.size(); ++i) {
        const std::string name = fmt::format("hidden_{}{}", taps[i], suffix);
        const std::vector<float> hidden = expected_->Floats(name);
        float largest = 0;
        for (const float h : hidden) largest = std::max(largest, std::abs(h));
        ExpectClose(
            result.taps[i], hidden, [&](float) { return kHiddenTolerance * largest; },
            fmt::format("{} in chunks of {}", name, chunk));
      }
    }
  }
  EXPECT_GT(prompt, 0) << "no prompt in " << GetParam().expected;
}

// In bf16 with bf16 KV, too: what the chunks and the others of a step are does not change a bit.
TEST_P(DeviceGolden, DeterministicBitsDoNotDependOnTheBatch) {
  if (!Runs(checkpoint_->config())) return;
  ModelOptions options = Exact();
  options.weight_type = kernels::WeightType::kBF16;
  options.activation_type = kernels::ActivationType::kBF16;
  options.kv_type = kernels::KvType::kBF16;
  const std::unique_ptr<Model> model = Load(options);
  ASSERT_NE(model, nullptr);
  ModelDriver driver(*model, 32);
  std::vector<int32_t> ids = expected_->Ints("input_ids.0");
  ids.resize(std::min<size_t>(ids.size(), 20));
  ModelDriver::Sequence whole, single, other;
  const auto expected = driver.Run(whole, ids, 48).logits;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto results = driver.Step({{&other, {ids[0], ids[i]}, {}}, {&single, {ids[i]}, {0}}});
    EXPECT_EQ(results[1].logits[0], expected[i]) << "row " << i;
  }
}

std::string NameOf(const ::testing::TestParamInfo<GoldenCase>& info) {
  std::string name = info.param.name;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(Cases, DeviceGolden, ::testing::ValuesIn(AllCases()), NameOf);

TEST(DeviceGoldenCases, Exist) {
  EXPECT_FALSE(AllCases().empty()) << "no model in " << tandem::testing::GoldenDir();
}

}  // namespace
}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::models::cuda
