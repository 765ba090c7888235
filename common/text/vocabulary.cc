#include "common/text/vocabulary.h"

#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/byte_level.h"
#include "common/text/normalizer.h"
#include "common/text/utf8.h"

namespace tandem::text {
namespace {

using formats::Quoted;

absl::Status CheckText(const TokenEntry& entry, int32_t id) {
  const size_t limit = entry.kind == TokenKind::kNormal ? kMaxTokenBytes : kMaxAddedTokenBytes;
  if (entry.text.empty()) return InvalidArgument("token {} is empty", id);
  if (entry.text.size() > limit) {
    return InvalidArgument("token {} has {} bytes, at most {} are supported", id, entry.text.size(), limit);
  }
  if (FindIllFormedUtf8(entry.text) != std::string::npos) return InvalidArgument("token {} is not UTF-8", id);
  if (entry.kind == TokenKind::kByte && !ByteOfToken(entry.text).has_value()) {
    return InvalidArgument("byte token {} is {}, not <0x00> to <0xFF>", id, Quoted(entry.text));
  }
  return absl::OkStatus();
}

std::string BytesOf(const TokenEntry& entry, TokenizerKind kind) {
  if (entry.kind == TokenKind::kByte) return std::string(1, static_cast<char>(*ByteOfToken(entry.text)));
  if (kind == TokenizerKind::kSentencePiece) return SpacesFromMarks(entry.text);
  // What is not written in the alphabet stands for its own text; no merge can make it.
  if (entry.kind == TokenKind::kNormal) return DecodeByteLevel(entry.text).value_or(entry.text);
  return entry.text;
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Create(const TokenizerModel& model) {
  const int64_t n = model.tokens.size();
  if (n == 0) return InvalidArgument("the vocabulary is empty");
  if (n > kMaxTokens)
    return InvalidArgument("vocabulary has {} ids, at most {} are supported", n, kMaxTokens);
  Vocabulary out;
  out.tokens_.resize(n);
  out.ids_.reserve(n);
  for (int32_t id = 0; id < n; ++id) {
    const TokenEntry& entry = model.tokens[id];
    if (entry.kind == TokenKind::kNone) continue;
    RETURN_IF_ERROR(CheckText(entry, id));
    const auto [known, is_new] = out.ids_.try_emplace(entry.text, id);
    if (!is_new)
      return InvalidArgument("tokens {} and {} are both {}", known->second, id, Quoted(entry.text));
    out.tokens_[id] = {entry.kind, BytesOf(entry, model.kind)};
  }
  return out;
}

const Vocabulary::Token& Vocabulary::At(int32_t id) const {
  TANDEM_CHECK(id >= 0 && id < size());
  return tokens_[id];
}

std::optional<int32_t> Vocabulary::Find(std::string_view text) const {
  // Debian's absl::string_view is a type of its own.
  const auto found = ids_.find(absl::string_view(text.data(), text.size()));
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::optional<uint8_t> ByteOfToken(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  int byte = 0;
  for (const char c : text.substr(3, 2)) {
    const bool is_digit = c >= '0' && c <= '9';
    if (!is_digit && !(c >= 'A' && c <= 'F')) return std::nullopt;
    byte = byte * 16 + (is_digit ? c - '0' : c - 'A' + 10);
  }
  return static_cast<uint8_t>(byte);
}

}  // namespace tandem::text
