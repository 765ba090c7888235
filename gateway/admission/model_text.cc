#include "gateway/admission/model_text.h"

#include "common/base/status.h"
#include "gateway/errors.h"
#include "nlohmann/json.hpp"

namespace tandem::gateway {

absl::StatusOr<std::vector<int32_t>> EncodeConversation(const ModelText& model, const std::string& model_id,
                                                        const nlohmann::ordered_json& messages,
                                                        const std::map<std::string, bool>& flags) {
  if (model.chat_template == nullptr) return error::Unsupported("messages", model_id);
  text::ChatTemplate::Inputs inputs;
  inputs.messages = &messages;
  inputs.extra = flags;
  const auto spans = model.chat_template->Render(inputs);
  if (!spans.ok()) {
    if (absl::IsInvalidArgument(spans.status()) || absl::IsResourceExhausted(spans.status())) {
      return error::Invalid("messages", fmt::format("messages do not fit the chat template: {}",
                                                    EscapedValue(std::string(spans.status().message()))));
    }
    return spans.status();
  }
  auto ids = model.tokenizer->Encode(*spans);
  if (!ids.ok()) return error::Invalid("messages", "messages are not valid UTF-8");
  return ids;
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const ModelText& model, const std::string& words) {
  auto encoded = model.tokenizer->Encode(words, /*special_tokens=*/false);
  if (!encoded.ok()) return error::Invalid("prompt", "prompt is not valid UTF-8");
  const auto prefix = model.tokenizer->prompt_prefix();
  encoded->insert(encoded->begin(), prefix.begin(), prefix.end());
  return encoded;
}

}  // namespace tandem::gateway
