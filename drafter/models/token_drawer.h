// How the next draft is drawn from its logits.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "common/sampling/sampler.h"
#include "drafter/models/draft_model.h"

namespace tandem::drafter {

// The logits of the tokens that may be drawn.
struct DraftLogits {
  std::span<const float> values;
  std::span<const int32_t> ids;  // their target ids, ascending; empty: value i is that of id i

  int32_t id(size_t i) const { return ids.empty() ? static_cast<int32_t>(i) : ids[i]; }
};

// One request's; reused between calls.
struct DrawScratch {
  sampling::Scratch sampling;
  std::vector<std::pair<float, int32_t>> candidates;
};

// Thread-safe with separate scratch: draws of different requests run at once.
class TokenDrawer {
 public:
  virtual ~TokenDrawer() = default;

  // The request's draft number k, counted from 1, that is for position start + k. `distribution` is null
  // unless its values are wanted.
  virtual int32_t Draw(const DraftRequest& request, int32_t k, const DraftLogits& logits,
                       DrawScratch& scratch,
                       std::vector<speculation::TokenProbability>* distribution) const = 0;
};

// The drawer in service. T = the request's temperature; below 1e-5 the draft is the argmax (ties: lowest id).
//
// The request's top_k, top_p and min_p leave the same part of the drafter's law as they would of the target's
// (of what may be drawn: under a reduced vocabulary shares are of its total). From that part:
//
// Coupled: argmax(logit / T + g), g the noise of the target's own choice: seed, absolute index, target id,
// stream kCoupled.
// Rejection: q = softmax(logit / T) of the top_m largest logits; the draft is a sample of q with noise of
// stream kDrafter + 4 r, r = (epoch mod 1024) * 2^20 + round, and q is the distribution.
//
// Logits of which none is a finite number (a peer may send any rows) give the lowest id, as if certain.
class NoiseDrawer : public TokenDrawer {
 public:
  explicit NoiseDrawer(const DrawMode& mode);  // rejection: top_m >= 1

  int32_t Draw(const DraftRequest& request, int32_t k, const DraftLogits& logits, DrawScratch& scratch,
               std::vector<speculation::TokenProbability>* distribution) const override;

 private:
  const DrawMode mode_;
};

// Tag of the drafter's own noise.
uint32_t DrafterNoiseTag(uint32_t epoch, uint32_t round);

}  // namespace tandem::drafter
