#include "drafter/models/draft_tensors.h"

#include <cstring>

#include "common/base/status.h"

namespace tandem::drafter {
namespace {

void AddLayer(const DraftConfig& config, int64_t layer, std::vector<DraftTensorSpec>& specs) {
  const formats::ModelConfig& shape = config.shape;
  const formats::AttentionConfig& attention = shape.attention;
  const bool eagle3 = config.architecture == DraftArchitecture::kEagle3;
  const int64_t hidden = shape.hidden_size, intermediate = shape.intermediate_size;
  // Eagle3's attention reads embedding and hidden state side by side.
  const int64_t attention_input = eagle3 ? 2 * hidden : hidden;
  const int64_t q_rows = shape.num_heads * attention.head_dim;
  const int64_t kv_rows = attention.num_kv_heads * attention.head_dim;
  const std::string prefix = fmt::format("layers.{}.", layer);
  specs.push_back({prefix + "input_layernorm.weight", {hidden}});
  if (eagle3) specs.push_back({prefix + "hidden_norm.weight", {hidden}});
  specs.push_back({prefix + "self_attn.q_proj.weight", {q_rows, attention_input}});
  specs.push_back({prefix + "self_attn.k_proj.weight", {kv_rows, attention_input}});
  if (!attention.value_is_key) {
    specs.push_back({prefix + "self_attn.v_proj.weight", {kv_rows, attention_input}});
  }
  specs.push_back({prefix + "self_attn.q_norm.weight", {attention.head_dim}});
  specs.push_back({prefix + "self_attn.k_norm.weight", {attention.head_dim}});
  specs.push_back({prefix + "self_attn.o_proj.weight", {hidden, q_rows}});
  specs.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  if (shape.traits().post_norms) {
    specs.push_back({prefix + "pre_feedforward_layernorm.weight", {hidden}});
    specs.push_back({prefix + "post_feedforward_layernorm.weight", {hidden}});
  }
  specs.push_back({prefix + "mlp.gate_proj.weight", {intermediate, hidden}});
  specs.push_back({prefix + "mlp.up_proj.weight", {intermediate, hidden}});
  specs.push_back({prefix + "mlp.down_proj.weight", {hidden, intermediate}});
  if (shape.traits().layer_scalar) specs.push_back({prefix + "layer_scalar", {1}});
}

void AddHeads(const DraftConfig& config, int64_t draft_vocab, std::vector<DraftTensorSpec>& specs) {
  const int64_t hidden = config.shape.hidden_size, rank = config.markov_rank;
  if (rank > 0) {
    specs.push_back({"markov_head.markov_w1.weight", {config.shape.vocab_size, rank}});
    specs.push_back({"markov_head.markov_w2.weight", {draft_vocab, rank}});
  }
  if (config.markov == MarkovType::kGated) {
    specs.push_back({"markov_head.gate_proj.weight", {rank, hidden + rank}});
    specs.push_back({"markov_head.gate_proj.bias", {rank}});
  }
  if (config.markov == MarkovType::kRnn) {
    specs.push_back({"markov_head.joint_proj.weight", {3 * rank, 2 * rank + hidden}});
    specs.push_back({"markov_head.joint_proj.bias", {3 * rank}});
  }
  if (config.has_confidence) {
    specs.push_back(
        {"confidence_head.proj.weight", {1, config.confidence_with_markov ? hidden + rank : hidden}});
    specs.push_back({"confidence_head.proj.bias", {1}});
  }
}

}  // namespace

std::vector<DraftTensorSpec> DraftTensors(const DraftConfig& config) {
  const int64_t hidden = config.shape.hidden_size, vocab = config.shape.vocab_size;
  const int64_t draft_vocab = config.draft_vocab_size > 0 ? config.draft_vocab_size : vocab;
  const auto num_taps = static_cast<int64_t>(config.taps.size());
  std::vector<DraftTensorSpec> specs = {
      {"embed_tokens.weight", {vocab, hidden}, !config.compact},
      {"lm_head.weight", {draft_vocab, hidden}, !config.compact},
      {"fc.weight", {hidden, num_taps * hidden}},
      {"norm.weight", {hidden}},
  };
  if (config.architecture == DraftArchitecture::kDSpark) specs.push_back({"hidden_norm.weight", {hidden}});
  for (int64_t layer = 0; layer < config.shape.num_layers; ++layer) AddLayer(config, layer, specs);
  AddHeads(config, draft_vocab, specs);
  if (config.draft_vocab_size > 0) specs.push_back({"d2t", {config.draft_vocab_size}});
  return specs;
}

void DraftTensor::DequantizeRow(int64_t r, std::span<float> out) const {
  const auto row = values.row(r);
  if (!is_int8()) return formats::Dequantize(values.dtype, row, out);
  for (size_t c = 0; c < out.size(); ++c) {
    out[c] = row_scales[r] * static_cast<float>(static_cast<int8_t>(row[c]));
  }
}

}  // namespace tandem::drafter
