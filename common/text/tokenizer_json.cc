#include "common/text/tokenizer_json.h"

#include <algorithm>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/formats/quoted.h"
#include "common/text/byte_level.h"
#include "common/text/vocabulary.h"

namespace tandem::text {
namespace {

using formats::Quoted;
using nlohmann::json;

constexpr size_t kMaxFileBytes = 256 << 20;  // Gemma's file has 33 MB
// A Gemma file has 1.8 million values.
constexpr formats::JsonLimits kJsonLimits = {.max_depth = 32, .max_values = 16'000'000};

// The member `key`, or null if `object` has none.
const json& Member(const json& object, const char* key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

absl::StatusOr<bool> BoolOr(const json& object, const char* key, bool absent) {
  const json& value = Member(object, key);
  if (value.is_null()) return absent;
  if (!value.is_boolean()) return InvalidArgument("'{}' is no boolean", key);
  return value.get<bool>();
}

absl::StatusOr<std::string> StringAt(const json& object, const char* key) {
  const json& value = Member(object, key);
  if (!value.is_string()) return InvalidArgument("'{}' is no string", key);
  return value.get<std::string>();
}

absl::StatusOr<int32_t> TokenId(const json& value, const std::string& what) {
  // Booleans, fractions and what exceeds the limit all end here.
  if (!value.is_number_integer() || value < 0 || value >= kMaxTokens) {
    return InvalidArgument("{}: id {} is not in [0, {})", what, value.dump().substr(0, 40), kMaxTokens);
  }
  return value.get<int32_t>();
}

bool IsAbsent(const json& value) { return value.is_null() || (value.is_string() && value == ""); }

std::string TypeOf(const json& step) {
  const json& type = step.is_object() ? Member(step, "type") : step;
  return Quoted(type.is_string() ? type.get<std::string>() : type.dump(-1, ' ', true));
}

// Options of the model that change ids and are not built.
absl::Status CheckModelOptions(const json& model, TokenizerKind kind, bool every_byte_has_a_token) {
  const json& type = Member(model, "type");
  if (!type.is_null() && type != "BPE") {
    return Unimplemented("tokenizer model {} is not supported", TypeOf(model));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!IsAbsent(Member(model, key))) return Unimplemented("BPE option '{}' is not supported", key);
  }
  const json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0.0) return Unimplemented("BPE option 'dropout' is not supported");
  if (kind == TokenizerKind::kSentencePiece) {
    ASSIGN_OR_RETURN(const bool ignore_merges, BoolOr(model, "ignore_merges", false));
    if (ignore_merges)
      return Unimplemented("BPE option 'ignore_merges' is not supported with 'byte_fallback'");
  } else if (!IsAbsent(Member(model, "unk_token")) && !every_byte_has_a_token) {
    return Unimplemented("BPE option 'unk_token' is not supported where bytes have no token");
  }
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const json& vocab, TokenizerModel* out) {
  if (!vocab.is_object()) return InvalidArgument("model.vocab is no object");
  for (const auto& [text, value] : vocab.items()) {
    ASSIGN_OR_RETURN(const int32_t id, TokenId(value, "model.vocab " + Quoted(text)));
    if (static_cast<size_t>(id) >= out->tokens.size()) out->tokens.resize(id + 1);
    TokenEntry& token = out->tokens[id];
    if (token.kind != TokenKind::kNone) {
      return InvalidArgument("model.vocab: {} and {} both have id {}", Quoted(token.text), Quoted(text), id);
    }
    const bool is_byte = out->kind == TokenizerKind::kSentencePiece && ByteOfToken(text).has_value();
    token = {is_byte ? TokenKind::kByte : TokenKind::kNormal, text};
  }
  return absl::OkStatus();
}

// A merge is written "left right" or ["left", "right"].
absl::Status ReadMerges(const json& merges, TokenizerModel* out) {
  if (!merges.is_array()) return InvalidArgument("model.merges is no array");
  out->merges.reserve(std::min<size_t>(merges.size(), kMaxMerges));
  for (const json& merge : merges) {
    const size_t index = out->merges.size();
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out->merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else if (merge.is_string()) {
      ASSIGN_OR_RETURN(auto pair, SplitMerge(merge.get_ref<const std::string&>(), index));
      out->merges.push_back(std::move(pair));
    } else {
      return InvalidArgument("model.merges[{}] is no pair of tokens", index);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadAddedToken(const json& added, size_t index,
                            const absl::flat_hash_map<std::string, int32_t>& vocab, TokenizerModel* out) {
  const std::string what = fmt::format("added_tokens[{}]", index);
  if (!added.is_object()) return InvalidArgument("{} is no object", what);
  ASSIGN_OR_RETURN(const int32_t id, TokenId(Member(added, "id"), what));
  const absl::StatusOr<std::string> content = StringAt(added, "content");
  if (!content.ok()) return Annotate(content.status(), what);
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    ASSIGN_OR_RETURN(const bool on, BoolOr(added, key, false));
    if (on) return Unimplemented("{}: option '{}' is not supported", what, key);
  }
  ASSIGN_OR_RETURN(const bool special, BoolOr(added, "special", false));
  // Absent means the opposite of `special`, as where the file is written.
  ASSIGN_OR_RETURN(const bool normalized, BoolOr(added, "normalized", !special));

  const auto known = vocab.find(*content);
  if (known != vocab.end() && known->second != id) {
    return InvalidArgument("{} {} has id {} but {} in model.vocab", what, Quoted(*content), id,
                           known->second);
  }
  if (static_cast<size_t>(id) >= out->tokens.size()) out->tokens.resize(id + 1);
  TokenEntry& token = out->tokens[id];
  const bool is_free = token.kind == TokenKind::kNone;
  if (!is_free && (token.kind != TokenKind::kNormal || token.text != *content)) {
    return InvalidArgument("{} {} has id {}, which is {}", what, Quoted(*content), id, Quoted(token.text));
  }
  token = {special ? TokenKind::kSpecial : TokenKind::kAdded, *content, normalized};
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const json& added_tokens, TokenizerModel* out) {
  if (added_tokens.is_null()) return absl::OkStatus();
  if (!added_tokens.is_array()) return InvalidArgument("added_tokens is no array");
  absl::flat_hash_map<std::string, int32_t> vocab;
  for (size_t id = 0; id < out->tokens.size(); ++id) {
    if (out->tokens[id].kind != TokenKind::kNone)
      vocab.emplace(out->tokens[id].text, static_cast<int32_t>(id));
  }
  for (size_t i = 0; i < added_tokens.size(); ++i)
    RETURN_IF_ERROR(ReadAddedToken(added_tokens[i], i, vocab, out));
  return absl::OkStatus();
}

// The steps of a normalizer (`list_key` normalizers), pre-tokenizer (pretokenizers), decoder (decoders) or
// post-processor (processors), sequences taken apart.
absl::Status Flatten(const json& step, const char* list_key, std::vector<const json*>* out) {
  if (!step.is_object()) return InvalidArgument("a step of '{}' is no object", list_key);
  if (Member(step, "type") != "Sequence") {
    out->push_back(&step);
    return absl::OkStatus();
  }
  const json& list = Member(step, list_key);
  if (!list.is_array()) return InvalidArgument("'{}' is no array", list_key);
  for (const json& part : list) RETURN_IF_ERROR(Flatten(part, list_key, out));  // as deep as the JSON may be
  return absl::OkStatus();
}

// Whether the step replaces one string by another.
bool IsReplace(const json& step, std::string_view from, std::string_view to) {
  const json& pattern = Member(step, "pattern");
  return Member(step, "type") == "Replace" && pattern.is_object() && Member(pattern, "String") == from &&
         Member(step, "content") == to;
}

absl::StatusOr<NormalizerKind> ReadNormalizer(const json& normalizer) {
  if (normalizer.is_null()) return NormalizerKind::kNone;
  std::vector<const json*> steps;
  RETURN_IF_ERROR(Flatten(normalizer, "normalizers", &steps));
  if (steps.empty()) return NormalizerKind::kNone;
  for (const json* step : steps) {
    if (steps.size() > 1 || (Member(*step, "type") != "NFC" && !IsReplace(*step, " ", kSpaceMarkUtf8))) {
      return Unimplemented("normalizer {} is not supported", TypeOf(*step));
    }
  }
  return Member(*steps[0], "type") == "NFC" ? NormalizerKind::kNfc : NormalizerKind::kSpaceMarks;
}

// What a SentencePiece-like tokenizer must say beside its model: spaces become marks, and come back.
absl::Status CheckSentencePiece(const json& root, NormalizerKind normalizer) {
  if (normalizer != NormalizerKind::kSpaceMarks) {
    return Unimplemented("a tokenizer with 'byte_fallback' and normalizer {} is not supported",
                         NormalizerName(normalizer));
  }
  const json& pre_tokenizer = Member(root, "pre_tokenizer");
  if (!pre_tokenizer.is_null()) {
    // After the normalizer no space is left to split at.
    const json& pattern = pre_tokenizer.is_object() ? Member(pre_tokenizer, "pattern") : pre_tokenizer;
    if (!pattern.is_object() || Member(pre_tokenizer, "type") != "Split" ||
        Member(pattern, "String") != " " || Member(pre_tokenizer, "invert") != false) {
      return Unimplemented("pre-tokenizer {} is not supported with 'byte_fallback'", TypeOf(pre_tokenizer));
    }
  }
  std::vector<const json*> steps;
  RETURN_IF_ERROR(Flatten(Member(root, "decoder"), "decoders", &steps));
  if (steps.size() != 3 || !IsReplace(*steps[0], kSpaceMarkUtf8, " ") ||
      Member(*steps[1], "type") != "ByteFallback" || Member(*steps[2], "type") != "Fuse") {
    return Unimplemented(
        "a decoder other than Replace, ByteFallback, Fuse is not supported with "
        "'byte_fallback'");
  }
  return absl::OkStatus();
}

absl::Status CheckByteLevel(const json& root, NormalizerKind normalizer) {
  if (normalizer == NormalizerKind::kSpaceMarks) {
    return Unimplemented("normalizer 'Replace' is not supported without 'byte_fallback'");
  }
  const json& decoder = Member(root, "decoder");
  if (!decoder.is_null() && (!decoder.is_object() || Member(decoder, "type") != "ByteLevel")) {
    return Unimplemented("a decoder other than ByteLevel is not supported");
  }
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizerKind> ReadPreTokenizer(const json& pre_tokenizer) {
  if (pre_tokenizer.is_null()) return Unimplemented("a tokenizer without pre-tokenizer is not supported");
  std::vector<const json*> steps;
  RETURN_IF_ERROR(Flatten(pre_tokenizer, "pretokenizers", &steps));
  const absl::Status unknown =
      Unimplemented("pre-tokenizer {} is not supported", pre_tokenizer.dump(-1, ' ', true).substr(0, 400));
  if (steps.empty() || Member(*steps.back(), "type") != "ByteLevel") return unknown;
  ASSIGN_OR_RETURN(const bool add_prefix_space, BoolOr(*steps.back(), "add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool gpt2_regex, BoolOr(*steps.back(), "use_regex", true));
  if (add_prefix_space || steps.size() > 2) return unknown;
  if (steps.size() == 1)
    return gpt2_regex ? absl::StatusOr<PreTokenizerKind>(PreTokenizerKind::kGpt2) : unknown;

  const json& first = *steps[0];
  if (gpt2_regex && Member(first, "type") == "Digits" && Member(first, "individual_digits") == true) {
    return PreTokenizerKind::kSmolLm;
  }
  const json& pattern = Member(first, "pattern");
  if (!gpt2_regex && Member(first, "type") == "Split" && Member(first, "behavior") == "Isolated" &&
      Member(first, "invert") == false && pattern.is_object() && Member(pattern, "Regex").is_string()) {
    return FindPreTokenizerByRegex(Member(pattern, "Regex").get_ref<const std::string&>());
  }
  return unknown;
}

// What a TemplateProcessing post-processor puts before the text. Byte-level ones only move offsets.
absl::Status ReadPostProcessor(const json& post_processor, TokenizerModel* out) {
  if (post_processor.is_null()) return absl::OkStatus();
  std::vector<const json*> steps;
  RETURN_IF_ERROR(Flatten(post_processor, "processors", &steps));
  for (const json* step : steps) {
    const json& type = Member(*step, "type");
    if (type == "ByteLevel") continue;
    const json& single = Member(*step, "single");
    if (type != "TemplateProcessing" || !single.is_array() || !out->prompt_prefix.empty()) {
      return Unimplemented("post-processor {} is not supported", TypeOf(*step));
    }
    bool after_text = false;
    for (const json& piece : single) {
      const json& token = piece.is_object() ? Member(piece, "SpecialToken") : piece;
      if (!token.is_object()) {
        after_text = true;
        continue;
      }
      if (after_text)
        return Unimplemented("a post-processor that adds tokens after the text is not supported");
      const absl::StatusOr<std::string> name = StringAt(token, "id");
      if (!name.ok()) return Annotate(name.status(), "post_processor");
      const auto found = std::find_if(out->tokens.begin(), out->tokens.end(), [&](const TokenEntry& entry) {
        return entry.kind != TokenKind::kNone && entry.text == *name;
      });
      if (found == out->tokens.end())
        return InvalidArgument("post_processor names unknown token {}", Quoted(*name));
      out->prompt_prefix.push_back(static_cast<int32_t>(found - out->tokens.begin()));
      if (out->prompt_prefix.size() > 16) return InvalidArgument("post_processor adds more than 16 tokens");
    }
  }
  return absl::OkStatus();
}

bool EveryByteHasAToken(const json& vocab) {
  return vocab.is_object() &&
         std::all_of(ByteLevelAlphabet().begin(), ByteLevelAlphabet().end(),
                     [&](const std::string& written) { return vocab.contains(written); });
}

}  // namespace

absl::StatusOr<TokenizerModel> ReadTokenizerJson(const std::string& tokenizer_json) {
  if (tokenizer_json.size() > kMaxFileBytes) {
    return InvalidArgument("{} bytes, at most {} are read", tokenizer_json.size(), kMaxFileBytes);
  }
  ASSIGN_OR_RETURN(const json root, formats::ParseJson(tokenizer_json, kJsonLimits));
  if (!root.is_object()) return InvalidArgument("no JSON object");
  const json& model = Member(root, "model");
  if (!model.is_object()) return InvalidArgument("'model' is no object");
  TokenizerModel out;
  ASSIGN_OR_RETURN(const bool byte_fallback, BoolOr(model, "byte_fallback", false));
  if (byte_fallback) out.kind = TokenizerKind::kSentencePiece;
  RETURN_IF_ERROR(CheckModelOptions(model, out.kind, EveryByteHasAToken(Member(model, "vocab"))));
  ASSIGN_OR_RETURN(out.normalizer, ReadNormalizer(Member(root, "normalizer")));
  if (byte_fallback) {
    RETURN_IF_ERROR(CheckSentencePiece(root, out.normalizer));
  } else {
    RETURN_IF_ERROR(CheckByteLevel(root, out.normalizer));
    ASSIGN_OR_RETURN(out.pre_tokenizer, ReadPreTokenizer(Member(root, "pre_tokenizer")));
  }
  ASSIGN_OR_RETURN(out.ignore_merges, BoolOr(model, "ignore_merges", false));
  RETURN_IF_ERROR(ReadVocabulary(Member(model, "vocab"), &out));
  RETURN_IF_ERROR(ReadMerges(Member(model, "merges"), &out));
  RETURN_IF_ERROR(ReadAddedTokens(Member(root, "added_tokens"), &out));
  RETURN_IF_ERROR(ReadPostProcessor(Member(root, "post_processor"), &out));
  return out;
}

}  // namespace tandem::text
