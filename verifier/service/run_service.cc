#include "verifier/service/run_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "common/base/status.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/stream_writer.h"
#include "verifier/service/run_messages.h"
#include "verifier/service/run_outbox.h"

namespace tandem::verifier {
namespace {

// While draining, how often to ask whether sequences still run, and how long a gateway has to read the last
// reports.
constexpr absl::Duration kDrainPoll = absl::Milliseconds(20);
constexpr absl::Duration kLastReports = absl::Seconds(1);

absl::Status DrainingError() { return Unavailable("verifier is draining"); }

// Ends an admission where it stands, so that the gateway admits it elsewhere.
SequenceReport GiveBack(const Admission& admission) {
  SequenceReport report;
  report.id = admission.id;
  report.epoch = admission.epoch;
  report.length = report.first_index = static_cast<int32_t>(admission.tokens.size());
  report.end = SequenceEnd::kPreempted;
  return report;
}

}  // namespace

// One gateway's stream. gRPC calls the On* methods, reads one at a time; OnCancel may come beside any of
// them. Deletes itself in OnDone.
class RunStream final : public grpc::ServerBidiReactor<v1::RunRequest, v1::RunResponse> {
 public:
  RunStream(RunService& service, grpc::CallbackServerContext* context)
      : service_(service), context_(context), peer_(context->peer()) {}

  // What to say first. With the service's lock held, before anybody else knows the stream.
  void Prepare(const RunIdentity& identity, Report first) {
    outbox_ = std::make_shared<RunOutbox>(MakeHello(identity), std::move(first));
    writer_ = std::make_shared<Writer>(
        Writer::Stream{.start_write = [this](const v1::RunResponse* message) { StartWrite(message); },
                       .finish = [this](const absl::Status& status) { FinishStream(status); }},
        [outbox = outbox_](v1::RunResponse& out) { return outbox->Take(out); });
  }

  void Start() {
    if (const absl::Status entered = service_.Enter(*this); !entered.ok()) {
      writer_->Abort(entered);
      return;
    }
    hello_alarm_.Set(absl::ToChronoTime(absl::Now() + service_.options_.hello_timeout),
                     [writer = writer_, hello_came = hello_came_](bool expired) {
                       if (expired && !*hello_came)
                         writer->Abort(absl::DeadlineExceededError("no hello came in time"));
                     });
    writer_->Wake();
    StartRead(&request_);
  }

  // With the service's lock held.
  void AnnounceDrain(absl::Duration drain) {
    outbox_->PutDraining(drain);
    writer_->Wake();
  }
  // With the service's lock held.
  void Heartbeat(const Report& now) {
    if (outbox_->PutHeartbeat(now)) writer_->Wake();
  }
  // Sends what is pending, then ends.
  void EndGently(const absl::Status& status) {
    LeaveEngine();
    writer_->Finish(status);
  }
  void EndNow(const absl::Status& status) {
    LeaveEngine();
    writer_->Abort(status);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {  // the gateway has half-closed, or is gone
      EndGently(absl::OkStatus());
      return;
    }
    const absl::Status status = HandleSafely();
    if (!status.ok()) {
      service_.log_.Warning("Run stream ends", {{"peer", peer_}, {"reason", status.message()}});
      EndNow(status);
      return;
    }
    StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    writer_->OnWriteDone(ok);
    if (!ok) LeaveEngine();
  }
  void OnCancel() override { EndNow(absl::CancelledError("the gateway left")); }
  void OnDone() override {
    LeaveEngine();
    writer_->Detach();
    hello_alarm_.Cancel();
    if (*hello_came_) {
      service_.log_.Info("gateway disconnected",
                         {{"peer", peer_}, {"incarnation", incarnation_}, {"plans", last_plan_}});
    }
    service_.Leave(*this);
    delete this;
  }

 private:
  using Writer = rpc::StreamWriter<v1::RunResponse>;

  void FinishStream(const absl::Status& status) {
    if (status.code() == absl::StatusCode::kUnavailable) {
      context_->AddTrailingMetadata("grpc-retry-pushback-ms",
                                    std::to_string(absl::ToInt64Milliseconds(service_.options_.retry_after)));
    }
    Finish(rpc::ToGrpcStatus(status));
  }

