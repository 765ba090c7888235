#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/formats/model_tensors.h"
#include "common/formats/test_files.h"
#include "common/models/cuda_devices.h"
#include "common/models/model.h"
#include "common/models/model_driver.h"

namespace tandem::models {
namespace {

using ::testing::HasSubstr;

// A model on disk with all weights equal, in a shape that tests choose.
class LoadModelTest : public ::testing::Test {
 protected:
  static nlohmann::json Config() {
    return {{"model_type", "llama"},      {"vocab_size", 24},
            {"hidden_size", 32},          {"intermediate_size", 64},
            {"num_hidden_layers", 2},     {"num_attention_heads", 2},
            {"num_key_value_heads", 1},   {"head_dim", 16},
            {"rms_norm_eps", 1e-6},       {"max_position_embeddings", 64},
            {"tie_word_embeddings", true}};
  }

  // Every byte of the weights is `fill`: 0x3c makes 0.0115, 0xff NaN.
  std::unique_ptr<formats::Checkpoint> Write(const nlohmann::json& config, char fill = 0x3c) {
    const auto parsed = formats::ParseHuggingFaceConfig(config.dump(), "", "config.json");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    std::vector<formats::TestTensor> tensors;
    for (const formats::TensorSpec& spec : formats::ModelTensors(*parsed)) {
      tensors.push_back({spec.name, spec.shape});
    }
    directory_.Write("config.json", config.dump());
    directory_.Write("model.safetensors", formats::SafetensorsText(tensors, fill));
    auto checkpoint = formats::Checkpoint::Open(directory_.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return *std::move(checkpoint);
  }

  absl::Status StatusWith(const ModelOptions& options) {
    return LoadModel(*Write(Config()), options, pool_).status();
  }

  formats::TestDirectory directory_;
  ThreadPool pool_{2};
};

TEST_F(LoadModelTest, ResolvesOptionsToWhatTheModelCanUse) {
  const auto model = LoadModel(*Write(Config()), {.max_step_tokens = 8, .max_logits_rows = 100}, pool_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->options().max_positions, 64);
  EXPECT_EQ((*model)->options().max_logits_rows, 8);
  EXPECT_EQ((*model)->options().max_taps, 3);
  EXPECT_EQ((*model)->kv_layout().layers.size(), 2u);
  EXPECT_EQ((*model)->kv_layout().type, kernels::KvType::kBF16);
}

TEST_F(LoadModelTest, RefusesOptionsOutOfRangeByName) {
  EXPECT_TRUE(StatusWith({}).ok());
  const auto expect_refusal = [&](const ModelOptions& options, const char* name) {
    const absl::Status status = StatusWith(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  };
  expect_refusal({.max_step_tokens = 0}, "max_step_tokens is 0");
  expect_refusal({.max_step_tokens = kMaxStepTokens + 1}, "max_step_tokens is 65537");
  expect_refusal({.max_logits_rows = 0}, "max_logits_rows");
  expect_refusal({.max_taps = -1}, "max_taps");
  expect_refusal({.max_positions = -1}, "max_positions");
  expect_refusal({.max_positions = 65}, "max_positions is 65, allowed are 0 to 64");
}

TEST_F(LoadModelTest, NamesWhatItsResultsDependOn) {
  const auto id_with = [&](const ModelOptions& options) {
    return (*LoadModel(*Write(Config()), options, pool_))->NumericsId();
  };
  EXPECT_EQ(id_with({}), "cpu-1/f32/int8/bf16");
  EXPECT_EQ(id_with({.weight_type = kernels::WeightType::kInt4, .kv_type = kernels::KvType::kF32}),
            "cpu-1/q4/int8/f32");
  EXPECT_EQ(
      id_with({.weight_type = kernels::WeightType::kBF16, .activation_type = kernels::ActivationType::kBF16}),
      "cpu-1/bf16/bf16/bf16");
}

TEST_F(LoadModelTest, RefusesADeviceThatIsNotThereAndSaysWhatIsMissing) {
  // There may be one, but not a thousand of them.
  const absl::Status status =
      StatusWith({.activation_type = kernels::ActivationType::kBF16, .cuda_device = 1000});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("no CUDA device"));
  if (const auto devices = CudaDevices(); !devices.ok()) {
    EXPECT_EQ(status, devices.status());
  }
}

TEST_F(LoadModelTest, CountsThePackedBytes) {
  // 24 rows of embedding are packed as 32, and k and v have 16; per layer 2 norms, at the end one.
  const int64_t f32 = 4 * (32 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32) + 5 * 32);
  EXPECT_EQ((*LoadModel(*Write(Config()), {}, pool_))->WeightBytes(), f32);
}

TEST_F(LoadModelTest, RefusesShapesThatTheKernelsCannotDo) {
  nlohmann::json config = Config();
  config["head_dim"] = 514;
  const absl::Status status = LoadModel(*Write(config), {}, pool_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("head_dim is 514, only up to 512"));

  config = Config();
  config["intermediate_size"] = 40;  // down_proj has 40 columns: no whole blocks of 32
  const absl::Status quantised =
      LoadModel(*Write(config), {.weight_type = kernels::WeightType::kInt8}, pool_).status();
  EXPECT_TRUE(absl::IsInvalidArgument(quantised));
  EXPECT_THAT(std::string(quantised.message()), HasSubstr("model.layers.0.mlp.down_proj.weight"));
  EXPECT_TRUE(LoadModel(*Write(config), {}, pool_).ok());
}

TEST_F(LoadModelTest, RefusesWeightsThatAreNotFinite) {
  const absl::Status status = LoadModel(*Write(Config(), '\xff'), {}, pool_).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.embed_tokens.weight"));
}

TEST_F(LoadModelTest, ProfilesTheStagesOfItsStepsOnceAsked) {
  const auto model =
      *LoadModel(*Write(Config()), {.kv_type = kernels::KvType::kF32, .max_step_tokens = 4}, pool_);
  const auto step = [&] {
    ModelDriver driver(*model, 4);
    ModelDriver::Sequence sequence;
    driver.Step({{&sequence, {1, 2, 3}, {2}}});
  };
  step();
  EXPECT_EQ(model->profile().totals(Stage::kHead).work.operations, 0);
  EXPECT_EQ(model->profile().totals(Stage::kSmall).nanoseconds, 0);

  model->profile().Enable();
  step();
  const auto operations = [&](Stage stage) { return model->profile().totals(stage).work.operations; };
  const int64_t layers = 2, tokens = 3, product = 2 * layers * tokens;
  EXPECT_EQ(operations(Stage::kQkv), product * 32 * (32 + 16 + 16));
  EXPECT_EQ(operations(Stage::kAttentionOutput), product * 32 * 32);
  EXPECT_EQ(operations(Stage::kGateUp), product * 32 * 2 * 64);
  EXPECT_EQ(operations(Stage::kDown), product * 32 * 64);
  EXPECT_EQ(operations(Stage::kHead), 2 * 32 * 24);  // of one row
  EXPECT_EQ(operations(Stage::kAttention), layers * 4 * 32 * (1 + 2 + 3));
  EXPECT_EQ(model->profile().totals(Stage::kAttention).work.bytes, layers * tokens * 2 * 16 * 4);
  EXPECT_GE(model->profile().totals(Stage::kGateUp).work.bytes, layers * 2 * 64 * 32 * 4);
  EXPECT_GT(model->profile().totals(Stage::kSmall).nanoseconds, 0);
}

using ForwardDeathTest = LoadModelTest;

TEST_F(ForwardDeathTest, EndsTheProcessOnABatchAgainstTheRules) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto model = *LoadModel(*Write(Config()), {.max_step_tokens = 4, .max_positions = 20}, pool_);
  const auto step = [&](std::vector<int32_t> tokens, int32_t position, std::vector<int32_t> logits_at,
                        std::vector<int32_t> taps = {}) {
    ModelDriver driver(*model, 4);
    ModelDriver::Sequence sequence = {.position = position};
    driver.Step({{&sequence, std::move(tokens), std::move(logits_at)}}, taps);
  };
  step({1, 2, 3, 23}, 0, {0, 3}, {-1, 0, 1});
  EXPECT_DEATH(step({}, 0, {}), "check failed");
  EXPECT_DEATH(step({1, 2, 3, 4, 5}, 0, {}), "check failed");
  EXPECT_DEATH(step({24}, 0, {}), "check failed");
  EXPECT_DEATH(step({-1}, 0, {}), "check failed");
  EXPECT_DEATH(step({1, 2}, 19, {}), "check failed");
  EXPECT_DEATH(step({1, 2}, 0, {2}), "check failed");
  EXPECT_DEATH(step({1, 2}, 0, {1, 0}), "check failed");
  EXPECT_DEATH(step({1, 2}, 0, {}, {2}), "check failed");
  EXPECT_DEATH(step({1, 2}, 0, {}, {0, -1}), "check failed");
}

}  // namespace
}  // namespace tandem::models
