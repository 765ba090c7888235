#include "drafter/drafter_process.h"

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "common/base/model_store.h"
#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/formats/model_digest.h"
#include "common/kernels/dispatch.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/grpc_logs.h"
#include "common/rpc/server.h"
#include "common/speculation/local_machine.h"
#include "common/speculation/projection_bytes.h"
#include "common/speculation/row_ring.h"
#include "common/speculation/wire/speculate_messages.h"
#include "common/telemetry/health.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "common/telemetry/watchdog.h"
#include "drafter/drafter_metrics.h"
#include "drafter/drafter_options.h"
#include "drafter/drafter_store.h"
#include "drafter/engine/draft_loop.h"
#include "drafter/models/load_draft_model.h"
#include "drafter/models/ngram.h"
#include "drafter/models/random.h"
#include "drafter/models/scripted.h"
#include "drafter/service/speculate_service.h"

namespace tandem::drafter {
namespace {

constexpr char kProgram[] = "tandem-drafter";
constexpr std::string_view kScripted = "scripted:";

absl::StatusOr<std::unique_ptr<DraftModel>> LoadModel(const DrafterOptions& options, const ModelFiles& files,
                                                      ThreadPool& pool) {
  if (files.script) return NewScriptedDrafter(*files.script);
  if (options.model == "ngram") return NewNgramDrafter({.block_size = options.block_size});
  if (options.model == "random") {
    return NewRandomDrafter({.vocab_size = static_cast<int32_t>(files.target->config().vocab_size),
                             .block_size = options.block_size,
                             .seed = 0});
  }
  return LoadDraftModel(ToDraftModelOptions(options, files.path, files.target.get()), pool);
}

}  // namespace

absl::StatusOr<ModelFiles> OpenFiles(const DrafterOptions& options) {
  ModelFiles files;
  if (options.model.starts_with(kScripted)) {
    const std::string script = options.model.substr(kScripted.size());
    RETURN_IF_ERROR(formats::CheckModelDigest(script, options.model_sha256));
    ASSIGN_OR_RETURN(files.script, ReadScript(script));
  } else if (options.model != "ngram" && options.model != "random") {
    ASSIGN_OR_RETURN(files.path, ResolveDrafter(options.model, options.target, DrafterDirectories()));
    RETURN_IF_ERROR(formats::CheckModelDigest(files.path, options.model_sha256));
  }
  if (!options.target.empty()) {
    ASSIGN_OR_RETURN(const std::string path, ResolveModel(options.target));
    ASSIGN_OR_RETURN(files.target, formats::Checkpoint::Open(path));
  }
  return files;
}

DrafterProcess::DrafterProcess(const DrafterOptions& options, const std::optional<Script>& script)
    : options_(options),
      log_(options.log),
      metrics_(kProgram),
      drafter_metrics_(metrics_),
      calls_(metrics_, {{"/tandem.v1.Drafter/Speculate",
                         {grpc::StatusCode::CANCELLED, grpc::StatusCode::INVALID_ARGUMENT,
                          grpc::StatusCode::FAILED_PRECONDITION, grpc::StatusCode::UNAVAILABLE}}}),
      health_({"tandem.v1.Drafter"}),
      service_({}, metrics_, log_, script ? &*script : nullptr) {
  rpc::SetGrpcLogger(&log_);
  prometheus::Gauge& ready = metrics_.AddGauge("ready", "Whether the process takes work");
  prometheus::Counter& dropped = metrics_.AddCounter("log_dropped_total", "Log lines lost");
  metrics_.OnScrape([this, &ready, &dropped] {
    ready.Set(health_.ready() ? 1 : 0);
    telemetry::RaiseTo(dropped, static_cast<double>(log_.dropped()));
  });
}

DrafterProcess::~DrafterProcess() {
  drafter_metrics_.Follow(nullptr);
  rpc::SetGrpcLogger(nullptr);
}

absl::Status DrafterProcess::BindMetrics() {
  ASSIGN_OR_RETURN(metrics_server_, telemetry::MetricsServer::Start(options_.metrics, metrics_));
  return absl::OkStatus();
}

absl::Status DrafterProcess::Bind() {
  ASSIGN_OR_RETURN(std::unique_ptr<rpc::Listener> listener,
                   rpc::Listener::Bind(options_.listen, options_.insecure));
  RETURN_IF_ERROR(BindMetrics());
  rpc::ServerOptions server;
  server.max_receive_bytes = speculation::kMaxSpeculateMessageBytes;
  server.keepalive_time = absl::Seconds(10);
  server.keepalive_timeout = absl::Seconds(5);

  prometheus::Counter& exhausted =
      metrics_.AddCounter("emfile_total", "Connections delayed or refused for want of descriptors");
  ASSIGN_OR_RETURN(server_, rpc::RpcServer::Start(
                                server, std::move(listener), {&service_}, health_,
                                {.on_exhausted = [&exhausted] { exhausted.Increment(); }, .calls = &calls_}));
  prometheus::Gauge& connections =
      metrics_.AddGauge("open_connections", "Client connections", {{"listener", "grpc"}});
  metrics_.OnScrape([this, &connections] { connections.Set(server_->num_connections()); });
  return absl::OkStatus();
}

absl::Status DrafterProcess::Load(ModelFiles files) {
  const absl::Time start = absl::Now();
  if (const int removed = speculation::RemoveStaleRings(); removed > 0)
    log_.Info("removed shared memory of dead verifiers", {{"rings", removed}});
  pool_ = std::make_unique<ThreadPool>(NumThreads(options_));
  ASSIGN_OR_RETURN(model_, LoadModel(options_, files, *pool_));
  files.target.reset();  // nothing is mapped any more
  ASSIGN_OR_RETURN(engine_, DraftEngine::Create(
                                ToDraftEngineOptions(options_, *model_, rpc::MemoryLimitBytes()), *model_));
  loop_ = DraftLoop::Start(*engine_, Clock::Real(), [this](const DraftStep& step, const DraftEngineStats&) {
    drafter_metrics_.OnStep(step);
  });
  drafter_metrics_.Follow(loop_.get());
  watchdog_ = std::make_unique<telemetry::Watchdog>(
      telemetry::WatchdogOptions{}, [loop = loop_.get()] { return loop->stalled_for(); }, health_);

  DrafterIdentity& identity = identity_;
  identity.incarnation = NewIncarnation();
  identity.model = model_->info();
  if (identity.model.projection.width > 0)
    identity.projection_hash = speculation::ProjectionHash(identity.model.projection);
  identity.row_window = engine_->options().row_window;
  identity.max_sequences = engine_->options().max_sequences;
  identity.max_context_rows = engine_->max_context_rows();
  identity.machine = speculation::ReadLocalMachine();
  identity.shared_memory = options_.row_transport == "auto";
  if (server_ != nullptr) service_.Open(identity, *loop_);
  ReportLoad(absl::Now() - start);
  return absl::OkStatus();
}

void DrafterProcess::Stop() {
  log_.Info("stopping", {{"streams", service_.num_streams()}});
  health_.SetReady(false);
  service_.Leave();
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  watchdog_.reset();
  drafter_metrics_.Follow(nullptr);
  loop_.reset();
  log_.Info("stopped");
}

std::string DrafterProcess::ListeningLine() const {
  return fmt::format("listening grpc={} metrics={}", server_->address().ToString(),
                     metrics_server_->address().ToString());
}

void DrafterProcess::ReportLoad(absl::Duration took) {
  const DraftModelInfo& info = model_->info();
  metrics_.AddGauge("model_load_bytes", "Packed weights in memory")
      .Set(static_cast<double>(info.weight_bytes));
  metrics_.AddGauge("model_load_seconds", "Time from opening the files to ready")
      .Set(absl::ToDoubleSeconds(took));
  const int64_t token_bytes = model_->kv_layout().position_bytes();
  metrics_
      .AddGauge("drafter_context_token_bytes", "Memory of one token's context, keys and values of all layers")
      .Set(static_cast<double>(token_bytes));
  metrics_
      .AddGauge("model_info", "Always 1; the labels say what is served",
                {{"algorithm", info.algorithm}, {"name", info.name}})
      .Set(1);
  log_.Info("ready", {{"algorithm", info.algorithm},
                      {"name", info.name},
                      {"block_size", info.block_size},
                      {"row_width", info.projection.width},
                      {"kv_dtype", options_.kv_dtype},
                      {"context_token_bytes", token_bytes},
                      {"kv_blocks", engine_->stats().blocks_total},
                      {"max_context_rows", engine_->max_context_rows()},
                      {"threads", pool_->num_threads()},
                      {"load_seconds", absl::ToDoubleSeconds(took)}});
}

}  // namespace tandem::drafter
