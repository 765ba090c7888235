#include "common/text/tokenizer_gguf.h"

#include "common/base/status.h"
#include "common/formats/quoted.h"

namespace tandem::text {
namespace {

// Values of tokenizer.ggml.token_type.
enum GgufTokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5 };

absl::StatusOr<TokenKind> KindOf(int64_t type, size_t id) {
  switch (type) {
    case kNormal:
      return TokenKind::kNormal;
    case kUnknown:
    case kControl:
      return TokenKind::kSpecial;
    case kUserDefined:
      return TokenKind::kAdded;
    case kUnused:
      return TokenKind::kNone;
    default:
      return InvalidArgument("tokenizer.ggml.token_type[{}] is {}, not a type of gpt2 tokenizers", id, type);
  }
}

absl::StatusOr<bool> BoolOr(const formats::GgufFile& file, const std::string& key, bool absent) {
  absl::StatusOr<bool> value = file.GetBool(key);
  if (absl::IsNotFound(value.status())) return absent;
  return value;
}

absl::StatusOr<PreTokenizerKind> ReadPreTokenizer(const formats::GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string model, file.GetString("tokenizer.ggml.model"));
  if (model != "gpt2")
    return Unimplemented("tokenizer.ggml.model {} is not supported", formats::Quoted(model));
  ASSIGN_OR_RETURN(const std::string name, file.GetString("tokenizer.ggml.pre"));
  ASSIGN_OR_RETURN(const PreTokenizerKind kind, FindPreTokenizer(name));
  if (kind == PreTokenizerKind::kQwen2) {
    // The models that name it were trained on NFC text, which the file does not say.
    return Unimplemented("tokenizer.ggml.pre 'qwen2' is not supported: its models need NFC normalisation");
  }
  return kind;
}

absl::Status ReadTokens(const formats::GgufFile& file, TokenizerModel* out) {
  const std::vector<std::string>* texts = file.GetStrings("tokenizer.ggml.tokens");
  const std::vector<int64_t>* types = file.GetInts("tokenizer.ggml.token_type");
  if (texts == nullptr) return InvalidArgument("tokenizer.ggml.tokens is no array of strings");
  if (types == nullptr) return InvalidArgument("tokenizer.ggml.token_type is no array of integers");
  if (texts->size() > static_cast<size_t>(kMaxTokens)) {
    return InvalidArgument("tokenizer.ggml.tokens has {} tokens, at most {} are supported", texts->size(),
                           kMaxTokens);
  }
  if (types->size() != texts->size()) {
    return InvalidArgument("tokenizer.ggml.token_type has {} items for {} tokens", types->size(),
                           texts->size());
  }
  out->tokens.resize(texts->size());
  for (size_t id = 0; id < texts->size(); ++id) {
    ASSIGN_OR_RETURN(out->tokens[id].kind, KindOf((*types)[id], id));
    if (out->tokens[id].kind != TokenKind::kNone) out->tokens[id].text = (*texts)[id];
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const formats::GgufFile& file, TokenizerModel* out) {
  const std::vector<std::string>* merges = file.GetStrings("tokenizer.ggml.merges");
  if (merges == nullptr) return InvalidArgument("tokenizer.ggml.merges is no array of strings");
  if (merges->size() > static_cast<size_t>(kMaxMerges)) {
    return InvalidArgument("tokenizer.ggml.merges has {} items, at most {} are supported", merges->size(),
                           kMaxMerges);
  }
  out->merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    ASSIGN_OR_RETURN(auto pair, SplitMerge((*merges)[i], i));
    out->merges.push_back(std::move(pair));
  }
  return absl::OkStatus();
}

absl::Status ReadPromptPrefix(const formats::GgufFile& file, TokenizerModel* out) {
  ASSIGN_OR_RETURN(const bool add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", false));
  if (!add_bos) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t bos, file.GetInt("tokenizer.ggml.bos_token_id"));
  if (bos < 0 || bos >= static_cast<int64_t>(out->tokens.size())) {
    return InvalidArgument("tokenizer.ggml.bos_token_id {} is not in [0, {})", bos, out->tokens.size());
  }
  out->prompt_prefix = {static_cast<int32_t>(bos)};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerModel> ReadGgufTokenizer(const formats::GgufFile& file) {
  TokenizerModel out;
  ASSIGN_OR_RETURN(out.pre_tokenizer, ReadPreTokenizer(file));
  out.ignore_merges = out.pre_tokenizer == PreTokenizerKind::kLlama3;  // not written in the file
  ASSIGN_OR_RETURN(const bool add_space, BoolOr(file, "tokenizer.ggml.add_space_prefix", false));
  if (add_space) return Unimplemented("tokenizer.ggml.add_space_prefix is not supported for gpt2 tokenizers");
  RETURN_IF_ERROR(ReadTokens(file, &out));
  RETURN_IF_ERROR(ReadMerges(file, &out));
  RETURN_IF_ERROR(ReadPromptPrefix(file, &out));
  return out;
}

}  // namespace tandem::text
