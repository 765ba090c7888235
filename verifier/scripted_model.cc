#include "verifier/scripted_model.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status.h"

namespace tandem::verifier {
namespace {

// Far enough above the others that noise and filters leave it the winner at any temperature allowed.
constexpr float kCertain = 1000.0f;

class ScriptedModel final : public models::Model {
 public:
  ScriptedModel(const formats::ModelConfig& config, const models::ModelOptions& options,
                std::vector<int32_t> table, absl::Duration step_time)
      : config_(config), options_(options), table_(std::move(table)), step_time_(step_time) {
    TANDEM_CHECK(!table_.empty());
    for (const int32_t token : table_) TANDEM_CHECK(token >= 0 && token < config_.vocab_size);
    options_.max_logits_rows = std::min(options.max_logits_rows, options.max_step_tokens);
    options_.max_taps = static_cast<int>(std::min<int64_t>(options.max_taps, config.num_layers + 1));
    if (options_.max_positions == 0) options_.max_positions = static_cast<int>(config.max_position);
    logits_.assign(static_cast<size_t>(options_.max_logits_rows) * config_.vocab_size, 0.0f);
    tap_.assign(static_cast<size_t>(options_.max_step_tokens) * config_.hidden_size, 0.0f);
  }

  const formats::ModelConfig& config() const override { return config_; }
  // Nothing is kept; blocks are handed out all the same.
  kernels::KvLayout kv_layout() const override {
    return kernels::KvLayout::Create(options_.kv_type, {{1, 8}});
  }
  const models::ModelOptions& options() const override { return options_; }
  std::string NumericsId() const override { return "scripted-1"; }
  int64_t WeightBytes() const override { return 0; }

  void Forward(const models::Batch& batch, kernels::KvCache&, models::Outputs& outputs) override {
    if (step_time_ > absl::ZeroDuration()) absl::SleepFor(step_time_);  // a device that computes meanwhile
    for (const size_t place : raised_) logits_[place] = 0;
    raised_.clear();
    for (size_t i = 0; i < batch.logits_rows.size(); ++i) {
      const int32_t position = batch.positions[static_cast<size_t>(batch.logits_rows[i])];
      const int32_t token = table_[static_cast<size_t>(position) % table_.size()];
      raised_.push_back(i * config_.vocab_size + token);
      logits_[raised_.back()] = kCertain;
    }
    outputs.logits = std::span<const float>(logits_).first(batch.logits_rows.size() * config_.vocab_size);
    outputs.taps.assign(batch.taps.size(),
                        std::span<const float>(tap_).first(batch.tokens.size() * config_.hidden_size));
  }

 private:
  const formats::ModelConfig config_;
  models::ModelOptions options_;
  const std::vector<int32_t> table_;
  const absl::Duration step_time_;
  std::vector<float> logits_;   // 0 but where raised_ says
  std::vector<size_t> raised_;  // of the last step
  std::vector<float> tap_;      // zeros
};

}  // namespace

std::unique_ptr<models::Model> NewScriptedModel(const formats::ModelConfig& config,
                                                const models::ModelOptions& options,
                                                std::vector<int32_t> table, absl::Duration step_time) {
  return std::make_unique<ScriptedModel>(config, options, std::move(table), step_time);
}

}  // namespace tandem::verifier
