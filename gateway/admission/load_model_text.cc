#include <filesystem>
#include <limits>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/formats/checkpoint.h"
#include "gateway/admission/model_text.h"

namespace tandem::gateway {
namespace {

absl::Time FileTime(const std::string& path) {
  std::error_code error;
  const auto written = std::filesystem::last_write_time(path, error);
  if (error) return absl::Now();
  // C++20's clock_cast is not in GCC 12: go through the difference to the file clock's now.
  const auto age = decltype(written)::clock::now() - written;
  return absl::Now() - absl::FromChrono(std::chrono::duration_cast<std::chrono::nanoseconds>(age));
}

}  // namespace

absl::StatusOr<ModelText> LoadModelText(const std::string& path) {
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(const auto checkpoint, formats::Checkpoint::Open(path));
  ASSIGN_OR_RETURN(const formats::Checkpoint::TextSources sources, checkpoint->ReadTextSources());
  ModelText model;
  auto tokenizer = text::Tokenizer::Create(sources);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  model.tokenizer = *std::move(tokenizer);
  if (!sources.chat_template.empty()) {
    auto chat_template =
        text::ChatTemplate::Create(sources.chat_template, sources.bos_token, sources.eos_token);
    if (!chat_template.ok()) return Annotate(chat_template.status(), path + ": chat template");
    model.chat_template = *std::move(chat_template);
  }
  const formats::ModelConfig& config = checkpoint->config();
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (config.vocab_size > kMax || config.max_position > kMax) {
    return InvalidArgument("{}: vocab_size {} or context {} exceeds {}", path, config.vocab_size,
                           config.max_position, kMax);
  }
  if (model.tokenizer->vocab_size() > config.vocab_size) {
    return InvalidArgument("{}: the tokenizer has {} ids, the model only {}", path,
                           model.tokenizer->vocab_size(), config.vocab_size);
  }
  model.vocab_size = static_cast<int32_t>(config.vocab_size);
  model.max_position = static_cast<int32_t>(config.max_position);
  model.eos_token_ids = config.eos_token_ids;
  model.created = FileTime(path);
  model.load_bytes = static_cast<int64_t>(sources.chat_template.size());
  for (int32_t id = 0; id < model.tokenizer->vocab_size(); ++id)
    model.load_bytes += static_cast<int64_t>(model.tokenizer->TokenBytes(id).size());
  model.load_time = absl::Now() - begin;
  return model;
}

}  // namespace tandem::gateway
