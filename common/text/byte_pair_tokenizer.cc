// The one kind of tokenizer there is so far: added tokens, a pre-tokenizer, byte-level BPE.
#include <array>

#include "absl/container/flat_hash_map.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/added_tokens.h"
#include "common/text/byte_level.h"
#include "common/text/byte_pairs.h"
#include "common/text/tokenizer_model.h"
#include "common/text/utf8.h"

namespace tandem::text {
namespace {

// Symbols of a word are counted in 32 bits.
constexpr size_t kMaxTextBytes = 1 << 30;

using formats::Quoted;

// For look-ups; Debian's absl::string_view is a type of its own.
absl::string_view Key(std::string_view text) { return {text.data(), text.size()}; }

class BytePairTokenizer : public Tokenizer {
 public:
  explicit BytePairTokenizer(PreTokenizer pre_tokenizer) : pre_tokenizer_(std::move(pre_tokenizer)) {}

  absl::Status Init(TokenizerModel model) {
    RETURN_IF_ERROR(AddTokens(model));
    RETURN_IF_ERROR(AddMerges(model));
    ignore_merges_ = model.ignore_merges;
    for (const int32_t id : model.prompt_prefix) {
      if (id < 0 || id >= vocab_size() || tokens_[id].kind == TokenKind::kNone) {
        return InvalidArgument("prompt prefix has id {}, which is no token", id);
      }
    }
    prompt_prefix_ = std::move(model.prompt_prefix);
    hash_ = Hash(model);
    return absl::OkStatus();
  }

  using Tokenizer::Encode;
  absl::StatusOr<std::vector<int32_t>> Encode(std::span<const Span> spans) const override;

