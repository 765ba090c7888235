// Text to token ids and back, as the model's own files define it.
//
// Thread-safe after creation.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/checkpoint.h"

namespace tandem::text {

// A stretch of text and who wrote it: special tokens are recognised in trusted text (the template's own)
// only, so that
// "<|im_end|>" typed by a user stays text.
struct Span {
  std::string text;
  bool trusted = false;
};

class Tokenizer {
 public:
  // From tokenizer.json or GGUF metadata, without added tokens beyond the model's vocab_size. kUnimplemented
  // names a tokenizer type or pre-tokenizer that is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const formats::Checkpoint::TextSources& sources);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(const std::string& tokenizer_json);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const formats::GgufFile& file);
  virtual ~Tokenizer() = default;

  // Nothing (BOS, EOS) is added. Added tokens that are not special are recognised everywhere; special ones
  // where the text is trusted. Neighbouring spans are tokenised as one text: a boundary of trust is no
  // boundary of words. kInvalidArgument if the text is not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::span<const Span> spans) const = 0;
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool special_tokens) const;

  // The bytes a token stands for; a special token's are its own text. Empty for ids that stand for nothing.
  // Requires 0 <= id < vocab_size().
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> FindToken(std::string_view text) const = 0;

  // Ids the tokenizer knows are below this; the model's embedding may have more rows.
  virtual int32_t vocab_size() const = 0;
  // Prefix that the model wants before every prompt that a template did not write (GGUF add_bos_token); often
  // empty.
  virtual std::span<const int32_t> prompt_prefix() const = 0;
  // SHA-256 over vocabulary, merges and added tokens: equal hash, equal ids.
  virtual const std::string& hash() const = 0;
};

}  // namespace tandem::text
