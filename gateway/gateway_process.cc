#include "gateway/gateway_process.h"

#include <dlfcn.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "common/base/model_store.h"
#include "common/base/status.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/grpc_logs.h"
#include "common/rpc/server.h"
#include "common/telemetry/health.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "gateway/admission/core.h"
#include "gateway/gateway_options.h"
#include "gateway/grpc/generation_service.h"
#include "gateway/http/http_server.h"
#include "gateway/run_link/run_link.h"
#include "gateway/telemetry/gateway_telemetry.h"
#include "gateway/telemetry/readiness.h"

namespace tandem::gateway {
namespace {

constexpr char kProgram[] = "tandem-gateway";

// Codes that their calls end with in the ordinary course of things, good or bad.
std::vector<rpc::CallMetrics::Method> GenerationMethods() {
  using grpc::StatusCode;
  return {{"/tandem.v1.Generation/Generate",
           {StatusCode::CANCELLED, StatusCode::INVALID_ARGUMENT, StatusCode::DEADLINE_EXCEEDED,
            StatusCode::RESOURCE_EXHAUSTED, StatusCode::UNAVAILABLE, StatusCode::INTERNAL}},
          {"/tandem.v1.Generation/Tokenize", {StatusCode::INVALID_ARGUMENT}},
          {"/tandem.v1.Generation/Detokenize", {StatusCode::INVALID_ARGUMENT}},
          {"/tandem.v1.Generation/ListModels", {}}};
}

// The library registers itself with every server of its process, whether one asks it to or not. So it is not
// linked, but loaded on demand.
absl::Status LoadReflection() {
  constexpr char kLibrary[] = "libgrpc++_reflection.so.1.51";
  if (dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL) != nullptr) return absl::OkStatus();
  return Unavailable("--grpc-reflection: {}", dlerror());
}

}  // namespace

std::string ModelName(const GatewayOptions& options, const std::string& path) {
  if (!options.served_model_names.empty()) return options.served_model_names.front();
  if (FindNamedModel(options.model) != nullptr) return options.model;
  const std::filesystem::path file = std::filesystem::path(path).lexically_normal();
  return file.has_filename() ? file.stem().string() : file.parent_path().filename().string();
}

std::vector<std::unique_ptr<VerifierLink>> RunLinks(const GatewayOptions& options) {
  std::vector<std::unique_ptr<VerifierLink>> links;
  const RunLinkOptions link{.channel = {}, .local_socket = options.run_transport == "auto"};
  for (const Address& verifier : options.verifiers) links.push_back(NewRunLink(verifier, link));
  return links;
}

GatewayProcess::GatewayProcess(const GatewayOptions& options, const std::string& model_name)
    : options_(options),
      model_name_(model_name),
      log_(options.log),
      metrics_(kProgram),
      telemetry_(metrics_, log_, model_name),
      calls_(metrics_, GenerationMethods()),
      unknown_methods_(telemetry_),
      health_({"tandem.v1.Generation"}),
      readiness_([this](bool ready) { health_.SetReady(ready); }, limits::kNoVerifierWait, Clock::Real()) {
  rpc::SetGrpcLogger(&log_);
}

GatewayProcess::~GatewayProcess() { rpc::SetGrpcLogger(nullptr); }