  std::string_view TokenBytes(int32_t id) const override { return At(id).bytes; }
  bool IsSpecial(int32_t id) const override { return At(id).kind == TokenKind::kSpecial; }
  std::optional<int32_t> FindToken(std::string_view text) const override {
    const auto found = ids_.find(Key(text));
    if (found == ids_.end()) return std::nullopt;
    return found->second;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::span<const int32_t> prompt_prefix() const override { return prompt_prefix_; }
  const std::string& hash() const override { return hash_; }

 private:
  struct Token {
    TokenKind kind = TokenKind::kNone;
    std::string bytes;
  };

  const Token& At(int32_t id) const {
    TANDEM_CHECK(id >= 0 && id < vocab_size());
    return tokens_[id];
  }

  absl::Status AddTokens(const TokenizerModel& model);
  absl::Status AddMerges(const TokenizerModel& model);
  static std::string Hash(const TokenizerModel& model);

  // The parts of text[begin, end) between the added tokens of pass `pass` go through the later passes.
  absl::Status EncodeRange(std::string_view text, size_t begin, size_t end, const TrustedRanges& trusted,
                           size_t pass, std::vector<int32_t>* ids) const;
  absl::Status EncodePlain(std::string_view text, std::vector<int32_t>* ids) const;

  // Constant after Init.
  PreTokenizer pre_tokenizer_;
  std::vector<Token> tokens_;
  absl::flat_hash_map<std::string, int32_t> ids_;    // by text as files write it
  absl::flat_hash_map<std::string, int32_t> words_;  // normal tokens by their bytes, if merges may be skipped
  std::array<int32_t, 256> byte_ids_;                // -1: no token
  std::array<AddedTokenMatcher, 2> added_;
  BytePairMerges merges_;
  bool ignore_merges_ = false;
  std::vector<int32_t> prompt_prefix_;
  std::string hash_;
};

absl::Status BytePairTokenizer::AddTokens(const TokenizerModel& model) {
  const int64_t n = model.tokens.size();
  if (n == 0) return InvalidArgument("the vocabulary is empty");
  if (n > kMaxTokens)
    return InvalidArgument("vocabulary has {} ids, at most {} are supported", n, kMaxTokens);
  tokens_.resize(n);
  for (int32_t id = 0; id < n; ++id) {
    const TokenEntry& entry = model.tokens[id];
    if (entry.kind == TokenKind::kNone) continue;
    const bool added = entry.kind != TokenKind::kNormal;
    const size_t limit = added ? kMaxAddedTokenBytes : kMaxTokenBytes;
    if (entry.text.empty()) return InvalidArgument("token {} is empty", id);
    if (entry.text.size() > limit) {
      return InvalidArgument("token {} has {} bytes, at most {} are supported", id, entry.text.size(), limit);
    }
    if (FindIllFormedUtf8(entry.text) != std::string::npos)
      return InvalidArgument("token {} is not UTF-8", id);
    const auto [known, is_new] = ids_.try_emplace(entry.text, id);
    if (!is_new)
      return InvalidArgument("tokens {} and {} are both {}", known->second, id, Quoted(entry.text));

    Token& token = tokens_[id];
    token.kind = entry.kind;
    if (added) {
      token.bytes = entry.text;
      added_[entry.second_pass ? 1 : 0].Add(entry.text, id, entry.kind == TokenKind::kSpecial);
    } else {
      // What is not written in the alphabet stands for its own text; no merge can make it.
      token.bytes = DecodeByteLevel(entry.text).value_or(entry.text);
      if (model.ignore_merges) words_.try_emplace(token.bytes, id);
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = FindToken(ByteLevelAlphabet()[byte]).value_or(-1);
    if (byte_ids_[byte] >= 0 && IsSpecial(byte_ids_[byte])) {
      return InvalidArgument("special token {} is the single byte {}", byte_ids_[byte], byte);
    }
  }
  return absl::OkStatus();
}

absl::Status BytePairTokenizer::AddMerges(const TokenizerModel& model) {
  const int64_t n = model.merges.size();
  if (n > kMaxMerges) return InvalidArgument("{} merges, at most {} are supported", n, kMaxMerges);
  for (int64_t i = 0; i < n; ++i) {
    const auto& [left, right] = model.merges[i];
    int32_t ids[3];
    const std::string* texts[3] = {&left, &right};
    const std::string merged = left + right;
    texts[2] = &merged;
    for (int part = 0; part < 3; ++part) {
      const std::optional<int32_t> id = FindToken(*texts[part]);
      if (!id.has_value()) return InvalidArgument("merge {} names unknown token {}", i, Quoted(*texts[part]));
      // Otherwise what a user types could become a control token.
      if (IsSpecial(*id)) return InvalidArgument("merge {} has special token {}", i, Quoted(*texts[part]));
      ids[part] = *id;
    }
    if (!merges_.Add(ids[0], ids[1], ids[2])) {
      return InvalidArgument("merge {} repeats {} {}", i, Quoted(left), Quoted(right));
    }
  }
  return absl::OkStatus();
}

std::string BytePairTokenizer::Hash(const TokenizerModel& model) {
  // Every text goes with its length, so that no two descriptions are written alike.
  Sha256 sha;
  sha.Update(fmt::format("byte-level {} {}\n", PreTokenizerName(model.pre_tokenizer), model.ignore_merges));
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    const TokenEntry& token = model.tokens[id];
    if (token.kind == TokenKind::kNone) continue;
    sha.Update(fmt::format("token {} {} {} {}:{}\n", id, static_cast<int>(token.kind), token.second_pass,
                           token.text.size(), token.text));
  }
  for (const auto& [left, right] : model.merges) {
    sha.Update(fmt::format("merge {}:{} {}:{}\n", left.size(), left, right.size(), right));
  }
  return sha.Finish();
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
  RETURN_IF_ERROR(EncodeRange(text, 0, text.size(), trusted, 0, &ids));
  return ids;
}

absl::Status BytePairTokenizer::EncodeRange(std::string_view text, size_t begin, size_t end,
                                            const TrustedRanges& trusted, size_t pass,
                                            std::vector<int32_t>* ids) const {
  if (pass == added_.size()) return EncodePlain(text.substr(begin, end - begin), ids);
  while (begin < end) {
    const AddedTokenMatcher::Match match = added_[pass].Find(text, begin, end, trusted);
    if (match.id < 0) return EncodeRange(text, begin, end, trusted, pass + 1, ids);
    RETURN_IF_ERROR(EncodeRange(text, begin, match.begin, trusted, pass + 1, ids));
    ids->push_back(match.id);
    begin = match.end;
  }
  return absl::OkStatus();
}

absl::Status BytePairTokenizer::EncodePlain(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.empty()) return absl::OkStatus();
  std::vector<std::string_view> words;
  RETURN_IF_ERROR(pre_tokenizer_.Split(text, &words));
  std::vector<int32_t> symbols;
  for (const std::string_view word : words) {
    if (ignore_merges_) {
      const auto whole = words_.find(Key(word));
      if (whole != words_.end()) {
        ids->push_back(whole->second);
        continue;
      }
    }
    symbols.clear();
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) symbols.push_back(id);  // a byte without a token is lost
    }
    merges_.Apply(symbols, ids);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> BuildTokenizer(TokenizerModel model) {
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(model.pre_tokenizer));
  auto tokenizer = std::make_unique<BytePairTokenizer>(std::move(pre_tokenizer));
  RETURN_IF_ERROR(tokenizer->Init(std::move(model)));
  return tokenizer;
}

}  // namespace tandem::text
