// The flags of tandem-gateway.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/telemetry/logs.h"
#include "gateway/limits.h"

namespace tandem::gateway {

struct GatewayOptions {
  std::string model = kDefaultModel;            // tokenizer and chat template
  std::string model_sha256;                     // formats::ModelDigest; empty: any
  std::vector<std::string> served_model_names;  // empty: the model's name
  std::vector<Address> verifiers = {{"127.0.0.1", 8011, ""}};
  Address http{"127.0.0.1", 8000, ""}, grpc{"127.0.0.1", 8001, ""}, metrics{"127.0.0.1", 8002, ""};
  std::vector<std::string> template_flags = {"enable_thinking"};
  absl::Duration request_timeout = limits::kRequestDeadline;
  std::string run_transport = "auto";  // to verifiers; or "grpc"
  absl::Duration verifier_wait = limits::kLostVerifierWait;
  absl::Duration max_queue_wait = limits::kPredictedWait;
  absl::Duration write_stall = limits::kWriteStall;
  absl::Duration drain_delay = limits::kDrainDelay, drain_timeout = limits::kDrain;
  std::string spec_decode_metrics = "off";  // or "summary": in every HTTP answer
  bool prediction_tokens = false;           // of drafts, in every HTTP answer's usage
  int64_t memory_limit = 0;                 // bytes; 0: what the process may use
  bool reflection = false;
  bool insecure = false;
  telemetry::LogOptions log{.service = "tandem-gateway"};
};

void AddGatewayOptions(OptionParser& parser, GatewayOptions* options);
// What the parser cannot see alone. kInvalidArgument names the option.
absl::Status CheckGatewayOptions(const GatewayOptions& options);

}  // namespace tandem::gateway
