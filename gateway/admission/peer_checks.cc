#include "gateway/admission/peer_checks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "common/base/status.h"
#include "common/rpc/protocol_version.h"
#include "gateway/errors.h"
#include "gateway/limits.h"

namespace tandem::gateway {
namespace {

using rpc::kProtocolMajor;
using rpc::kProtocolMinor;
using rpc::kSamplingVersion;

template <typename Mine, typename Theirs>
HelloMismatch Mismatch(const char* field, const Mine& mine, const Theirs& theirs) {
  return {field, fmt::format("{}: gateway {}, verifier {}", field, mine, theirs)};
}

constexpr size_t kMaxRoundEntries = 65;  // windows of 0..64 accepted drafts

bool GoodLogprobs(const sampling::TokenLogprobs& logprobs, int32_t num_top, int32_t vocab_size) {
  // -inf is a fact (a token that cannot be drawn from the raw distribution); NaN and positive numbers are
  // not.
  const auto good = [](float value) { return value <= 1e-3f; };
  if (!good(logprobs.chosen) || logprobs.top.size() != static_cast<size_t>(std::min(num_top, vocab_size)))
    return false;
  return std::all_of(logprobs.top.begin(), logprobs.top.end(), [&](const auto& entry) {
    return entry.first >= 0 && entry.first < vocab_size && good(entry.second);
  });
}

// At most a window per checked draft, and together what was accepted.
bool GoodRounds(const SequenceReport& report) {
  if (report.rounds_by_accepted.size() > kMaxRoundEntries) return false;
  uint64_t rounds = 0, accepted = 0;
  for (size_t i = 0; i < report.rounds_by_accepted.size(); ++i) {
    const uint64_t count = report.rounds_by_accepted[i];
    if (count > report.checked) return false;  // and no sum overflows
    rounds += count;
    accepted += i * count;
  }
  return report.rounds_by_accepted.empty() || (rounds <= report.checked && accepted == report.accepted);
}

}  // namespace

std::optional<HelloMismatch> CheckHello(const VerifierHello& hello, const ExpectedVerifier& expected) {
  if (hello.protocol_major != kProtocolMajor || hello.protocol_minor < kProtocolMinor) {
    return Mismatch("protocol", fmt::format("{}.{}", kProtocolMajor, kProtocolMinor),
                    fmt::format("{}.{}", hello.protocol_major, hello.protocol_minor));
  }
  if (hello.sampling_version != kSamplingVersion) {
    return Mismatch("sampling_version", kSamplingVersion, hello.sampling_version);
  }
  if (hello.identity.fingerprint.empty())
    return HelloMismatch{"model_fingerprint", "model_fingerprint is empty"};
  if (hello.identity.numerics_id.empty()) return HelloMismatch{"numerics_id", "numerics_id is empty"};
  if (expected.identity && expected.identity->fingerprint != hello.identity.fingerprint) {
    return Mismatch("model_fingerprint", expected.identity->fingerprint,
                    EscapedValue(hello.identity.fingerprint));
  }
  if (expected.identity && expected.identity->numerics_id != hello.identity.numerics_id) {
    return Mismatch("numerics_id", expected.identity->numerics_id, EscapedValue(hello.identity.numerics_id));
  }
  if (!hello.tokenizer_hash.empty() && hello.tokenizer_hash != expected.tokenizer_hash) {
    return Mismatch("tokenizer_hash", expected.tokenizer_hash, EscapedValue(hello.tokenizer_hash));
  }
  if (hello.vocab_size != static_cast<uint32_t>(expected.vocab_size)) {
    return Mismatch("vocab_size", expected.vocab_size, hello.vocab_size);
  }
  const uint32_t most = std::numeric_limits<int32_t>::max();
  if (hello.max_model_len < 2 || hello.max_model_len > most)
    return Mismatch("max_model_len", "2..2^31-1", hello.max_model_len);
  if (hello.kv_block_positions < 1 || hello.kv_block_positions > 65536) {
    return Mismatch("kv_block_positions", "1..65536", hello.kv_block_positions);
  }
  if (hello.kv_total_blocks < 1 || hello.kv_total_blocks > most) {
    return Mismatch("kv_total_blocks", "1..2^31-1", hello.kv_total_blocks);
  }
  if (hello.max_sequences < 1 || hello.max_sequences > 1'000'000) {
    return Mismatch("max_sequences", "1..1000000", hello.max_sequences);
  }
  if (hello.eos_token_ids.size() > limits::kStopIdsPerSequence - limits::kStopTokenIds) {
    return Mismatch("eos_token_ids", "at most 48 of them", hello.eos_token_ids.size());
  }
  for (const int32_t id : hello.eos_token_ids) {
    if (id < 0 || id >= expected.vocab_size) return Mismatch("eos_token_ids", "ids below vocab_size", id);
  }
  // Other ends of text mean other files, even where the weights are the same.
  const std::set<int32_t> theirs(hello.eos_token_ids.begin(), hello.eos_token_ids.end());
  const std::set<int32_t> ours(expected.eos_token_ids.begin(), expected.eos_token_ids.end());
  if (theirs != ours)
    return Mismatch("eos_token_ids", fmt::format("{}", fmt::join(ours, ",")),
                    fmt::format("{}", fmt::join(theirs, ",")));
  return std::nullopt;
}

const char* CheckSequenceReport(const SequenceReport& report, const KnownSequence& known,
                                int32_t vocab_size) {
  const uint64_t own_length = known.ids.size();
  const uint64_t num_new = report.token_ids.size();
  if (report.first_index > own_length) return "gap";
  if (report.first_index + num_new != report.length) return "length";
  if (report.length > static_cast<uint64_t>(known.prompt_length) + static_cast<uint64_t>(known.max_tokens))
    return "max_length";
  for (const int32_t id : report.token_ids) {
    if (id < 0 || id >= vocab_size) return "token_id";
  }
  // A repeat must say what was said before.
  const uint64_t overlap = std::min(own_length - report.first_index, num_new);
  if (!std::equal(report.token_ids.begin(), report.token_ids.begin() + static_cast<ptrdiff_t>(overlap),
                  known.ids.begin() + report.first_index)) {
    return "repeat";
  }
  if (report.computed_length > std::max<uint64_t>(report.length, own_length)) return "computed_length";
  if (report.cached_length > report.computed_length) return "cached_length";
  if (!(report.accepted <= report.checked && report.checked <= report.drafted)) return "accepted";
  if (!report.drafted_marks.empty() &&
      (report.drafted_marks.size() != num_new ||
       report.drafted_marks.find_first_not_of(std::string_view("\0\1", 2)) != std::string::npos)) {
    return "drafted_marks";
  }
  if (report.drafted > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()) * 1024) return "drafted";
  if (!GoodRounds(report)) return "rounds";

