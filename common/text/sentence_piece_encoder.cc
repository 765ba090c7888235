#include <array>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/text/byte_pairs.h"
#include "common/text/merge_list.h"
#include "common/text/normalizer.h"
#include "common/text/plain_encoder.h"
#include "common/text/utf8.h"

namespace tandem::text {
namespace {

class SentencePieceEncoder : public PlainEncoder {
 public:
  explicit SentencePieceEncoder(BytePairMerges merges) : merges_(std::move(merges)) {}

  absl::Status Init(const Vocabulary& vocabulary, const TokenizerModel& model) {
    byte_ids_.fill(-1);
    for (int32_t id = 0; id < vocabulary.size(); ++id) {
      RETURN_IF_ERROR(AddToken(model.tokens[id], id));
    }
    for (int byte = 0; byte < 256; ++byte) {
      if (byte_ids_[byte] < 0) return InvalidArgument("byte {0} has no token <0x{0:02X}>", byte);
    }
    return absl::OkStatus();
  }

  absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const override {
    std::vector<int32_t> symbols;
    char32_t previous = 0;
    while (!text.empty()) {
      const Utf8Step step = NextUtf8(text);
      TANDEM_CHECK(step.kind == Utf8Step::kValid);
      if (step.code_point == kSpaceMark && !before_space_.contains(previous)) {
        merges_.Apply(symbols, ids);
        symbols.clear();
      }
      const auto symbol = char_ids_.find(step.code_point);
      if (symbol != char_ids_.end()) {
        symbols.push_back(symbol->second);
      } else {
        for (const char c : text.substr(0, step.length)) {
          symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
        }
      }
      previous = step.code_point;
      text.remove_prefix(step.length);
    }
    merges_.Apply(symbols, ids);
    return absl::OkStatus();
  }

 private:
  absl::Status AddToken(const TokenEntry& token, int32_t id) {
    if (token.kind == TokenKind::kNone) return absl::OkStatus();
    if (token.kind == TokenKind::kByte) {
      byte_ids_[*ByteOfToken(token.text)] = id;
      return absl::OkStatus();
    }
    std::string_view rest = token.text;
    char32_t previous = 0;
    for (bool first = true; !rest.empty(); first = false) {
      const Utf8Step step = NextUtf8(rest);
      TANDEM_CHECK(step.kind == Utf8Step::kValid);
      if (!first && step.code_point == kSpaceMark) before_space_.insert(previous);
      previous = step.code_point;
      rest.remove_prefix(step.length);
      if (first && rest.empty()) {
        if (token.kind == TokenKind::kSpecial) {
          return InvalidArgument("special token {} is the single character {}", id,
                                 formats::Quoted(token.text));
        }
        char_ids_[step.code_point] = id;
      }
    }
    return absl::OkStatus();
  }

  // Constant after Init.
  const BytePairMerges merges_;
  absl::flat_hash_map<char32_t, int32_t> char_ids_;
  std::array<int32_t, 256> byte_ids_;
  // What stands before a U+2581 inside some token. After any other character no merge goes across the front
  // of a U+2581, so text is cut there and merged in short pieces: the same ids, found faster.
  absl::flat_hash_set<char32_t> before_space_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PlainEncoder>> CreateSentencePieceEncoder(const TokenizerModel& model,
                                                                         const Vocabulary& vocabulary) {
  ASSIGN_OR_RETURN(BytePairMerges merges, BuildMerges(model, vocabulary));
  auto encoder = std::make_unique<SentencePieceEncoder>(std::move(merges));
  RETURN_IF_ERROR(encoder->Init(vocabulary, model));
  return encoder;
}

}  // namespace tandem::text
