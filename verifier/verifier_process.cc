#include "verifier/verifier_process.h"

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "common/base/model_store.h"
#include "common/base/status.h"
#include "common/formats/checkpoint.h"
#include "common/formats/model_digest.h"
#include "common/kernels/dispatch.h"
#include "common/kernels/kv_cache.h"
#include "common/models/model.h"
#include "common/rpc/call_metrics.h"
#include "common/rpc/grpc_logs.h"
#include "common/rpc/protocol_version.h"
#include "common/rpc/server.h"
#include "common/speculation/local_machine.h"
#include "common/speculation/row_ring.h"
#include "common/telemetry/health.h"
#include "common/telemetry/logs.h"
#include "common/telemetry/metrics.h"
#include "common/telemetry/metrics_server.h"
#include "common/telemetry/watchdog.h"
#include "common/text/tokenizer.h"
#include "verifier/engine/step_loop.h"
#include "verifier/engine/trace_recorder.h"
#include "verifier/engine_metrics.h"
#include "verifier/scheduling/step_time_cache.h"
#include "verifier/scripted_model.h"
#include "verifier/service/drafter_connections.h"
#include "verifier/service/run_service.h"
#include "verifier/service/speculate_link.h"
#include "verifier/verifier_options.h"
#include "verifier/warm_up.h"

namespace tandem::verifier {
namespace {

constexpr char kProgram[] = "tandem-verifier";
constexpr absl::Duration kWarmUpPatience = absl::Minutes(5);
// What a scripted model says, over and over.
constexpr char kScript[] =
    "A river begins as water that finds the lowest way. It carries sand and leaves, cuts valleys over "
    "thousands of years, "
    "and slows where the land is flat. People build towns beside it: for trade, for mills, for fields that "
    "need no rain. ";

// $XDG_CACHE_HOME/tandem or ~/.cache/tandem; empty if there is no home.
std::string CacheDirectory() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return (std::filesystem::path(cache) / "tandem").string();
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : (std::filesystem::path(home) / ".cache/tandem").string();
}

}  // namespace

absl::StatusOr<ModelFiles> OpenModel(const VerifierOptions& options) {
  const std::optional<std::string> scripted = ScriptedModelOf(options.model);
  ASSIGN_OR_RETURN(const std::string path, ResolveModel(scripted.value_or(options.model)));
  RETURN_IF_ERROR(formats::CheckModelDigest(path, options.model_sha256));
  ModelFiles files;
  ASSIGN_OR_RETURN(files.checkpoint, formats::Checkpoint::Open(path));
  ASSIGN_OR_RETURN(const formats::Checkpoint::TextSources sources, files.checkpoint->ReadTextSources());
  if (sources.gguf != nullptr || !sources.tokenizer_json.empty()) {
    const auto tokenizer = text::Tokenizer::Create(sources);
    if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
    files.tokenizer_hash = (*tokenizer)->hash();
    if (scripted) {
      ASSIGN_OR_RETURN(files.script, (*tokenizer)->Encode(kScript, /*special_tokens=*/false));
    }
  }
  if (scripted && files.script.empty())
    return FailedPrecondition("{} has no tokenizer to script a text with", path);
  return files;
}

VerifierProcess::VerifierProcess(const VerifierOptions& options)
    : options_(options),
      log_(options.log),
      metrics_(kProgram),
      engine_metrics_(metrics_, ToEngineOptions(options)),
      trace_steps_(metrics_.AddCounters("decision_trace_steps_total",
                                        "Steps of --trace, and those lost to a slow or broken file",
                                        "outcome", {"written", "dropped"})),
      calls_(metrics_, {{"/tandem.v1.Verifier/Run",
                         {grpc::StatusCode::CANCELLED, grpc::StatusCode::INVALID_ARGUMENT,
                          grpc::StatusCode::FAILED_PRECONDITION, grpc::StatusCode::UNAVAILABLE}}}),
      health_({"tandem.v1.Verifier"}),
      service_({}, metrics_, log_),
      capture_(log_) {
  rpc::SetGrpcLogger(&log_);
  prometheus::Gauge& ready = metrics_.AddGauge("ready", "Whether the process takes work");
  prometheus::Counter& dropped = metrics_.AddCounter("log_dropped_total", "Log lines lost");
  metrics_.OnScrape([this, &ready, &dropped] {
    ready.Set(health_.ready() ? 1 : 0);
    telemetry::RaiseTo(dropped, static_cast<double>(log_.dropped()));
  });
}

VerifierProcess::~VerifierProcess() {
  engine_metrics_.Follow(nullptr);
  rpc::SetGrpcLogger(nullptr);
}

absl::Status VerifierProcess::BindMetrics() {
  ASSIGN_OR_RETURN(metrics_server_, telemetry::MetricsServer::Start(options_.metrics, metrics_));
  return absl::OkStatus();
}