  if (known.num_logprobs) {
    if (report.logprobs.size() != num_new) return "logprobs";
    for (const sampling::TokenLogprobs& logprobs : report.logprobs) {
      if (!GoodLogprobs(logprobs, *known.num_logprobs, vocab_size)) return "logprobs";
    }
  }

  const uint64_t length = std::max<uint64_t>(report.length, own_length);
  const int32_t last = num_new > 0 && report.length == length ? report.token_ids.back() : known.ids.back();
  const uint64_t num_output = length - static_cast<uint64_t>(known.prompt_length);
  switch (report.end) {
    case SequenceEnd::kStop:
      if (num_output == 0 || std::find(known.stop_token_ids.begin(), known.stop_token_ids.end(), last) ==
                                 known.stop_token_ids.end()) {
        return "end";
      }
      break;
    case SequenceEnd::kLength:
      if (num_output != static_cast<uint64_t>(known.max_tokens)) return "end";
      break;
    case SequenceEnd::kFailed:
      if (report.error.ok()) return "end";
      break;
    case SequenceEnd::kCancelled:  // nobody asked for it
    case SequenceEnd::kUnknown:
      return "end";
    case SequenceEnd::kRunning:
    case SequenceEnd::kPreempted:
      break;
  }
  return nullptr;
}

const char* CheckReport(const Report& report, uint64_t expected_number, uint64_t last_plan_number,
                        const VerifierHello& hello) {
  if (report.number != expected_number) return "number";
  if (report.plan_number > last_plan_number) return "plan_number";
  const uint64_t blocks = uint64_t{report.kv_free_blocks} + report.kv_cached_blocks;
  if (blocks > hello.kv_total_blocks) return "kv_blocks";
  if (report.sequence_share > hello.max_sequences) return "sequence_share";
  if (!std::isfinite(report.utilization) || report.utilization < 0) return "utilization";
  return nullptr;
}

}  // namespace tandem::gateway
