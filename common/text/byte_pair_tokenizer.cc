// The one kind of tokenizer there is: added tokens, a normaliser, and byte pairs in one of two ways.
#include <array>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/text/added_tokens.h"
#include "common/text/normalizer.h"
#include "common/text/plain_encoder.h"
#include "common/text/tokenizer_model.h"
#include "common/text/utf8.h"
#include "common/text/vocabulary.h"

namespace tandem::text {
namespace {

// Symbols of a word are counted in 32 bits.
constexpr size_t kMaxTextBytes = 1 << 30;

class BytePairTokenizer : public Tokenizer {
 public:
  BytePairTokenizer(Vocabulary vocabulary, std::unique_ptr<PlainEncoder> encoder)
      : vocabulary_(std::move(vocabulary)), encoder_(std::move(encoder)) {}

  absl::Status Init(TokenizerModel model);

  using Tokenizer::Encode;
  absl::StatusOr<std::vector<int32_t>> Encode(std::span<const Span> spans) const override;

  std::string_view TokenBytes(int32_t id) const override { return vocabulary_.Bytes(id); }
  bool IsSpecial(int32_t id) const override { return vocabulary_.IsSpecial(id); }
  std::optional<int32_t> FindToken(std::string_view text) const override { return vocabulary_.Find(text); }
  int32_t vocab_size() const override { return vocabulary_.size(); }
  std::span<const int32_t> prompt_prefix() const override { return prompt_prefix_; }
  const std::string& hash() const override { return hash_; }

 private:
  // text[begin, end), in which the first pass found no added token.
  absl::Status EncodeUnnormalized(std::string_view text, size_t begin, size_t end,
                                  const TrustedRanges& trusted, std::vector<int32_t>* ids) const;

  // Constant after Init.
  const Vocabulary vocabulary_;
  const std::unique_ptr<PlainEncoder> encoder_;
  NormalizerKind normalizer_ = NormalizerKind::kNone;
  std::array<AddedTokenMatcher, 2> added_;  // those looked for before normalisation, and after
  std::vector<int32_t> prompt_prefix_;
  std::string hash_;
};

std::string Hash(const TokenizerModel& model) {
  // Every text goes with its length, so that no two descriptions are written alike.
  Sha256 sha;
  sha.Update(fmt::format(
      "{} {} {} {}\n", model.kind == TokenizerKind::kByteLevel ? "byte-level" : "sentencepiece",
      PreTokenizerName(model.pre_tokenizer), NormalizerName(model.normalizer), model.ignore_merges));
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    const TokenEntry& token = model.tokens[id];
    if (token.kind == TokenKind::kNone) continue;
    sha.Update(fmt::format("token {} {} {} {}:{}\n", id, static_cast<int>(token.kind), token.second_pass,
                           token.text.size(), token.text));
  }
  for (const auto& [left, right] : model.merges) {
    sha.Update(fmt::format("merge {}:{} {}:{}\n", left.size(), left, right.size(), right));
  }
  for (const double score : model.scores) sha.Update(fmt::format("score {}\n", score));
  return sha.Finish();
}

// Appends the ids of text[begin, end): those of `matcher`'s tokens, and between them what `encode_between`
// makes of a stretch [begin, end).
template <typename EncodeBetween>
absl::Status EncodeAround(const AddedTokenMatcher& matcher, std::string_view text, size_t begin, size_t end,
                          const TrustedRanges& trusted, std::vector<int32_t>* ids,
                          const EncodeBetween& encode_between) {
  while (begin < end) {
    const AddedTokenMatcher::Match match = matcher.Find(text, begin, end, trusted);
    const size_t stop = match.id < 0 ? end : match.begin;
    if (begin < stop) RETURN_IF_ERROR(encode_between(begin, stop));
    if (match.id < 0) break;
    ids->push_back(match.id);
    begin = match.end;
  }
  return absl::OkStatus();
}

absl::Status BytePairTokenizer::Init(TokenizerModel model) {
  normalizer_ = model.normalizer;
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const TokenEntry& entry = model.tokens[id];
    if (entry.kind != TokenKind::kAdded && entry.kind != TokenKind::kSpecial) continue;
    std::string normalized;
    const std::string_view text =
        entry.second_pass ? Normalize(normalizer_, entry.text, &normalized) : std::string_view(entry.text);
    added_[entry.second_pass ? 1 : 0].Add(text, id, entry.kind == TokenKind::kSpecial);
  }
  for (const int32_t id : model.prompt_prefix) {
    if (id < 0 || id >= vocab_size() || vocabulary_.Kind(id) == TokenKind::kNone) {
      return InvalidArgument("prompt prefix has id {}, which is no token", id);
    }
  }
  prompt_prefix_ = std::move(model.prompt_prefix);
  hash_ = Hash(model);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> BytePairTokenizer::Encode(std::span<const Span> spans) const {
  std::string text;
  TrustedRanges trusted;
  for (const Span& span : spans) {
    if (span.text.size() > kMaxTextBytes - text.size()) {
      return InvalidArgument("text has more than {} bytes", kMaxTextBytes);
    }
    if (span.trusted) trusted.Add(text.size(), text.size() + span.text.size());
    text += span.text;
  }
  const size_t bad = FindIllFormedUtf8(text);
  if (bad != std::string::npos) return InvalidArgument("text is not UTF-8 at byte {}", bad);
  std::vector<int32_t> ids;
  RETURN_IF_ERROR(EncodeAround(added_[0], text, 0, text.size(), trusted, &ids, [&](size_t begin, size_t end) {
    return EncodeUnnormalized(text, begin, end, trusted, &ids);
  }));
  return ids;
}

absl::Status BytePairTokenizer::EncodeUnnormalized(std::string_view text, size_t begin, size_t end,
                                                   const TrustedRanges& trusted,
                                                   std::vector<int32_t>* ids) const {
  std::string storage;
  const std::string_view raw = text.substr(begin, end - begin);
  const std::string_view normalized = Normalize(normalizer_, raw, &storage);
  if (added_[1].empty()) return encoder_->Encode(normalized, ids);
  const auto encode_around = [&](std::string_view around, size_t from, size_t to,
                                 const TrustedRanges& ranges) {
    return EncodeAround(added_[1], around, from, to, ranges, ids, [&](size_t first, size_t last) {
      return encoder_->Encode(around.substr(first, last - first), ids);
    });
  };
  if (normalized.data() == raw.data()) return encode_around(text, begin, end, trusted);
  // Characters have moved: special tokens are recognised only where all of it is trusted.
  TrustedRanges moved;
  if (trusted.Contains(begin, end)) moved.Add(0, normalized.size());
  return encode_around(normalized, 0, normalized.size(), moved);
}

absl::StatusOr<std::unique_ptr<PlainEncoder>> CreateEncoder(const TokenizerModel& model,
                                                            const Vocabulary& vocabulary) {
  switch (model.kind) {
    case TokenizerKind::kByteLevel:
      return CreateByteLevelEncoder(model, vocabulary);
    case TokenizerKind::kSentencePiece:
      return CreateSentencePieceEncoder(model, vocabulary);
  }
  TANDEM_CHECK(false);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> BuildTokenizer(TokenizerModel model) {
  ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Create(model));
  ASSIGN_OR_RETURN(std::unique_ptr<PlainEncoder> encoder, CreateEncoder(model, vocabulary));
  auto tokenizer = std::make_unique<BytePairTokenizer>(std::move(vocabulary), std::move(encoder));
  RETURN_IF_ERROR(tokenizer->Init(std::move(model)));
  return tokenizer;
}

}  // namespace tandem::text