  absl::Status HandleSafely() {
    try {
      return Handle();
    } catch (const std::exception& e) {  // gRPC would end the process's callback thread with it
      service_.protocol_errors_["exception"].Increment();
      return Internal("cannot handle the message: {}", e.what());
    }
  }

  absl::Status Handle() {
    switch (request_.message_case()) {
      case v1::RunRequest::kHello:
        return HandleHello(request_.hello());
      case v1::RunRequest::kPlan:
        return HandlePlan(request_.plan());
      case v1::RunRequest::MESSAGE_NOT_SET:
        break;
    }
    service_.protocol_errors_["order"].Increment();
    return InvalidArgument("a message holds neither hello nor plan");
  }

  absl::Status HandleHello(const v1::GatewayHello& hello) {
    if (*hello_came_) {
      service_.protocol_errors_["order"].Increment();
      return InvalidArgument("a second hello came");
    }
    const HelloMismatch mismatch = CheckHello(service_.identity_, hello);
    if (!mismatch.status.ok()) {
      service_.handshake_failures_[mismatch.field].Increment();
      return mismatch.status;
    }
    *hello_came_ = true;
    incarnation_ = hello.incarnation();
    service_.log_.Info("gateway connected", {{"peer", peer_}, {"incarnation", incarnation_}});
    EnterEngine();
    return absl::OkStatus();
  }

  absl::Status HandlePlan(const v1::Plan& message) {
    if (!*hello_came_) {
      service_.protocol_errors_["order"].Increment();
      return InvalidArgument("a plan came before the hello");
    }
    if (message.number() <= last_plan_) {  // repeats are no-ops
      service_.stale_messages_.Increment();
      return absl::OkStatus();
    }
    if (message.number() != last_plan_ + 1) {
      service_.protocol_errors_["plan_number"].Increment();
      return InvalidArgument("plan.number must be {}, got {}", last_plan_ + 1, message.number());
    }
    absl::StatusOr<CheckedPlan> checked =
        CheckPlan(message, {service_.identity_.vocab_size, service_.identity_.max_model_len});
    if (!checked.ok()) {
      service_.protocol_errors_["plan"].Increment();
      return checked.status();
    }
    last_plan_ = message.number();
    Apply(*std::move(checked));
    return absl::OkStatus();
  }

  void Apply(CheckedPlan checked) {
    for (const SequenceReport& refused : checked.refused) {
      service_.protocol_errors_["admission"].Increment();
      service_.log_.Warning("admission refused",
                            {{"peer", peer_}, {"sequence", refused.id}, {"reason", refused.error.message()}});
    }
    std::vector<SequenceReport> ended = std::move(checked.refused);
    if (service_.draining()) {
      for (const Admission& admission : checked.plan.admissions) ended.push_back(GiveBack(admission));
      checked.plan.admissions.clear();
    }
    if (!ended.empty()) {
      outbox_->PutEnded(std::move(ended));
      writer_->Wake();
    }
    absl::MutexLock lock(&engine_mu_);
    if (engine_stream_) service_.loop_->PostPlan(*engine_stream_, std::move(checked.plan));
  }

  void EnterEngine() {
    absl::MutexLock lock(&engine_mu_);
    if (left_) return;
    engine_stream_ = service_.loop_->OpenStream([outbox = outbox_, writer = writer_](Report report) {
      outbox->Put(std::move(report));
      writer->Wake();
    });
  }
  void LeaveEngine() {
    absl::MutexLock lock(&engine_mu_);
    left_ = true;
    if (!engine_stream_) return;
    service_.loop_->CloseStream(*engine_stream_);
    engine_stream_.reset();
  }

  RunService& service_;
  grpc::CallbackServerContext* const context_;
  const std::string peer_;
  std::shared_ptr<RunOutbox> outbox_;
  std::shared_ptr<Writer> writer_;
  const std::shared_ptr<std::atomic<bool>> hello_came_ = std::make_shared<std::atomic<bool>>(false);
  grpc::Alarm hello_alarm_;

  // Of the reading side, one callback at a time.
  v1::RunRequest request_;
  std::string incarnation_;
  uint64_t last_plan_ = 0;

