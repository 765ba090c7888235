// A client's request, checked: every value in range, every default filled in. docs/api.md has the table of
// fields.
//
// Pure functions; errors are those of gateway/errors.h and name the field as the client's API spells it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/sampling/sampler.h"
#include "gateway/admission/generator.h"

namespace tandem::gateway {

// What the checks need to know of the model.
struct ModelFacts {
  std::string id;
  std::vector<std::string> aliases;  // "default" always works, listed or not
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;                // prompt and output together
  std::vector<std::string> template_flags;  // chat_template_kwargs that the operator allows
};

struct CheckedRequest {
  std::string request_id;             // the client's if well-formed, else empty
  std::string traceparent;            // likewise
  std::string tracestate;             // likewise; empty without traceparent
  sampling::SamplingParams sampling;  // `seed` only if has_seed
  bool has_seed = false;
  int32_t n = 1;
  std::optional<int32_t> max_tokens;          // as asked
  std::optional<int32_t> default_max_tokens;  // absent: the rest of the context
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  std::optional<int32_t> num_logprobs;
  int32_t priority = 0;
  double tpot_target_ms = 0;  // 0: none
  bool echo = false;
};

// All that can be checked before the prompt is tokenised, its bytes included.
absl::StatusOr<CheckedRequest> CheckRequest(const GenerationRequest& request, const ModelFacts& model);

// kNotFound unless it is a name of the model; kInvalidArgument if it could be no name at all.
absl::Status CheckModelName(const std::string& name, const ModelFacts& model);
// chat_template_kwargs that the operator does not allow are unsupported.
absl::Status CheckTemplateFlags(const std::map<std::string, bool>& flags, const ModelFacts& model);
// Prompts by bytes, before tokenising.
absl::Status CheckPromptBytes(int64_t bytes, int32_t max_model_len);
absl::StatusOr<std::vector<int32_t>> CheckTokenIds(const char* param, const std::vector<int64_t>& ids,
                                                   int32_t vocab_size);

// [{"role", "content"}, ...] as templates know it: texts only, parts joined by newlines, "developer" spelled
// "system". kInvalidArgument names the entry, e.g. "messages[3].role".
absl::StatusOr<nlohmann::ordered_json> CheckMessages(const nlohmann::ordered_json& messages);

// Output tokens that a prompt of this length may get: what was asked, else the default as far as it fits.
absl::StatusOr<int32_t> OutputBudget(const CheckedRequest& request, int64_t prompt_tokens,
                                     int32_t max_model_len);

// 1..128 of [A-Za-z0-9._-].
bool IsRequestId(const std::string& text);
// W3C version 00: 55 characters, lower-case hex, neither id all zeros.
bool IsTraceparent(const std::string& text);
// As far as it is not the business of the systems that it names: printable ASCII, at most 512 bytes.
bool IsTracestate(const std::string& text);

}  // namespace tandem::gateway
