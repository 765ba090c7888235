// A model without weights, for measuring what everything around the model costs (tandem-verifier --model
// scripted): the likeliest token at each position comes from a table, whatever the text. Vocabulary, stop
// tokens and context are a real model's, so that gateways with its tokenizer fit.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "common/formats/model_config.h"
#include "common/models/model.h"

namespace tandem::verifier {

// Behind a token at position p comes table[p % table.size()]; a step takes `step_time`, without using a CPU.
// `config`: with vocab_size, hidden_size, num_layers and max_position of the real model. Requires a table of
// at least one id, all < vocab_size.
std::unique_ptr<models::Model> NewScriptedModel(const formats::ModelConfig& config,
                                                const models::ModelOptions& options,
                                                std::vector<int32_t> table, absl::Duration step_time);

}  // namespace tandem::verifier
