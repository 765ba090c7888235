#include "common/formats/model_tensors.h"

#include <fmt/format.h>

namespace tandem::formats {
namespace {

void AppendLayer(const ModelConfig& config, int64_t layer, std::vector<TensorSpec>& specs) {
  const auto add = [&](const char* name, const char* gguf_name, std::vector<int64_t> shape) {
    specs.push_back({fmt::format("model.layers.{}.{}.weight", layer, name),
                     fmt::format("blk.{}.{}.weight", layer, gguf_name), std::move(shape)});
  };
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q_rows = config.num_heads * config.head_dim, kv_rows = config.num_kv_heads * config.head_dim;
  add("input_layernorm", "attn_norm", {hidden});
  add("self_attn.q_proj", "attn_q", {q_rows, hidden});
  add("self_attn.k_proj", "attn_k", {kv_rows, hidden});
  add("self_attn.v_proj", "attn_v", {kv_rows, hidden});
  add("self_attn.o_proj", "attn_output", {hidden, q_rows});
  if (config.family == ModelFamily::kQwen3) {
    add("self_attn.q_norm", "attn_q_norm", {config.head_dim});
    add("self_attn.k_norm", "attn_k_norm", {config.head_dim});
  }
  add("post_attention_layernorm", "ffn_norm", {hidden});
  add("mlp.gate_proj", "ffn_gate", {intermediate, hidden});
  add("mlp.up_proj", "ffn_up", {intermediate, hidden});
  add("mlp.down_proj", "ffn_down", {hidden, intermediate});
}

}  // namespace

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  const std::vector<int64_t> vocab_shape = {config.vocab_size, config.hidden_size};
  std::vector<TensorSpec> specs;
  specs.push_back({"model.embed_tokens.weight", "token_embd.weight", vocab_shape});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) AppendLayer(config, layer, specs);
  specs.push_back({"model.norm.weight", "output_norm.weight", {config.hidden_size}});
  if (!config.tie_word_embeddings) specs.push_back({"lm_head.weight", "output.weight", vocab_shape});
  return specs;
}

}  // namespace tandem::formats
