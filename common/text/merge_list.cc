#include "common/text/merge_list.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "common/formats/quoted.h"

namespace tandem::text {
namespace {

using formats::Quoted;

bool TakesPart(TokenKind kind) { return kind == TokenKind::kNormal || kind == TokenKind::kAdded; }

absl::StatusOr<BytePairMerges> FromList(const TokenizerModel& model, const Vocabulary& vocabulary) {
  BytePairMerges out;
  const int64_t n = model.merges.size();
  if (n > kMaxMerges) return InvalidArgument("{} merges, at most {} are supported", n, kMaxMerges);
  for (int32_t i = 0; i < n; ++i) {
    const auto& [left, right] = model.merges[i];
    int32_t ids[3];
    const std::string merged = left + right;
    const std::string* texts[3] = {&left, &right, &merged};
    for (int part = 0; part < 3; ++part) {
      const std::optional<int32_t> id = vocabulary.Find(*texts[part]);
      if (!id.has_value()) return InvalidArgument("merge {} names unknown token {}", i, Quoted(*texts[part]));
      if (!TakesPart(vocabulary.Kind(*id))) {
        return InvalidArgument("merge {} has {} token {}", i, vocabulary.IsSpecial(*id) ? "special" : "byte",
                               Quoted(*texts[part]));
      }
      ids[part] = *id;
    }
    if (!out.Add(ids[0], ids[1], ids[2], i)) {
      return InvalidArgument("merge {} repeats {} {}", i, Quoted(left), Quoted(right));
    }
  }
  return out;
}

// Tokens that merging may make, the highest score first.
absl::StatusOr<std::vector<int32_t>> ByScore(const TokenizerModel& model) {
  if (model.scores.size() != model.tokens.size()) {
    return InvalidArgument("{} scores for {} tokens", model.scores.size(), model.tokens.size());
  }
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < static_cast<int32_t>(model.tokens.size()); ++id) {
    if (!TakesPart(model.tokens[id].kind)) continue;
    if (!std::isfinite(model.scores[id])) return InvalidArgument("the score of token {} is not finite", id);
    const size_t size = model.tokens[id].text.size();
    if (size > kMaxScoredTokenBytes) {
      return InvalidArgument("token {} has {} bytes, at most {} are supported with scores", id, size,
                             kMaxScoredTokenBytes);
    }
    ids.push_back(id);
  }
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return model.scores[a] > model.scores[b]; });
  return ids;
}

absl::StatusOr<BytePairMerges> FromScores(const TokenizerModel& model, const Vocabulary& vocabulary) {
  BytePairMerges out;
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ByScore(model));
  int32_t rank = 0;  // tokens of equal score share one
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0 && model.scores[ids[i]] < model.scores[ids[i - 1]]) ++rank;
    const std::string_view text = model.tokens[ids[i]].text;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = vocabulary.Find(text.substr(0, cut));
      if (!left.has_value() || !TakesPart(vocabulary.Kind(*left))) continue;
      const auto right = vocabulary.Find(text.substr(cut));
      if (!right.has_value() || !TakesPart(vocabulary.Kind(*right))) continue;
      if (static_cast<int64_t>(out.size()) == kMaxMerges) {
        return InvalidArgument("tokens can be merged in more than {} ways", kMaxMerges);
      }
      TANDEM_CHECK(out.Add(*left, *right, ids[i], rank));  // no two tokens have one text
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<BytePairMerges> BuildMerges(const TokenizerModel& model, const Vocabulary& vocabulary) {
  return model.scores.empty() ? FromList(model, vocabulary) : FromScores(model, vocabulary);
}

}  // namespace tandem::text
