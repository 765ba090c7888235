#include "verifier/verifier_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "common/base/model_store.h"

namespace tandem::verifier {
namespace {

using ::testing::HasSubstr;

std::optional<int> Parse(std::vector<const char*> args, VerifierOptions* options, std::string* error) {
  args.insert(args.begin(), "tandem-verifier");
  OptionParser parser("tandem-verifier", "", [](const char*) { return nullptr; });
  AddVerifierOptions(parser, options);
  std::stringstream out, err;
  const auto code = parser.Parse(static_cast<int>(args.size()), args.data(), out, err);
  *error = err.str() + out.str();
  return code;
}

TEST(VerifierOptions, ReachModelAndEngine) {
  VerifierOptions options;
  std::string error;
  ASSERT_EQ(Parse({"--model",         "m",   "--dtype",           "q4",   "--activations",  "f32",
                   "--kv-dtype",      "f32", "--kv-bytes",        "1MiB", "--prefix-cache", "off",
                   "--prefill-chunk", "16",  "--max-step-tokens", "48",   "--max-num-seqs", "8",
                   "--max-model-len", "100", "--threads",         "2"},
                  &options, &error),
            std::nullopt)
      << error;
  EXPECT_TRUE(CheckVerifierOptions(options).ok());
  const models::ModelOptions model = ToModelOptions(options);
  EXPECT_EQ(model.weight_type, kernels::WeightType::kInt4);
  EXPECT_EQ(model.activation_type, kernels::ActivationType::kF32);
  EXPECT_EQ(model.kv_type, kernels::KvType::kF32);
  EXPECT_EQ(model.max_step_tokens, 48);
  EXPECT_EQ(model.max_logits_rows, 48);
  EXPECT_EQ(model.max_positions, 100);
  const EngineOptions engine = ToEngineOptions(options);
  EXPECT_EQ(engine.kv_bytes, 1 << 20);
  EXPECT_EQ(engine.max_sequences, 8);
  EXPECT_EQ(engine.max_step_tokens, 48);
  EXPECT_EQ(engine.prefill_chunk, 16);
  EXPECT_FALSE(engine.prefix_cache);
  EXPECT_EQ(NumThreads(options), 2);
}

TEST(VerifierOptions, DefaultsAreTheDocumentedOnes) {
  VerifierOptions options;
  std::string error;
  ASSERT_EQ(Parse({"--model", "m"}, &options, &error), std::nullopt);
  EXPECT_EQ(options.listen.ToString(), "127.0.0.1:8011");
  EXPECT_EQ(options.metrics.ToString(), "127.0.0.1:8012");
  EXPECT_EQ(ToModelOptions(options).weight_type, std::nullopt);
  EXPECT_EQ(options.drain_delay, absl::Seconds(5));
  EXPECT_EQ(options.drain_timeout, absl::Seconds(30));
  EXPECT_GE(NumThreads(options), 1);
}

TEST(VerifierOptions, TogetherTheyMustMakeSense) {
  VerifierOptions options;
  EXPECT_EQ(CheckVerifierOptions(options).message(), "--model is required");
  options.model = "m";
  options.max_step_tokens = 8;
  options.max_num_seqs = 9;
  EXPECT_THAT(CheckVerifierOptions(options).message(), HasSubstr("--max-num-seqs must not exceed"));
  options.max_num_seqs = 8;
  EXPECT_TRUE(CheckVerifierOptions(options).ok());
  options.scripted_step = absl::Milliseconds(1);
  EXPECT_THAT(CheckVerifierOptions(options).message(), HasSubstr("--scripted-step"));
  options.model = "scripted:m";
  EXPECT_TRUE(CheckVerifierOptions(options).ok());
}

TEST(VerifierOptions, TheDeviceIsTheCpuOrANumberOfCuda) {
  VerifierOptions options;
  options.model = "m";
  EXPECT_EQ(ToModelOptions(options).cuda_device, std::nullopt);
  EXPECT_EQ(ToModelOptions(options).activation_type, kernels::ActivationType::kInt8);
  for (const auto& [text, index] : {std::pair{"cuda", 0}, {"cuda:0", 0}, {"cuda:3", 3}}) {
    options.device = text;
    EXPECT_TRUE(CheckVerifierOptions(options).ok()) << text;
    EXPECT_EQ(ToModelOptions(options).cuda_device, index);
    EXPECT_EQ(ToModelOptions(options).activation_type, kernels::ActivationType::kBF16);
  }
  for (const char* text : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:256", "cuda:01", "cuda: 1",
                           "cuda:1 ", "cuda:99999999999", "cpu:0"}) {
    options.device = text;
    EXPECT_THAT(CheckVerifierOptions(options).message(), HasSubstr("--device must be cpu, cuda or cuda:N"));
  }
  options.device = "cuda:0";
  options.profile = true;
  EXPECT_THAT(CheckVerifierOptions(options).message(), HasSubstr("not with --device=cuda:0"));
  options.profile = false;
  options.model = "scripted:m";
  EXPECT_THAT(CheckVerifierOptions(options).message(), HasSubstr("not with --device=cuda:0"));
}

TEST(VerifierOptions, AScriptedModelTakesItsTextFromARealOne) {
  EXPECT_EQ(ScriptedModelOf("scripted"), kDefaultModel);
  EXPECT_EQ(ScriptedModelOf("scripted:dir/model.gguf"), "dir/model.gguf");
  EXPECT_EQ(ScriptedModelOf("scripted-model.gguf"), std::nullopt);
  EXPECT_EQ(ScriptedModelOf("smollm2-135m"), std::nullopt);
}

TEST(VerifierOptions, HelpIsComplete) {
  VerifierOptions options;
  std::string help;
  EXPECT_EQ(Parse({"--help"}, &options, &help), 0);
  for (const char* flag :
       {"--model",         "--listen",        "--metrics",         "--device",       "--threads",
        "--dtype",         "--activations",   "--kv-dtype",        "--kv-bytes",     "--prefix-cache",
        "--deterministic", "--prefill-chunk", "--max-step-tokens", "--max-num-seqs", "--max-model-len",
        "--drain-delay",   "--drain-timeout", "--log-format",      "--log-level",    "--config",
        "--check-config",  "--version"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
}

TEST(VerifierOptions, CaptureStaysOnThisMachineAndAlone) {
  const auto check = [](std::vector<const char*> args) {
    VerifierOptions options;
    std::string error;
    args.insert(args.end(), {"--model", "m", "--capture"});
    EXPECT_EQ(Parse(args, &options, &error), std::nullopt) << error;
    return std::string(CheckVerifierOptions(options).message());
  };
  EXPECT_EQ(check({}), "");
  EXPECT_EQ(check({"--listen", "unix:/tmp/capture.sock"}), "");
  EXPECT_THAT(check({"--listen", "0.0.0.0:8011"}), HasSubstr("--listen must stay on this machine"));
  EXPECT_THAT(check({"--listen", "0.0.0.0:8011", "--insecure"}),
              HasSubstr("--listen must stay on this machine"));
  EXPECT_THAT(check({"--drafter", "127.0.0.1:8021"}), HasSubstr("--drafter"));
  EXPECT_THAT(check({"--trace", "t.jsonl"}), HasSubstr("--trace"));
}

}  // namespace
}  // namespace tandem::verifier
