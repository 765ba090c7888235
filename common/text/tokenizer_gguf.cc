#include "common/text/tokenizer_gguf.h"

#include "common/base/status.h"
#include "common/formats/quoted.h"

namespace tandem::text {
namespace {

// Values of tokenizer.ggml.token_type.
enum GgufTokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

absl::StatusOr<TokenKind> KindOf(int64_t type, size_t id, TokenizerKind tokenizer) {
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
    case kByte:
      if (tokenizer == TokenizerKind::kSentencePiece) return TokenKind::kByte;
      break;
    default:
      break;
  }
  return InvalidArgument("tokenizer.ggml.token_type[{}] is {}, not a type of {} tokenizers", id, type,
                         tokenizer == TokenizerKind::kSentencePiece ? "llama" : "gpt2");
}

absl::StatusOr<bool> BoolOr(const formats::GgufFile& file, const std::string& key, bool absent) {
  absl::StatusOr<bool> value = file.GetBool(key);
  if (absl::IsNotFound(value.status())) return absent;
  return value;
}

absl::StatusOr<TokenizerKind> ReadKind(const formats::GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string model, file.GetString("tokenizer.ggml.model"));
  if (model == "gpt2") return TokenizerKind::kByteLevel;
  if (model == "llama") return TokenizerKind::kSentencePiece;
  return Unimplemented("tokenizer.ggml.model {} is not supported; gpt2 and llama are",
                       formats::Quoted(model));
}

// What files leave unsaid is part of a pre-tokenizer's name: Qwen's text is normalised, Llama 3's words that
// are tokens need no merges.
absl::Status ReadPreTokenizer(const formats::GgufFile& file, TokenizerModel* out) {
  ASSIGN_OR_RETURN(const std::string name, file.GetString("tokenizer.ggml.pre"));
  const absl::StatusOr<PreTokenizerKind> kind = FindPreTokenizer(name);
  if (!kind.ok()) return Annotate(kind.status(), "tokenizer.ggml.pre");
  out->pre_tokenizer = *kind;
  if (*kind == PreTokenizerKind::kQwen2) out->normalizer = NormalizerKind::kNfc;
  out->ignore_merges = *kind == PreTokenizerKind::kLlama3;
  return absl::OkStatus();
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
    ASSIGN_OR_RETURN(out->tokens[id].kind, KindOf((*types)[id], id, out->kind));
    TokenEntry& token = out->tokens[id];
    if (token.kind == TokenKind::kNone) continue;
    token.text = (*texts)[id];
    // Runs of spaces are found where literal U+2581 has become one, too, as by merging.
    token.second_pass =
        out->kind == TokenizerKind::kSentencePiece && token.text.find(' ') != std::string::npos;
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

absl::Status ReadScores(const formats::GgufFile& file, TokenizerModel* out) {
  const std::vector<double>* scores = file.GetFloats("tokenizer.ggml.scores");
  if (scores == nullptr) return InvalidArgument("tokenizer.ggml.scores is no array of numbers");
  if (scores->size() != out->tokens.size()) {
    return InvalidArgument("tokenizer.ggml.scores has {} items for {} tokens", scores->size(),
                           out->tokens.size());
  }
  out->scores = *scores;
  return absl::OkStatus();
}

absl::Status ReadPromptPrefix(const formats::GgufFile& file, TokenizerModel* out) {
  // Where the key is missing, its absence means what the tokenizer's first programs did.
  const bool usual =
      out->kind == TokenizerKind::kSentencePiece || out->pre_tokenizer == PreTokenizerKind::kLlama3;
  ASSIGN_OR_RETURN(const bool add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", usual));
  ASSIGN_OR_RETURN(const bool add_eos, BoolOr(file, "tokenizer.ggml.add_eos_token", false));
  if (add_eos) return Unimplemented("tokenizer.ggml.add_eos_token is not supported");
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
  ASSIGN_OR_RETURN(out.kind, ReadKind(file));
  const bool byte_level = out.kind == TokenizerKind::kByteLevel;
  ASSIGN_OR_RETURN(const bool add_space, BoolOr(file, "tokenizer.ggml.add_space_prefix", !byte_level));
  if (add_space) {
    return Unimplemented(
        "tokenizer.ggml.add_space_prefix {}is not supported",
        file.metadata().contains("tokenizer.ggml.add_space_prefix") ? "" : "(true where absent) ");
  }
  RETURN_IF_ERROR(ReadTokens(file, &out));
  if (byte_level) {
    RETURN_IF_ERROR(ReadPreTokenizer(file, &out));
    RETURN_IF_ERROR(ReadMerges(file, &out));
  } else {
    out.normalizer = NormalizerKind::kSpaceMarks;
    RETURN_IF_ERROR(ReadScores(file, &out));
  }
  RETURN_IF_ERROR(ReadPromptPrefix(file, &out));
  return out;
}

}  // namespace tandem::text
