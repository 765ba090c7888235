#include "common/formats/model_family.h"

#include "common/base/status.h"

namespace tandem::formats {

const FamilyTraits& TraitsOf(ModelFamily family) {
  static constexpr FamilyTraits kLlama = {.name = "llama"};
  static constexpr FamilyTraits kQwen2 = {.name = "qwen2", .qkv_biases = true};
  static constexpr FamilyTraits kQwen3 = {.name = "qwen3", .qk_norms = true};
  static constexpr FamilyTraits kGemma3 = {.name = "gemma3",
                                           .qk_norms = true,
                                           .post_norms = true,
                                           .gelu = true,
                                           .scaled_embedding = true,
                                           .norms_add_one = true};
  static constexpr FamilyTraits kGemma4 = {.name = "gemma4",
                                           .qk_norms = true,
                                           .value_norm = true,
                                           .post_norms = true,
                                           .gelu = true,
                                           .layer_scalar = true,
                                           .scaled_embedding = true};
  switch (family) {
    case ModelFamily::kLlama:
      return kLlama;
    case ModelFamily::kQwen2:
      return kQwen2;
    case ModelFamily::kQwen3:
      return kQwen3;
    case ModelFamily::kGemma3:
      return kGemma3;
    case ModelFamily::kGemma4:
      return kGemma4;
  }
  TANDEM_CHECK(false);
}

}  // namespace tandem::formats