absl::Status VerifierProcess::Bind() {
  ASSIGN_OR_RETURN(std::unique_ptr<rpc::Listener> listener,
                   rpc::Listener::Bind(options_.listen, options_.insecure));
  RETURN_IF_ERROR(BindMetrics());
  rpc::ServerOptions server;
  server.max_receive_bytes = kMaxRunMessageBytes;
  server.keepalive_time = absl::Seconds(10);
  server.keepalive_timeout = absl::Seconds(5);

  grpc::Service* const service = options_.capture ? static_cast<grpc::Service*>(&capture_) : &service_;
  prometheus::Counter& exhausted =
      metrics_.AddCounter("emfile_total", "Connections delayed or refused for want of descriptors");
  ASSIGN_OR_RETURN(server_, rpc::RpcServer::Start(
                                server, std::move(listener), {service}, health_,
                                {.on_exhausted = [&exhausted] { exhausted.Increment(); }, .calls = &calls_}));
  prometheus::Gauge& connections =
      metrics_.AddGauge("open_connections", "Client connections", {{"listener", "grpc"}});
  metrics_.OnScrape([this, &connections] { connections.Set(server_->num_connections()); });
  return absl::OkStatus();
}

absl::Status VerifierProcess::Load(ModelFiles files, std::vector<DrafterEndpoint> drafters) {
  const absl::Time start = absl::Now();
  pool_ = std::make_unique<ThreadPool>(NumThreads(options_));
  if (files.script.empty()) {
    ASSIGN_OR_RETURN(model_, models::LoadModel(*files.checkpoint, ToModelOptions(options_), *pool_));
  } else {
    log_.Warning("the model is scripted: the text means nothing, for measurements only");
    model_ = NewScriptedModel(files.checkpoint->config(), ToModelOptions(options_), std::move(files.script),
                              options_.scripted_step);
  }
  RunIdentity& identity = identity_;
  identity.incarnation = NewIncarnation();
  identity.model_fingerprint = files.checkpoint->Fingerprint();
  identity.numerics_id = model_->NumericsId();
  identity.tokenizer_hash = files.tokenizer_hash;
  identity.vocab_size = static_cast<int32_t>(model_->config().vocab_size);
  identity.eos_token_ids = model_->config().eos_token_ids;
  files.checkpoint.reset();  // nothing is mapped any more
  if (options_.capture) {
    RETURN_IF_ERROR(LoadCapture());
    ReportLoad(absl::Now() - start);
    return absl::OkStatus();
  }
  if (options_.profile) {
    model_->profile().Enable();
    stage_metrics_.emplace(metrics_);
  }
  EngineOptions engine = ToEngineOptions(options_);
  if (const std::string cache = CacheDirectory(); !cache.empty()) {
    engine.step_time_cache_path = StepTimeCachePath(
        cache,
        fmt::format("{}/{}/{} threads", model_->NumericsId(), kernels::ActiveTarget(), pool_->num_threads()));
  }
  ASSIGN_OR_RETURN(engine_, Engine::Create(engine, *model_, *pool_, Clock::Real()));

  RETURN_IF_ERROR(StartTrace());

  identity.max_model_len = engine_->max_model_len();
  identity.kv_block_positions = kernels::kKvBlockPositions;
  identity.kv_total_blocks = engine_->kv_total_blocks();
  identity.max_sequences = engine_->options().max_sequences;
  identity.max_step_tokens = engine_->options().max_step_tokens;
  identity.local_socket = options_.run_transport == "auto";
  if (!options_.drafters.empty()) identity.draft_block_size = engine_->options().max_draft_tokens;
  loop_ = StepLoop::Start(*engine_, Clock::Real(), [this](const StepStats& step, const EngineStats& stats) {
    engine_metrics_.OnStep(step, stats);
    if (stage_metrics_) stage_metrics_->OnStep(model_->profile());
  });
  engine_metrics_.SetMaxSequences(identity.max_sequences);
  engine_metrics_.Follow(loop_.get());
  watchdog_ = std::make_unique<telemetry::Watchdog>(
      telemetry::WatchdogOptions{}, [loop = loop_.get()] { return loop->stalled_for(); }, health_);
  RETURN_IF_ERROR(WarmUp(*loop_, kWarmUpPatience));
  ConnectDrafters(std::move(drafters));
  if (server_ != nullptr) service_.Open(identity, *loop_);
  ReportLoad(absl::Now() - start);
  return absl::OkStatus();
}

absl::Status VerifierProcess::LoadCapture() {
  CaptureOptions capture;
  capture.kv_bytes = options_.kv_bytes;
  capture.max_texts = options_.max_num_seqs;
  capture.prefill_chunk = std::min(options_.prefill_chunk, options_.max_step_tokens);
  ASSIGN_OR_RETURN(capture_engine_, CaptureEngine::Create(capture, *model_));
  identity_.max_model_len = capture_engine_->max_text_length();
  identity_.max_sequences = capture.max_texts;
  capture_.Open({identity_, static_cast<int32_t>(model_->config().hidden_size),
                 static_cast<int32_t>(model_->config().num_layers)},
                *capture_engine_);
  log_.Warning(
      "capture is on: whoever connects on this machine gets texts and hidden states; gateways are refused");
  return absl::OkStatus();
}

