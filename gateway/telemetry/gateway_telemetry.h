// What happens in the gateway's core, as metrics (docs/metrics.md) and one log line per request.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "gateway/admission/observer.h"
#include "gateway/door_observer.h"

namespace tandem::gateway {

// Thread-safe. Borrows metrics and log.
class GatewayTelemetry : public Observer, public DoorObserver {
 public:
  // `model_name` labels every series of the model.
  GatewayTelemetry(telemetry::Metrics& metrics, telemetry::Logger& log, const std::string& model_name);

  void OnAccepted(std::string_view api) override;
  void OnRejected(std::string_view api, const absl::Status& why) override;
  void OnRequestEnd(const RequestSummary& summary) override;
  void OnTokens(int tokens, absl::Duration gap) override;
  void OnPreemption() override;
  void OnFailover(const char* outcome) override;
  void OnLoad(const Load& load) override;
  void OnFallback(const std::string& name, const absl::Status& why) override;
  void OnVerifierState(int verifier, const std::string& name, VerifierState state,
                       const absl::Status& why) override;
  void OnHandshakeFailure(int verifier, const char* field) override;
  void OnProtocolError(int verifier, const char* check) override;
  void OnStaleMessage() override;

  void OnConnections(int open) override { http_connections_.Set(open); }
  void OnExhausted() override { exhausted_.Increment(); }
  void OnUnknownFields(int count) override { unknown_field_.Increment(count); }
  void OnRefused(const char* route, const absl::Status& why) override;
  void OnWriteStall() override { write_stalls_.Increment(); }

 private:
  void AddRequestCounters();
  void LogRequest(const RequestSummary& summary);

  telemetry::Metrics& metrics_;
  telemetry::Logger& log_;
  const telemetry::Labels labels_;

  // Keyed by (api, code, finish_reason).
  std::map<std::array<std::string, 3>, prometheus::Counter*> requests_total_;
  prometheus::Counter& accepted_;
  telemetry::Labelled<prometheus::Counter> rejected_, failovers_, handshake_failures_, protocol_errors_;
  prometheus::Counter &prompt_tokens_, &cached_prompt_tokens_, &generation_tokens_, &preemptions_,
      &unknown_field_, &write_stalls_, &stale_messages_, &out_of_sync_, &exhausted_;
  prometheus::Gauge &waiting_, &running_, &waiting_tokens_, &kv_usage_, &http_connections_;
  telemetry::Labelled<prometheus::Gauge> verifiers_;
  prometheus::Histogram &time_to_first_token_, &time_per_output_token_, &inter_token_latency_,
      &request_duration_, &queue_time_, &prefill_time_, &decode_time_, &request_prompt_tokens_,
      &request_generation_tokens_;
  // The batcher's thread only.
  bool cache_config_known_ = false;
  std::set<int> was_ready_;
};

}  // namespace tandem::gateway
