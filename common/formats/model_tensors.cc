#include "common/formats/model_tensors.h"

#include <fmt/format.h>

#include <utility>

namespace tandem::formats {
namespace {

// Adds tensors of one layer under both names.
class LayerSpecs {
 public:
  LayerSpecs(int64_t layer, std::vector<TensorSpec>& specs)
      : name_prefix_(fmt::format("model.layers.{}.", layer)),
        gguf_prefix_(fmt::format("blk.{}.", layer)),
        specs_(specs) {}

  void Weight(const char* name, const char* gguf_name, std::vector<int64_t> shape) {
    Add(fmt::format("{}.weight", name), fmt::format("{}.weight", gguf_name), std::move(shape));
  }
  void Add(const std::string& name, const std::string& gguf_name, std::vector<int64_t> shape) {
    specs_.push_back({name_prefix_ + name, gguf_prefix_ + gguf_name, std::move(shape)});
  }

 private:
  const std::string name_prefix_, gguf_prefix_;
  std::vector<TensorSpec>& specs_;
};

void AppendAttention(const ModelConfig& config, int64_t layer, LayerSpecs& specs) {
  const FamilyTraits& traits = config.traits();
  const AttentionConfig& attention = config.AttentionOf(layer);
  const int64_t hidden = config.hidden_size, head_dim = attention.head_dim;
  const int64_t q_rows = config.num_heads * head_dim, kv_rows = attention.num_kv_heads * head_dim;
  const bool own_kv = config.HasOwnKv(layer);
  specs.Weight("input_layernorm", "attn_norm", {hidden});
  specs.Weight("self_attn.q_proj", "attn_q", {q_rows, hidden});
  if (own_kv) specs.Weight("self_attn.k_proj", "attn_k", {kv_rows, hidden});
  if (own_kv && !attention.value_is_key) specs.Weight("self_attn.v_proj", "attn_v", {kv_rows, hidden});
  if (traits.qkv_biases) {
    specs.Add("self_attn.q_proj.bias", "attn_q.bias", {q_rows});
    specs.Add("self_attn.k_proj.bias", "attn_k.bias", {kv_rows});
    specs.Add("self_attn.v_proj.bias", "attn_v.bias", {kv_rows});
  }
  if (traits.qk_norms) specs.Weight("self_attn.q_norm", "attn_q_norm", {head_dim});
  if (traits.qk_norms && own_kv) specs.Weight("self_attn.k_norm", "attn_k_norm", {head_dim});
  specs.Weight("self_attn.o_proj", "attn_output", {hidden, q_rows});
}

void AppendFeedForward(const ModelConfig& config, int64_t layer, LayerSpecs& specs) {
  const int64_t hidden = config.hidden_size, intermediate = config.layers[layer].intermediate_size;
  // One name, two norms: before feed-forward in Llama, behind attention in Gemma.
  if (config.traits().post_norms) {
    specs.Weight("post_attention_layernorm", "post_attention_norm", {hidden});
    specs.Weight("pre_feedforward_layernorm", "ffn_norm", {hidden});
    specs.Weight("post_feedforward_layernorm", "post_ffw_norm", {hidden});
  } else {
    specs.Weight("post_attention_layernorm", "ffn_norm", {hidden});
  }
  specs.Weight("mlp.gate_proj", "ffn_gate", {intermediate, hidden});
  specs.Weight("mlp.up_proj", "ffn_up", {intermediate, hidden});
  specs.Weight("mlp.down_proj", "ffn_down", {hidden, intermediate});
  if (config.traits().layer_scalar) specs.Add("layer_scalar", "layer_output_scale.weight", {1});
}

}  // namespace

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  const std::vector<int64_t> vocab_shape = {config.vocab_size, config.hidden_size};
  std::vector<TensorSpec> specs;
  specs.push_back({"model.embed_tokens.weight", "token_embd.weight", vocab_shape});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    LayerSpecs of_layer(layer, specs);
    AppendAttention(config, layer, of_layer);
    AppendFeedForward(config, layer, of_layer);
  }
  specs.push_back({"model.norm.weight", "output_norm.weight", {config.hidden_size}});
  if (!config.tie_word_embeddings) specs.push_back({"lm_head.weight", "output.weight", vocab_shape});
  return specs;
}

}  // namespace tandem::formats