void VerifierProcess::Stop() {
  const bool was_ready = health_.ready();
  log_.Info("stopping", {{"streams", service_.num_streams()}});
  health_.SetReady(false);
  if (was_ready) absl::SleepFor(options_.drain_delay);  // balancers see it and go elsewhere
  capture_.Stop();
  service_.Drain(options_.drain_timeout);
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  watchdog_.reset();
  drafters_.reset();
  engine_metrics_.Follow(nullptr);
  loop_.reset();
  log_.Info("stopped");
}

std::string VerifierProcess::ListeningLine() const {
  return fmt::format("listening grpc={} metrics={}", server_->address().ToString(),
                     metrics_server_->address().ToString());
}

absl::Status VerifierProcess::StartTrace() {
  if (options_.trace.empty()) return absl::OkStatus();
  const EngineOptions& engine = engine_->options();
  TraceHeader header;
  header.policy = engine.speculation.policy;
  if (engine.speculation.num_drafters == 0) header.policy.kind = PolicyKind::kOff;
  header.acceptance = engine.speculation.acceptance;
  header.block_size = engine.max_draft_tokens;
  header.numerics_id = model_->NumericsId();
  header.step_time = engine_->step_time();
  ASSIGN_OR_RETURN(trace_, TraceRecorder::Start(options_.trace, header, [this](const absl::Status& error) {
                     log_.Warning("the decision trace ended", {{"error", std::string(error.message())}});
                   }));
  engine_->ObserveDecisions(trace_.get());
  metrics_.OnScrape([this] {
    telemetry::RaiseTo(trace_steps_["written"], static_cast<double>(trace_->num_written()));
    telemetry::RaiseTo(trace_steps_["dropped"], static_cast<double>(trace_->num_dropped()));
  });
  return absl::OkStatus();
}

void VerifierProcess::ConnectDrafters(std::vector<DrafterEndpoint> endpoints) {
  if (options_.drafters.empty()) return;
  speculation::RemoveStaleRings();  // of verifiers that were killed while they connected
  const SpeculationOptions& speculation = engine_->options().speculation;
  speculation::VerifierHello hello;
  hello.protocol_major = rpc::kProtocolMajor;
  hello.protocol_minor = rpc::kProtocolMinor;
  hello.incarnation = identity_.incarnation;
  hello.sampling_version = rpc::kSamplingVersion;
  hello.acceptance = speculation.acceptance;
  hello.top_m = speculation.acceptance == speculation::AcceptanceMode::kRejection ? speculation.top_m : 0;
  hello.target_fingerprint = identity_.model_fingerprint;
  hello.vocab_size = identity_.vocab_size;
  hello.hidden_size = static_cast<int32_t>(model_->config().hidden_size);
  hello.num_layers = static_cast<int32_t>(model_->config().num_layers);
  hello.max_model_len = identity_.max_model_len;
  hello.row_type = speculation.row_type;
  const speculation::LocalMachine machine = speculation::ReadLocalMachine();
  hello.boot_id = machine.boot_id;
  hello.uid = machine.uid;
  if (endpoints.empty()) {
    for (const Address& address : options_.drafters)
      endpoints.push_back({NewSpeculateLink(address), address.is_local()});
  }
  // A drafter elsewhere does not share this machine's boot id, so the offer is harmless there.
  hello.shared_memory = hello.local_socket = options_.row_transport != "inline";
  drafters_ = std::make_unique<DrafterConnections>(std::move(endpoints), hello, *loop_, metrics_, log_);
}

void VerifierProcess::ReportLoad(absl::Duration took) {
  metrics_.AddGauge("model_load_bytes", "Packed weights in memory")
      .Set(static_cast<double>(model_->WeightBytes()));
  metrics_.AddGauge("model_load_seconds", "Time from opening the files to ready")
      .Set(absl::ToDoubleSeconds(took));
  metrics_
      .AddGauge("model_info", "Always 1; the labels say what is served",
                {{"fingerprint", identity_.model_fingerprint}, {"numerics_id", identity_.numerics_id}})
      .Set(1);
  if (!options_.synthetic_acceptance.empty()) {
    log_.Warning("synthetic acceptance is on: the text is meaningless, for benchmarks only",
                 {{"probabilities", options_.synthetic_acceptance}});
  }
  log_.Info("ready", {{"numerics_id", identity_.numerics_id},
                      {"fingerprint", identity_.model_fingerprint},
                      {"max_model_len", identity_.max_model_len},
                      {"kv_blocks", identity_.kv_total_blocks},
                      {"max_num_seqs", identity_.max_sequences},
                      {"threads", pool_->num_threads()},
                      {"load_seconds", absl::ToDoubleSeconds(took)}});
}

}  // namespace tandem::verifier
