#include "gateway/gateway_options.h"

#include <set>

#include "common/base/status.h"
#include "common/formats/model_digest.h"

namespace tandem::gateway {

constexpr int64_t kMaxMemory = int64_t{1} << 50;

void AddGatewayOptions(OptionParser& parser, GatewayOptions* options) {
  const absl::Duration kHour = absl::Hours(1);
  parser.AddAddressList("verifier", &options->verifiers, "Address of a verifier; repeat for replicas");
  parser.AddString("model", &options->model,
                   "The model's file, directory or name: tokenizer and chat template");
  parser.AddString("model-sha256", &options->model_sha256,
                   "Refuse any other model than that of this SHA-256 (README says how it is computed)");
  parser.AddStringList("served-model-name", &options->served_model_names,
                       "Name in requests and answers; repeated: aliases (default: the model's name)");
  parser.AddAddress("http", &options->http, "OpenAI API over HTTP; port 0: any");
  parser.AddAddress("grpc", &options->grpc, "gRPC API and health; port 0: any");
  parser.AddAddress("metrics", &options->metrics, "Prometheus metrics; port 0: any");
  parser.AddStringList("template-flag", &options->template_flags,
                       "A boolean that requests may set in chat_template_kwargs; repeat for more");
  parser.AddDuration("request-timeout", &options->request_timeout, absl::Seconds(1), 24 * kHour,
                     "Deadline of requests without one, and the longest one accepted");
  parser.AddChoice(
      "run-transport", &options->run_transport, {"auto", "grpc"},
      "How plans and reports travel; auto: a Unix socket to verifiers on this machine; grpc: all "
      "through gRPC");
  parser.AddDuration("wait-for-verifier", &options->verifier_wait, absl::ZeroDuration(), kHour,
                     "How long a running request waits for a verifier that was lost");
  parser.AddDuration(
      "max-queue-wait", &options->max_queue_wait, absl::ZeroDuration(), 24 * kHour,
      "Refuse requests that would probably wait longer for their turn; 0: when the queue is full");
  parser.AddDuration("write-stall", &options->write_stall, absl::Seconds(1), kHour,
                     "Give up a client that takes nothing of its answer for so long");
  parser.AddDuration("drain-delay", &options->drain_delay, absl::ZeroDuration(), kHour,
                     "After SIGTERM: not ready, but still serving, so that balancers can turn away");
  parser.AddDuration("drain-timeout", &options->drain_timeout, absl::ZeroDuration(), kHour,
                     "Then: how long running requests may take to end");
  parser.AddBytes(
      "memory-limit", &options->memory_limit, 0, kMaxMemory,
      "Refuse requests from 90 % of these on; 0: the machine's memory, or its control group's limit");
  parser.AddChoice("per-request-spec-decode-metrics", &options->spec_decode_metrics, {"off", "summary"},
                   "summary: acceptance of each request's drafts in the HTTP answer's metrics, as vLLM's");
  parser.AddFlag("prediction-tokens-in-usage", &options->prediction_tokens,
                 "Count checked drafts as usage's accepted_ and rejected_prediction_tokens");
  parser.AddFlag("grpc-reflection", &options->reflection, "Serve gRPC reflection");
  parser.AddFlag("insecure", &options->insecure, "Listen beyond this machine although there is no TLS");
  telemetry::AddLogOptions(parser, &options->log);
}

absl::Status CheckGatewayOptions(const GatewayOptions& options) {
  if (options.verifiers.empty()) return InvalidArgument("--verifier needs at least one address");
  for (const Address& verifier : options.verifiers) {
    if (!verifier.is_unix() && verifier.port == 0)
      return InvalidArgument("--verifier {} has no port", verifier.ToString());
  }
  RETURN_IF_ERROR(formats::CheckDigestOption(options.model_sha256));
  std::set<std::string> names;
  for (const std::string& name : options.served_model_names) {
    if (name.empty() || name.size() > static_cast<size_t>(limits::kModelNameBytes)) {
      return InvalidArgument("--served-model-name must have 1..{} bytes", limits::kModelNameBytes);
    }
    if (!names.insert(name).second) return InvalidArgument("--served-model-name {} is given twice", name);
  }
  return absl::OkStatus();
}

}  // namespace tandem::gateway
