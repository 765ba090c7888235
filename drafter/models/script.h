// What a scripted drafter does, from a file of JSON lines. For tests only: of drafts that are known to be
// right or wrong, slow or against the protocol.
//
//   {"block_size": 4, "vocab_size": 512, "confidence": 2.0}    optional, first; all fields optional
//   {"text": [5, 6, 7, 8, 9]}             a sequence that begins like this goes on like this
//   {"position": 12, "tokens": [3, 4]}    behind 12 tokens, whatever they are
//   {"rule": "repeat"}                    else: the last token again; or "successor": the last id + 1, + 2,
//   ..
//   {"delay_ms": 300}                     every round takes that long
//   {"misbehave": "nan_confidence", "every": 10}     in every 10th batch of drafts, default every one
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tandem::drafter {

// What a drafter can do that it must not, to test who checks it. Applied where batches leave
// (service/misbehaviour.h), never by a model.
enum class Misbehaviour {
  kTooManyTokens,    // block size + 1
  kNoTokens,         //
  kIdBeyondVocab,    // the vocabulary's size
  kNegativeId,       //
  kNanConfidence,    //
  kWrongEpoch,       // one later
  kStaleLength,      // one less
  kWrongAnchor,      // another id
  kWrongRound,       // one earlier
  kUnknownSequence,  // an id that was never fed
  kNumberGap,        // of the batch
  kCreditFalls,      //
  kFlood,            // a thousand times the same batch
  kSilence,          // drafts are left out
  kOutOfSync,        // instead of drafts: "have 0"
  kWrongProjection,  // the hello's hash is another; for the whole stream
};

// "too_many_tokens", ... in the enum's order.
const std::vector<std::string>& MisbehaviourNames();

struct Script {
  struct Misdeed {
    Misbehaviour kind;
    int64_t every = 1;  // batches with drafts
  };
  enum class Rule { kRepeat, kSuccessor };

  int32_t block_size = 7;
  int32_t vocab_size = 0;  // 0: any; needed for the successor of the last id
  bool has_confidence = false;
  float confidence = 0;  // logit of every token unless its line says otherwise
  std::vector<std::vector<int32_t>> texts;
  std::map<int32_t, std::vector<int32_t>> by_position;
  Rule rule = Rule::kRepeat;
  absl::Duration delay = absl::ZeroDuration();
  std::vector<Misdeed> misdeeds;
};

// kInvalidArgument with the line's number.
absl::StatusOr<Script> ParseScript(const std::string& text);
// kUnavailable or kInvalidArgument, naming the file.
absl::StatusOr<Script> ReadScript(const std::string& path);

}  // namespace tandem::drafter