  // Never taken while the service's lock is wanted.
  absl::Mutex engine_mu_;
  std::optional<StreamId> engine_stream_ ABSL_GUARDED_BY(engine_mu_);
  bool left_ ABSL_GUARDED_BY(engine_mu_) = false;
};

RunService::RunService(const RunServiceOptions& options, telemetry::Metrics& metrics, telemetry::Logger& log)
    : options_(options),
      log_(log),
      protocol_errors_(metrics.AddCounters(
          "protocol_errors_total", "Messages of a peer that broke the protocol", "check",
          {"order", "plan_number", "plan", "admission", "exception"}, {{"peer", "gateway"}})),
      handshake_failures_(metrics.AddCounters("handshake_failures_total", "Hellos that did not fit, by field",
                                              "field", HelloFields(), {{"peer", "gateway"}})),
      stale_messages_(metrics.AddCounter("stale_messages_total", "Messages that came too late to matter",
                                         {{"stream", "run"}})) {}

RunService::~RunService() {
  {
    absl::MutexLock lock(&mu_);
    TANDEM_CHECK(streams_.empty());
    heartbeats_over_ = true;
  }
  if (heartbeats_.joinable()) heartbeats_.join();
}

void RunService::Open(const RunIdentity& identity, StepLoop& loop) {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(state_ == State::kStarting);
  identity_ = identity;
  loop_ = &loop;
  state_ = State::kOpen;
  heartbeats_ = std::thread([this] { Heartbeats(); });
}

void RunService::Heartbeats() {
  absl::MutexLock lock(&mu_);
  while (!mu_.AwaitWithTimeout(absl::Condition(&heartbeats_over_), options_.heartbeat)) {
    const Report now = PresentNumbers();
    for (RunStream* stream : streams_) stream->Heartbeat(now);
  }
}

void RunService::Drain(absl::Duration patience) {
  const absl::Time deadline = absl::Now() + patience;
  absl::MutexLock lock(&mu_);
  state_ = State::kDraining;
  for (RunStream* stream : streams_) stream->AnnounceDrain(patience);
  const auto no_streams = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return streams_.empty(); };
  while (!streams_.empty() && absl::Now() < deadline && loop_->stats().running_sequences > 0) {
    mu_.AwaitWithTimeout(absl::Condition(&no_streams), std::min(kDrainPoll, deadline - absl::Now()));
  }
  for (RunStream* stream : streams_) stream->EndGently(DrainingError());
  heartbeats_over_ = true;
  loop_ = nullptr;  // nobody is in the engine any more, and nobody gets in
  if (mu_.AwaitWithTimeout(absl::Condition(&no_streams), kLastReports)) return;
  for (RunStream* stream : streams_) stream->EndNow(DrainingError());
}

int RunService::num_streams() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(streams_.size());
}

bool RunService::AwaitNoStreams(absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  const auto no_streams = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return streams_.empty(); };
  return mu_.AwaitWithTimeout(absl::Condition(&no_streams), timeout);
}

bool RunService::draining() const {
  absl::MutexLock lock(&mu_);
  return state_ == State::kDraining;
}

absl::Status RunService::Enter(RunStream& stream) {
  absl::MutexLock lock(&mu_);
  stream.Prepare(identity_, PresentNumbers());
  if (state_ == State::kStarting) return Unavailable("verifier is starting");
  if (state_ == State::kDraining) return DrainingError();
  if (static_cast<int>(streams_.size()) >= options_.max_streams) {
    return Unavailable("verifier has {} streams, the limit", options_.max_streams);
  }
  streams_.insert(&stream);
  return absl::OkStatus();
}

Report RunService::PresentNumbers() const {
  Report report;
  if (loop_ == nullptr) return report;
  const EngineStats stats = loop_->stats();
  report.kv_free_blocks = stats.blocks_free;
  report.kv_cached_blocks = stats.blocks_cached;
  report.running_sequences = stats.running_sequences;
  report.utilization = stats.utilization;
  report.sequence_share = identity_.max_sequences;
  report.prefill_token_share = identity_.max_step_tokens;
  return report;
}

void RunService::Leave(RunStream& stream) {
  absl::MutexLock lock(&mu_);
  streams_.erase(&stream);
}

grpc::ServerBidiReactor<v1::RunRequest, v1::RunResponse>* RunService::Run(
    grpc::CallbackServerContext* context) {
  auto* stream = new RunStream(*this, context);
  stream->Start();
  return stream;
}

}  // namespace tandem::verifier
