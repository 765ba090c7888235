// What the gateway needs of a model's files: tokenizer, chat template and a few numbers. No weights are read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"

namespace tandem::gateway {

struct ModelText {
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::unique_ptr<text::ChatTemplate> chat_template;  // null: the model has none
  int32_t vocab_size = 0;                             // rows of the embedding, >= the tokenizer's
  int32_t max_position = 0;                           // context the model was trained for
  std::vector<int32_t> eos_token_ids;
  absl::Time created;      // of the files
  int64_t load_bytes = 0;  // vocabulary and chat template
  absl::Duration load_time;
};

// `path` is a Hugging Face directory or a GGUF file. Errors name the file and what is wrong with it.
absl::StatusOr<ModelText> LoadModelText(const std::string& path);

// The prompt of a conversation, as the template writes it. `messages` have passed CheckMessages. The
// template's own raise_exception and its limits are kInvalidArgument for `messages`.
absl::StatusOr<std::vector<int32_t>> EncodeConversation(const ModelText& model, const std::string& model_id,
                                                        const nlohmann::ordered_json& messages,
                                                        const std::map<std::string, bool>& flags);
// The prompt of a plain text: the model's prefix (BOS), then the text, in which special tokens' names stay
// text.
absl::StatusOr<std::vector<int32_t>> EncodeText(const ModelText& model, const std::string& words);

}  // namespace tandem::gateway
