// The model families, and what sets their layers apart.
#pragma once

namespace tandem::formats {

enum class ModelFamily { kLlama, kQwen2, kQwen3, kGemma3, kGemma4 };

// What a family's layers have beyond those of Llama, or do in another way.
struct FamilyTraits {
  const char* name;               // GGUF's architecture
  bool qkv_biases = false;        // added to q, k and v
  bool qk_norms = false;          // a norm of each head of q and k
  bool value_norm = false;        // one without weights of each head of v
  bool post_norms = false;        // of what attention and feed-forward give, before it is added
  bool gelu = false;              // gated by tanh-GELU instead of SiLU
  bool layer_scalar = false;      // a number that each layer's output is multiplied with
  bool scaled_embedding = false;  // by sqrt(hidden_size)
  // Hugging Face files hold w of norms that multiply with 1 + w (GGUF files hold the sum).
  bool norms_add_one = false;
};

const FamilyTraits& TraitsOf(ModelFamily family);
inline const char* ModelFamilyName(ModelFamily family) { return TraitsOf(family).name; }

}  // namespace tandem::formats
