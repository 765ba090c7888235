// The gateway's core as its two front doors see it: a request goes in, events come out.
//
//   doors (gateway/http, gateway/grpc) parse bytes into a GenerationRequest and write events; nothing else
//   Generator                          validates, renders, tokenises, queues, batches, recovers, detokenises
//
// Errors are the named functions of gateway/errors.h; a door maps their code and reason to its protocol.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/sampling/sampler.h"
#include "nlohmann/json.hpp"

namespace tandem::gateway {

// As a client wrote it, before any check of values: an absent optional takes service defaults. Integers are
// wide so that a value out of range can be named in the error.
struct GenerationRequest {
  std::string model;
  std::string request_id;   // empty or malformed: replaced
  std::string traceparent;  // W3C; malformed: dropped, and tracestate with it
  std::string tracestate;   // W3C; malformed: dropped
  std::string api;          // "chat", "completions" or "grpc", for logs and metrics

  // The input: either a conversation (array of {"role", "content"}) or prompts, each text or token ids.
  using Prompt = std::variant<std::string, std::vector<int64_t>>;
  std::optional<nlohmann::ordered_json> messages;
  std::vector<Prompt> prompts;
  bool prompt_list = false;  // P: prompts came as a list
  std::map<std::string, bool> chat_template_kwargs;
  bool echo = false;

  std::optional<int64_t> max_tokens;
  std::optional<int64_t> default_max_tokens;  // P: 16; absent: the rest of the context
  std::optional<int64_t> min_tokens;
  bool ignore_eos = false;
  std::optional<int64_t> n;
  std::optional<int64_t> priority;
  std::optional<double> tpot_target_ms;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<int64_t> top_k;
  std::vector<std::pair<int64_t, double>> logit_bias;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_token_ids;
  std::optional<int64_t> num_logprobs;

  absl::Time deadline = absl::InfiniteFuture();  // capped by the service's own
};

// Text or a conversation to ids, as a generation would see it. Exactly one of text and messages.
struct TokenizeRequest {
  std::string model;
  std::optional<std::string> text;
  std::optional<nlohmann::ordered_json> messages;
  std::map<std::string, bool> chat_template_kwargs = {};
};

struct Started {
  std::string request_id;
  uint64_t seed = 0;
  std::vector<int32_t> prompt_tokens;  // per prompt
  int32_t cached_prompt_tokens = 0;    // of choice 0, from the verifier's prefix cache
  std::string system_fingerprint;
  std::string model;
};

struct DeltaToken {
  int32_t id = 0;
  bool drafted = false;  // the drafter guessed it and the model agreed
  // With logprobs only: the token's bytes and its own value, and the likeliest, descending.
  std::string bytes;
  std::optional<float> logprob;
  struct Top {
    int32_t id;
    std::string bytes;
    float logprob;
  };
  std::vector<Top> top;
};

// Bytes [begin, end) of a text, whole characters.
struct TextSpan {
  uint32_t begin = 0, end = 0;
  bool operator==(const TextSpan&) const = default;
};

struct Delta {
  int32_t choice = 0;       // prompt * n + i
  int32_t first_index = 0;  // of tokens, among the choice's output
  std::string text;  // whole characters, stop texts held back; with echo the first one begins with the prompt
  std::vector<DeltaToken> tokens;
  // The parts of `text` that came with drafted tokens, ascending. A character held back for a token that
  // completes it belongs to that token.
  std::vector<TextSpan> drafted_spans = {};
};

// Memory that a delta takes while it waits for a client, bytes.
inline int64_t SizeOf(const Delta& delta) {
  size_t bytes = delta.text.size() + delta.tokens.size() * sizeof(DeltaToken);
  for (const DeltaToken& token : delta.tokens) {
    bytes += token.bytes.size() + token.top.size() * sizeof(DeltaToken::Top);
    for (const DeltaToken::Top& top : token.top) bytes += top.bytes.size();
  }
  return static_cast<int64_t>(bytes);
}

struct Finished {
  int32_t choice = 0;
  enum class Reason { kStop, kLength } reason = Reason::kStop;
  int32_t prompt_tokens = 0;
  int32_t cached_prompt_tokens = 0;  // of these, from the prefix cache at the choice's first admission
  int32_t output_tokens = 0;
  int64_t drafted = 0, checked = 0, accepted = 0;
  // Steps in which drafts were checked, by how many were accepted; its size - 1 is the longest window. Empty:
  // there was none.
  std::vector<int64_t> rounds_by_accepted = {};
};

// Adds `more` to a histogram that may be shorter.
inline void AddCounts(const std::vector<int64_t>& more, std::vector<int64_t>& counts) {
  if (counts.size() < more.size()) counts.resize(more.size());
  for (size_t i = 0; i < more.size(); ++i) counts[i] += more[i];
}
// Appends `next`, whose text goes behind `offset` bytes, to ascending spans; those that touch become one.
inline void AppendSpans(const std::vector<TextSpan>& next, size_t offset, std::vector<TextSpan>& spans) {
  const auto shift = static_cast<uint32_t>(offset);
  for (const TextSpan& span : next) {
    if (!spans.empty() && spans.back().end == span.begin + shift) {
      spans.back().end = span.end + shift;
    } else {
      spans.push_back({span.begin + shift, span.end + shift});
    }
  }
}

// Receives one request's events, in order: Started, then per choice deltas and one Finished; or OnError at
// any point, after which nothing comes. Called on the batcher's thread; must not block, call back into
// Generator or destroy its Generation.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnStarted(const Started& started) = 0;
  virtual void OnDelta(Delta delta) = 0;
  virtual void OnFinished(const Finished& finished) = 0;
  virtual void OnAllFinished() = 0;  // after the last choice's OnFinished
  virtual void OnError(const absl::Status& status) = 0;
};

// A running request. Destroying it cancels what still runs (within one step) and returns only when the sink
// will not be called any more; it waits for a call in progress, for nothing else, so it may hold no lock that
// the sink takes. Any thread but the sink's own calls. It may outlive the Generator.
class Generation {
 public:
  virtual ~Generation() = default;
  // The request id in use (given or made).
  virtual const std::string& request_id() const = 0;
};

struct ModelInfo {
  std::string id;
  std::vector<std::string> aliases;
  int32_t max_model_len = 0;
  int32_t vocab_size = 0;
  std::string system_fingerprint;  // empty while no verifier is connected
  absl::Time created;
};

// Thread-safe.
class Generator {
 public:
  virtual ~Generator() = default;

  // Validates, tokenises and queues. An error here means that nothing was started. The sink may be called
  // before this returns. `sink` is borrowed until the Generation is destroyed.
  virtual absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request, EventSink& sink) = 0;

  virtual absl::StatusOr<std::vector<int32_t>> Tokenize(const TokenizeRequest& request) = 0;
  // `param` is the ids' name in errors. At most a context of them.
  virtual absl::StatusOr<std::string> Detokenize(const std::string& model, const char* param,
                                                 const std::vector<int64_t>& ids) = 0;

  virtual ModelInfo model_info() const = 0;
  // Whether a request would be taken now: at least one verifier ready and not draining.
  virtual bool ready() const = 0;
};

}  // namespace tandem::gateway