absl::Status GatewayProcess::Start(ModelText model, std::vector<std::unique_ptr<VerifierLink>> verifiers) {
  ASSIGN_OR_RETURN(std::unique_ptr<rpc::Listener> listener,
                   rpc::Listener::Bind(options_.grpc, options_.insecure));
  ASSIGN_OR_RETURN(std::unique_ptr<rpc::Listener> http_listener,
                   rpc::Listener::Bind(options_.http, options_.insecure));
  ASSIGN_OR_RETURN(metrics_server_, telemetry::MetricsServer::Start(options_.metrics, metrics_));
  if (const int64_t limit = rpc::RaiseDescriptorLimit(); limit < limits::kMinDescriptors) {
    log_.Warning("few descriptors: connections beyond four fifths of them are closed",
                 {{"limit", limit}, {"recommended", limits::kMinDescriptors}});
  }
  ReportLoad(model);
  CoreOptions core;
  core.model_id = model_name_;
  if (options_.served_model_names.size() > 1) {
    core.aliases.assign(options_.served_model_names.begin() + 1, options_.served_model_names.end());
  }
  core.template_flags = options_.template_flags;
  core.request_deadline = options_.request_timeout;
  core.lost_verifier_wait = options_.verifier_wait;
  core.max_predicted_wait = options_.max_queue_wait;
  core.memory_limit_bytes = options_.memory_limit > 0 ? options_.memory_limit : rpc::MemoryLimitBytes();
  core.on_verifiers_ready = [this](bool any) { readiness_.SetVerifiersReady(any); };
  ASSIGN_OR_RETURN(core_,
                   Core::Create(core, std::move(model), std::move(verifiers), Clock::Real(), telemetry_));

  GenerationService::Options generation;
  generation.write_stall = options_.write_stall;
  service_ = std::make_unique<GenerationService>(*core_, telemetry_, generation);
  rpc::ServerOptions server;
  // What is somewhat too large still arrives, so that it is refused by us: with details, and counted.
  server.max_receive_bytes = static_cast<int>(2 * limits::kGrpcReceiveBytes);
  server.write_stall = options_.write_stall;
  server.max_metadata_bytes = static_cast<int>(limits::kGrpcMetadataBytes);
  server.max_concurrent_streams = limits::kGrpcStreamsPerConnection;
  server.max_idle = limits::kGrpcIdle;
  server.max_age = limits::kGrpcAge;
  server.max_age_grace = limits::kGrpcGrace;
  if (options_.reflection) RETURN_IF_ERROR(LoadReflection());
  ASSIGN_OR_RETURN(grpc_server_, rpc::RpcServer::Start(server, std::move(listener), {service_.get()}, health_,
                                                       {.on_exhausted = [this] { telemetry_.OnExhausted(); },
                                                        .calls = &calls_,
                                                        .unknown_methods = &unknown_methods_}));
  http::HttpServer::Options http;
  http.write_stall = options_.write_stall;
  http.speculation_metrics = options_.spec_decode_metrics == "summary";
  http.prediction_tokens = options_.prediction_tokens;
  http.is_live = [this] { return health_.live(); };
  http.is_ready = [this] { return !stopping_; };
  ASSIGN_OR_RETURN(http_server_, http::HttpServer::Start(http, std::move(http_listener), *core_, telemetry_));
  AddGauges();
  return absl::OkStatus();
}

std::string GatewayProcess::ListeningLine() const {
  return fmt::format("listening http={} grpc={} metrics={}", http_server_->address().ToString(),
                     grpc_server_->address().ToString(), metrics_server_->address().ToString());
}

void GatewayProcess::Stop() {
  const bool was_ready = health_.ready();
  log_.Info("stopping", {{"streams", http_server_->open_streams() + service_->open_streams()}});
  stopping_ = true;
  readiness_.Stop();
  health_.SetReady(false);
  if (was_ready) absl::SleepFor(options_.drain_delay);  // balancers see it and go elsewhere
  core_->BeginDrain();  // the doors stay open: who comes now is told to go elsewhere
  const absl::Time deadline = absl::Now() + options_.drain_timeout;
  const bool idle = core_->WaitIdle(options_.drain_timeout);
  // Last answers still have to be written; what has not ended by the deadline is cut.
  const absl::Duration left =
      idle ? std::max(deadline - absl::Now(), absl::ZeroDuration()) : absl::ZeroDuration();
  http_server_->Shutdown(left);
  grpc_server_->Shutdown(std::max(deadline - absl::Now(), absl::ZeroDuration()));
  metrics_server_.reset();
  core_.reset();
  log_.Info("stopped", {{"drained", idle}});
}

void GatewayProcess::ReportLoad(const ModelText& model) {
  metrics_.AddGauge("model_load_bytes", "Vocabulary and chat template")
      .Set(static_cast<double>(model.load_bytes));
  metrics_.AddGauge("model_load_seconds", "Time to read tokenizer and chat template")
      .Set(absl::ToDoubleSeconds(model.load_time));
  metrics_
      .AddGauge("model_info", "Always 1; the labels say what is served",
                {{"model_name", model_name_}, {"tokenizer_hash", model.tokenizer->hash()}})
      .Set(1);
}

void GatewayProcess::AddGauges() {
  auto& ready = metrics_.AddGauge("ready", "Whether the process takes work");
  auto& dropped = metrics_.AddCounter("log_dropped_total", "Log lines lost");
  auto streams =
      metrics_.AddGauges("streams_open", "Client requests being answered", "api", {"http", "grpc"});
  auto& connections = metrics_.AddGauge("open_connections", "Client connections", {{"listener", "grpc"}});
  metrics_.OnScrape([this, &ready, &dropped, &connections, streams] {
    connections.Set(grpc_server_->num_connections());
    ready.Set(health_.ready() ? 1 : 0);
    telemetry::RaiseTo(dropped, static_cast<double>(log_.dropped()));
    streams["http"].Set(http_server_->open_streams());
    streams["grpc"].Set(service_->open_streams());
  });
}

}  // namespace tandem::gateway
