#include "common/text/tokenizer.h"

#include "common/base/status.h"
#include "common/text/tokenizer_gguf.h"
#include "common/text/tokenizer_json.h"
#include "common/text/tokenizer_model.h"

namespace tandem::text {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> Build(absl::StatusOr<TokenizerModel> model,
                                                 const std::string& source) {
  if (!model.ok()) return Annotate(model.status(), source);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = BuildTokenizer(*std::move(model));
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), source);
  return tokenizer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(
    const formats::Checkpoint::TextSources& sources) {
  if (sources.gguf != nullptr) return FromGguf(*sources.gguf);
  if (sources.tokenizer_json.empty()) return NotFound("the model has no tokenizer");
  return FromJson(sources.tokenizer_json);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(const std::string& tokenizer_json) {
  return Build(ReadTokenizerJson(tokenizer_json), "tokenizer.json");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const formats::GgufFile& file) {
  return Build(ReadGgufTokenizer(file), "GGUF tokenizer");
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, bool special_tokens) const {
  const Span span{std::string(text), special_tokens};
  return Encode(std::span<const Span>(&span, 1));
}

}  // namespace tandem::text
