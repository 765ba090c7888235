#include <array>

#include "absl/container/flat_hash_map.h"
#include "common/base/status.h"
#include "common/text/byte_level.h"
#include "common/text/byte_pairs.h"
#include "common/text/merge_list.h"
#include "common/text/plain_encoder.h"

namespace tandem::text {
namespace {

using ByteIds = std::array<int32_t, 256>;  // -1: no token

absl::StatusOr<ByteIds> FindBytes(const Vocabulary& vocabulary) {
  ByteIds ids;
  for (int byte = 0; byte < 256; ++byte) {
    ids[byte] = vocabulary.Find(ByteLevelAlphabet()[byte]).value_or(-1);
    if (ids[byte] >= 0 && vocabulary.IsSpecial(ids[byte])) {
      return InvalidArgument("special token {} is the single byte {}", ids[byte], byte);
    }
  }
  return ids;
}

class ByteLevelEncoder : public PlainEncoder {
 public:
  // With `ignore_merges` a word that is a token needs none.
  ByteLevelEncoder(PreTokenizer pre_tokenizer, const ByteIds& byte_ids, BytePairMerges merges,
                   bool ignore_merges, const Vocabulary& vocabulary)
      : pre_tokenizer_(std::move(pre_tokenizer)), byte_ids_(byte_ids), merges_(std::move(merges)) {
    for (int32_t id = 0; ignore_merges && id < vocabulary.size(); ++id) {
      if (vocabulary.Kind(id) == TokenKind::kNormal)
        words_.try_emplace(std::string(vocabulary.Bytes(id)), id);
    }
  }

  absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const override {
    std::vector<std::string_view> words;
    RETURN_IF_ERROR(pre_tokenizer_.Split(text, &words));
    std::vector<int32_t> symbols;
    for (const std::string_view word : words) {
      if (!words_.empty()) {
        const auto whole = words_.find(absl::string_view(word.data(), word.size()));
        if (whole != words_.end()) {
          ids->push_back(whole->second);
          continue;
        }
      }
      symbols.clear();
      for (const char c : word) {
        const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
        if (id >= 0) symbols.push_back(id);
      }
      merges_.Apply(symbols, ids);
    }
    return absl::OkStatus();
  }

 private:
  // Constant after construction.
  const PreTokenizer pre_tokenizer_;
  const ByteIds byte_ids_;
  const BytePairMerges merges_;
  absl::flat_hash_map<std::string, int32_t> words_;  // normal tokens by their bytes, if merges may be skipped
};

}  // namespace

absl::StatusOr<std::unique_ptr<PlainEncoder>> CreateByteLevelEncoder(const TokenizerModel& model,
                                                                     const Vocabulary& vocabulary) {
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(model.pre_tokenizer));
  ASSIGN_OR_RETURN(const ByteIds byte_ids, FindBytes(vocabulary));
  ASSIGN_OR_RETURN(BytePairMerges merges, BuildMerges(model, vocabulary));
  return std::make_unique<ByteLevelEncoder>(std::move(pre_tokenizer), byte_ids, std::move(merges),
                                            model.ignore_merges, vocabulary);
}

}  // namespace tandem::text
