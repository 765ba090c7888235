#include "common/text/tokenizer.h"

#include <utility>

#include "common/base/status.h"
#include "common/text/tokenizer_gguf.h"
#include "common/text/tokenizer_json.h"
#include "common/text/tokenizer_model.h"

namespace tandem::text {
namespace {

constexpr char kJsonSource[] = "tokenizer.json", kGgufSource[] = "GGUF tokenizer";

// Leaves out added tokens at the end that the model has no rows for (Gemma's text models have none for the
// token of an image): their texts are plain text to it.
absl::Status KeepIdsBelow(int64_t vocab_size, TokenizerModel* model) {
  auto& tokens = model->tokens;
  const size_t num_tokens = tokens.size();
  while (std::cmp_greater(tokens.size(), vocab_size) && tokens.back().kind != TokenKind::kNormal) {
    tokens.pop_back();
  }
  if (std::cmp_greater(tokens.size(), vocab_size)) {
    return InvalidArgument("the tokenizer has {} ids, the model only {}", num_tokens, vocab_size);
  }
  if (!model->scores.empty()) model->scores.resize(tokens.size());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Build(absl::StatusOr<TokenizerModel> model, int64_t vocab_size,
                                                 const std::string& source) {
  if (!model.ok()) return Annotate(model.status(), source);
  if (const absl::Status kept = KeepIdsBelow(vocab_size, &*model); !kept.ok()) return Annotate(kept, source);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = BuildTokenizer(*std::move(model));
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), source);
  return tokenizer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(
    const formats::Checkpoint::TextSources& sources) {
  if (sources.gguf != nullptr) {
    return Build(ReadGgufTokenizer(*sources.gguf), sources.vocab_size, kGgufSource);
  }
  if (sources.tokenizer_json.empty()) return NotFound("the model has no tokenizer");
  return Build(ReadTokenizerJson(sources.tokenizer_json), sources.vocab_size, kJsonSource);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(const std::string& tokenizer_json) {
  return Build(ReadTokenizerJson(tokenizer_json), kMaxTokens, kJsonSource);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const formats::GgufFile& file) {
  return Build(ReadGgufTokenizer(file), kMaxTokens, kGgufSource);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, bool special_tokens) const {
  const Span span{std::string(text), special_tokens};
  return Encode(std::span<const Span>(&span, 1));
}

}  // namespace tandem::text
