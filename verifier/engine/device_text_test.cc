// The engine over a model on a CUDA device, which may be the emulated one: with --deterministic the text of a
// sequence is its own, whatever is batched, chunked, cached, preempted or drafted. A golden target of each
// family.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>

#include "common/models/cuda/device_decoder.h"
#include "common/models/golden_case.h"
#include "verifier/engine/run_requests.h"

namespace tandem::verifier {
namespace {

using models::GoldenCase;
using Outputs = std::vector<std::vector<int32_t>>;

// The first of each family that the backend runs.
std::vector<GoldenCase> Cases() {
  std::map<formats::ModelFamily, GoldenCase> first;
  for (const GoldenCase& c : models::AllCases()) {
    const auto checkpoint = formats::Checkpoint::Open(c.model);
    if (!checkpoint.ok()) continue;  // a failure of the models' tests
    const formats::ModelFamily family = (*checkpoint)->config().family;
    if (family != formats::ModelFamily::kGemma4) first.try_emplace(family, c);
  }
  std::vector<GoldenCase> cases;
  for (const auto& [family, c] : first) cases.push_back(c);
  return cases;
}

class DeviceText : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    const auto device = models::cuda::TANDEM_CUDA_NAMESPACE::Device::Open(0);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    const auto checkpoint = models::OpenCase(GetParam());
    ASSERT_NE(checkpoint, nullptr);
    models::ModelOptions options;
    options.activation_type = kernels::ActivationType::kBF16;
    options.weight_type = kernels::WeightType::kBF16;
    options.max_step_tokens = options.max_logits_rows = 64;
    options.max_positions = static_cast<int>(std::min<int64_t>(checkpoint->config().max_position, 512));
    options.cuda_device = 0;
    options.deterministic = true;
    auto model = models::cuda::TANDEM_CUDA_NAMESPACE::LoadDeviceModel(*checkpoint, options, pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  // Every third begins as the one before, for the prefix cache.
  std::vector<Admission> Requests() const {
    std::mt19937 random(3);
    const int32_t lengths[] = {17, 12, 14};
    std::vector<Admission> requests;
    for (int i = 0; i < 6; ++i) {
      Admission request;
      if (i % 3 == 2) request.tokens = requests[i - 2].tokens;
      const size_t length = request.tokens.size() + lengths[i % 3];
      while (request.tokens.size() < length) {
        request.tokens.push_back(static_cast<int32_t>(random() % model_->config().vocab_size));
      }
      request.prompt_length = static_cast<int32_t>(length);
      request.max_tokens = 10;
      request.sampling.seed = i;
      request.sampling.temperature = static_cast<float>(i % 2) * 0.8f;
      requests.push_back(std::move(request));
    }
    return requests;
  }

  EngineOptions Options(int blocks) const {
    EngineOptions options;
    options.kv_bytes = blocks * model_->kv_layout().block_bytes;
    options.max_step_tokens = 64;
    options.max_sequences = 6;
    options.step_time_cache_path = cache_.string();  // the emulated device takes long to measure
    return options;
  }

  ~DeviceText() override { std::filesystem::remove(cache_); }

  const std::filesystem::path cache_ =
      std::filesystem::temp_directory_path() / fmt::format("tandem-device-text-{}.json", getpid());
  ThreadPool pool_{1};
  std::unique_ptr<models::Model> model_;
};

TEST_P(DeviceText, IsThatOfTheSequenceAlone) {
  EngineStats stats;
  Outputs alone;
  EngineOptions options = Options(64);
  options.prefix_cache = false;
  const std::vector<Admission> requests = Requests();
  for (const Admission& request : requests) {
    alone.push_back(testing::RunRequests(*model_, pool_, options, {request}, stats).at(0));
  }
  options.prefix_cache = true;
  options.prefill_chunk = 16;
  EXPECT_EQ(testing::RunRequests(*model_, pool_, options, requests, stats), alone);
  options.prefill_chunk = 64;
  EXPECT_EQ(testing::RunRequests(*model_, pool_, options, requests, stats, alone), alone) << "with drafts";
  EXPECT_GT(stats.accepted, 0);
  EXPECT_LT(stats.accepted, stats.checked);
  EXPECT_EQ(testing::RunRequests(*model_, pool_, Options(8), requests, stats), alone) << "in little memory";
  EXPECT_GT(stats.preemptions, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceText, ::testing::ValuesIn(Cases()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
});

}  // namespace
}  // namespace tandem::verifier
