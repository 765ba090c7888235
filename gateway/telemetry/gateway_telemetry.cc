#include "gateway/telemetry/gateway_telemetry.h"

#include <fmt/format.h>

namespace tandem::gateway {
namespace {

using telemetry::Labels;
using telemetry::Metrics;

constexpr const char* kApis[] = {"chat", "completions", "grpc"};
constexpr absl::StatusCode kLastCode = absl::StatusCode::kUnauthenticated;
const std::vector<std::string> kHelloFields = {"protocol",      "sampling_version",   "model_fingerprint",
                                               "numerics_id",   "tokenizer_hash",     "vocab_size",
                                               "max_model_len", "kv_block_positions", "kv_total_blocks",
                                               "max_sequences", "eos_token_ids",      "other"};
const std::vector<std::string> kReportChecks = {
    "number",        "plan_number", "sequence",       "gap",         "repeat",
    "length",        "max_length",  "token_id",       "logprobs",    "computed_length",
    "cached_length", "drafted",     "drafted_marks",  "rounds",      "accepted",
    "end",           "kv_blocks",   "sequence_share", "utilization", "order",
    "other"};

std::vector<std::string> ReasonNames() {
  std::vector<std::string> names;
  for (int i = 0; i < kNumErrorReasons; ++i) names.push_back(ErrorReasonName(static_cast<ErrorReason>(i)));
  return names;
}

// `value` if it is one of the declared ones, else "other": a label's values stay a closed set.
std::string OrOther(const std::vector<std::string>& values, std::string_view value) {
  for (const std::string& known : values) {
    if (known == value) return known;
  }
  return "other";
}

}  // namespace

GatewayTelemetry::GatewayTelemetry(telemetry::Metrics& metrics, telemetry::Logger& log,
                                   const std::string& model_name)
    : metrics_(metrics),
      log_(log),
      labels_{{"model_name", model_name}},
      accepted_(metrics.AddCounter("requests_accepted_total", "Requests taken into the queue", labels_)),
      rejected_(metrics.AddCounters("requests_rejected_total",
                                    "Requests that ended with an error before their first token", "reason",
                                    ReasonNames(), labels_)),
      failovers_(metrics.AddCounters("failovers_total", "Sequences that lost their verifier", "outcome",
                                     {"resumed", "lost"}, labels_)),
      handshake_failures_(metrics.AddCounters("handshake_failures_total",
                                              "Streams ended by a Hello that does not fit", "field",
                                              kHelloFields, {{"peer", "verifier"}})),
      protocol_errors_(metrics.AddCounters("protocol_errors_total", "Messages that broke the protocol",
                                           "check", kReportChecks, {{"peer", "verifier"}})),
      prompt_tokens_(metrics.AddCounter("prompt_tokens_total", "Prompt tokens of ended requests", labels_)),
      cached_prompt_tokens_(metrics.AddCounter("cached_prompt_tokens_total",
                                               "Prompt tokens served from the prefix cache", labels_)),
      generation_tokens_(
          metrics.AddCounter("generation_tokens_total", "Tokens delivered to clients", labels_)),
      preemptions_(
          metrics.AddCounter("preemptions_total", "Sequences that gave way for want of KV blocks", labels_)),
      unknown_field_(metrics.AddCounter("unknown_field_total", "Request fields that were ignored", labels_)),
      write_stalls_(
          metrics.AddCounter("write_stalls_total", "Streams ended because the client did not read", labels_)),
      stale_messages_(metrics.AddCounter("stale_messages_total", "Report entries of an older epoch, dropped",
                                         {{"stream", "run"}})),
      out_of_sync_(metrics.AddCounter("out_of_sync_total",
                                      "Reports that do not continue what the gateway has of a sequence",
                                      {{"stream", "run"}})),
      exhausted_(
          metrics.AddCounter("emfile_total", "Connections delayed or refused for want of descriptors")),
      waiting_(metrics.AddGauge("requests_waiting", "Choices in the queue", labels_)),
      running_(metrics.AddGauge("requests_running", "Choices on a verifier", labels_)),
      waiting_tokens_(metrics.AddGauge("waiting_tokens", "Prompt tokens in the queue", labels_)),
      kv_usage_(metrics.AddGauge("kv_cache_usage_ratio", "KV blocks that sequences hold, of all verifiers",
                                 labels_)),
      http_connections_(metrics.AddGauge("open_connections", "Client connections", {{"listener", "http"}})),
      verifiers_(metrics.AddGauges("verifiers", "Configured verifiers by state", "state",
                                   {"down", "connecting", "ready", "draining"}, labels_)),
      time_to_first_token_(metrics.AddHistogram("time_to_first_token_seconds",
                                                "From reading a request to its first token",
                                                telemetry::TimeToFirstTokenBuckets(), labels_)),
      time_per_output_token_(metrics.AddHistogram("time_per_output_token_seconds",
                                                  "(last - first token) / (tokens - 1) of a request",
                                                  telemetry::TimePerOutputTokenBuckets(), labels_)),
      inter_token_latency_(metrics.AddHistogram("inter_token_latency_seconds",
                                                "Between deliveries to a choice; a burst is one",
                                                telemetry::TimePerOutputTokenBuckets(), labels_)),
      request_duration_(metrics.AddHistogram("request_duration_seconds", "From reading a request to its end",
                                             telemetry::EndToEndBuckets(), labels_)),
      queue_time_(metrics.AddHistogram("queue_time_seconds", "From reading a request to its admission",
                                       telemetry::EndToEndBuckets(), labels_)),
      prefill_time_(metrics.AddHistogram("prefill_time_seconds", "From admission to the first token",
                                         telemetry::EndToEndBuckets(), labels_)),
      decode_time_(metrics.AddHistogram("decode_time_seconds", "From the first to the last token",
                                        telemetry::EndToEndBuckets(), labels_)),
      request_prompt_tokens_(metrics.AddHistogram("request_prompt_tokens", "Prompt tokens of a request",
                                                  telemetry::TokenCountBuckets(), labels_)),
      request_generation_tokens_(metrics.AddHistogram("request_generation_tokens",
                                                      "Output tokens of a request",
                                                      telemetry::TokenCountBuckets(), labels_)) {
  AddRequestCounters();
}

void GatewayTelemetry::AddRequestCounters() {
  const auto add = [&](const std::string& api, const std::string& code, const std::string& finish_reason) {
    Labels labels = labels_;
    labels["api"] = api;
    labels["code"] = code;
    labels["finish_reason"] = finish_reason;
    requests_total_[{api, code, finish_reason}] =
        &metrics_.AddCounter("requests_total", "Requests that ended", labels);
  };
  for (const std::string api : kApis) {
    add(api, "OK", "stop");
    add(api, "OK", "length");
    for (int code = 1; code <= static_cast<int>(kLastCode); ++code) {
      add(api, absl::StatusCodeToString(static_cast<absl::StatusCode>(code)), "");
    }
  }
}

void GatewayTelemetry::OnAccepted(std::string_view) { accepted_.Increment(); }

void GatewayTelemetry::OnRejected(std::string_view api, const absl::Status& why) {
  const auto counter = requests_total_.find(
      {std::string(api), std::string(absl::StatusCodeToString(why.code())), std::string()});
  if (counter != requests_total_.end()) counter->second->Increment();
  // The rest comes through OnRefused: doors tell of everything they refuse, these included.
}

void GatewayTelemetry::OnRefused(const char* route, const absl::Status& why) {
  rejected_[ErrorReasonName(ReasonOf(why))].Increment();
  log_.Info("request refused", {{"route", route},
                                {"code", absl::StatusCodeToString(why.code())},
                                {"reason", ErrorReasonName(ReasonOf(why))},
                                {"param", ParamOf(why)}});
}

void GatewayTelemetry::OnRequestEnd(const RequestSummary& summary) {
  const auto counter =
      requests_total_.find({summary.api, std::string(absl::StatusCodeToString(summary.status.code())),
                            std::string(summary.status.ok() ? summary.finish_reason : "")});
  if (counter != requests_total_.end()) counter->second->Increment();
  prompt_tokens_.Increment(static_cast<double>(summary.prompt_tokens));
  cached_prompt_tokens_.Increment(static_cast<double>(summary.cached_prompt_tokens));
  // What ends a request before its first token has refused it as well, only later.
  if (!summary.status.ok() && summary.output_tokens == 0)
    rejected_[ErrorReasonName(ReasonOf(summary.status))].Increment();
  request_duration_.Observe(absl::ToDoubleSeconds(summary.duration));
  queue_time_.Observe(absl::ToDoubleSeconds(summary.queue_time));
  request_prompt_tokens_.Observe(static_cast<double>(summary.prompt_tokens));
  request_generation_tokens_.Observe(static_cast<double>(summary.output_tokens));
  if (summary.output_tokens > 0) {
    time_to_first_token_.Observe(absl::ToDoubleSeconds(summary.time_to_first_token));
    prefill_time_.Observe(absl::ToDoubleSeconds(summary.prefill_time));
    decode_time_.Observe(absl::ToDoubleSeconds(summary.decode_time));
  }
  if (summary.time_per_output_token > absl::ZeroDuration()) {
    time_per_output_token_.Observe(absl::ToDoubleSeconds(summary.time_per_output_token));
  }
  LogRequest(summary);
}

void GatewayTelemetry::LogRequest(const RequestSummary& summary) {
  log_.Info("request ended",
            {{"request_id", summary.request_id},
             {"trace_id", summary.trace_id},
             {"api", summary.api},
             {"code", absl::StatusCodeToString(summary.status.code())},
             {"reason", summary.status.ok() ? "" : ErrorReasonName(ReasonOf(summary.status))},
             {"finish_reason", summary.finish_reason},
             {"choices", summary.choices},
             {"prompt_tokens", summary.prompt_tokens},
             {"cached_prompt_tokens", summary.cached_prompt_tokens},
             {"output_tokens", summary.output_tokens},
             {"seed", summary.seed},
             {"queue_ms", absl::ToDoubleMilliseconds(summary.queue_time)},
             {"ttft_ms", absl::ToDoubleMilliseconds(summary.time_to_first_token)},
             {"duration_ms", absl::ToDoubleMilliseconds(summary.duration)}});
}

void GatewayTelemetry::OnTokens(int tokens, absl::Duration gap) {
  generation_tokens_.Increment(tokens);
  if (gap > absl::ZeroDuration()) inter_token_latency_.Observe(absl::ToDoubleSeconds(gap));
}

void GatewayTelemetry::OnPreemption() { preemptions_.Increment(); }
void GatewayTelemetry::OnFailover(const char* outcome) { failovers_[outcome].Increment(); }

void GatewayTelemetry::OnLoad(const Load& load) {
  waiting_.Set(load.waiting);
  running_.Set(load.running);
  waiting_tokens_.Set(static_cast<double>(load.waiting_tokens));
  const auto used = static_cast<double>(load.kv_total_blocks - load.kv_free_blocks - load.kv_cached_blocks);
  kv_usage_.Set(load.kv_total_blocks > 0 ? used / static_cast<double>(load.kv_total_blocks) : 0);
  verifiers_["down"].Set(load.verifiers[static_cast<int>(VerifierState::kDown)]);
  verifiers_["connecting"].Set(load.verifiers[static_cast<int>(VerifierState::kConnecting)]);
  verifiers_["ready"].Set(load.verifiers[static_cast<int>(VerifierState::kReady)]);
  verifiers_["draining"].Set(load.verifiers[static_cast<int>(VerifierState::kDraining)]);
  if (!cache_config_known_ && load.kv_total_blocks > 0) {
    cache_config_known_ = true;
    Labels labels = labels_;
    labels["block_size"] = fmt::format("{}", load.kv_block_positions);
    labels["num_blocks"] = fmt::format("{}", load.kv_total_blocks);
    metrics_.AddGauge("cache_config_info", "KV memory of the verifiers when they were first ready", labels)
        .Set(1);
  }
}

void GatewayTelemetry::OnVerifierState(int verifier, const std::string& name, VerifierState state,
                                       const absl::Status& why) {
  constexpr const char* kNames[] = {"down", "connecting", "ready", "draining"};
  const char* state_name = kNames[static_cast<int>(state)];
  // One that has not been ready yet is starting; losing one that was is worth a warning.
  const bool lost = state == VerifierState::kDown && was_ready_.erase(verifier) > 0;
  if (state == VerifierState::kReady) was_ready_.insert(verifier);
  log_.Write(lost ? telemetry::LogLevel::kWarning : telemetry::LogLevel::kInfo, "verifier",
             {{"peer", name}, {"state", state_name}, {"error", std::string(why.message())}});
}

void GatewayTelemetry::OnFallback(const std::string& name, const absl::Status& why) {
  log_.Warning("plans and reports go through gRPC", {{"peer", name}, {"reason", why.message()}});
}

void GatewayTelemetry::OnHandshakeFailure(int, const char* field) {
  handshake_failures_[OrOther(kHelloFields, field)].Increment();
}
void GatewayTelemetry::OnProtocolError(int, const char* check) {
  protocol_errors_[OrOther(kReportChecks, check)].Increment();
  const std::string_view name = check;
  if (name == "gap" || name == "repeat") out_of_sync_.Increment();
}
void GatewayTelemetry::OnStaleMessage() { stale_messages_.Increment(); }

}  // namespace tandem::gateway
