// A tokenizer's tokens, by id and by text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/text/tokenizer_model.h"

namespace tandem::text {

// Immutable after creation, hence thread-safe.
class Vocabulary {
 public:
  // kInvalidArgument names the token that is empty, too long, no UTF-8 or there twice.
  static absl::StatusOr<Vocabulary> Create(const TokenizerModel& model);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  // These require 0 <= id < size().
  TokenKind Kind(int32_t id) const { return At(id).kind; }
  bool IsSpecial(int32_t id) const { return At(id).kind == TokenKind::kSpecial; }
  // The bytes it stands for.
  std::string_view Bytes(int32_t id) const { return At(id).bytes; }
  // By its text as files write it.
  std::optional<int32_t> Find(std::string_view text) const;

 private:
  struct Token {
    TokenKind kind = TokenKind::kNone;
    std::string bytes;
  };
  const Token& At(int32_t id) const;

  std::vector<Token> tokens_;
  absl::flat_hash_map<std::string, int32_t> ids_;
};

// The byte that `text` names if it is written <0x00> to <0xFF>, as SentencePiece's tokens for single bytes
// are.
std::optional<uint8_t> ByteOfToken(std::string_view text);

}  // namespace tandem::text
