#include "verifier/service/run_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "common/base/status.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/stream_writer.h"
#include "verifier/service/run_messages.h"
#include "verifier/service/run_outbox.h"
#include "verifier/service/run_socket.h"

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

// Where reports leave: by the stream's writer until there is a socket. Thread-safe; may outlive the stream,
// and then does nothing.
class ReportExit {
 public:
  ReportExit(std::shared_ptr<RunOutbox> outbox, std::shared_ptr<rpc::StreamWriter<v1::RunResponse>> writer)
      : outbox_(std::move(outbox)), writer_(std::move(writer)) {}

  RunOutbox& outbox() const { return *outbox_; }
  void UseSocket(std::shared_ptr<RunSocket> socket) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    socket_ = std::move(socket);
  }
  // The stream is over: the socket goes with it.
  void Close() ABSL_LOCKS_EXCLUDED(mu_) { UseSocket(nullptr); }
  // Sends what the outbox has.
  void Send() const ABSL_LOCKS_EXCLUDED(mu_) {
    std::shared_ptr<RunSocket> socket;
    {
      absl::MutexLock lock(&mu_);
      socket = socket_;
    }
    if (socket != nullptr) {
      socket->SendReports();
    } else {
      writer_->Wake();
    }
  }

 private:
  const std::shared_ptr<RunOutbox> outbox_;
  const std::shared_ptr<rpc::StreamWriter<v1::RunResponse>> writer_;
  mutable absl::Mutex mu_;
  std::shared_ptr<RunSocket> socket_ ABSL_GUARDED_BY(mu_);
};

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
    exit_ = std::make_shared<ReportExit>(outbox_, writer_);
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
    if (outbox_->PutHeartbeat(now)) exit_->Send();
  }
  // Sends what is pending, then ends.
  void EndGently(const absl::Status& status) {
    LeaveEngine();
    exit_->Send();
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
    const absl::Status status = Safely([this] { return Handle(); });
    if (!status.ok()) {
      LogEnd(status);
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
    exit_->Close();
    hello_alarm_.Cancel();
    if (*hello_came_) {
      service_.message_streams_[by_socket_ ? "unix" : "grpc"].Decrement();
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

  void LogEnd(const absl::Status& why) const {
    service_.log_.Warning("Run stream ends", {{"peer", peer_}, {"reason", why.message()}});
  }

  absl::Status Safely(absl::FunctionRef<absl::Status()> handle) {
    try {
      return handle();
    } catch (const std::exception& e) {  // the thread, and the process, would end with it
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
      case v1::RunRequest::kSocket:
        return HandleSocket(request_.socket());
      case v1::RunRequest::MESSAGE_NOT_SET:
        break;
    }
    service_.protocol_errors_["order"].Increment();
    return InvalidArgument("a message holds none of hello, plan and socket");
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
    service_.message_streams_["grpc"].Increment();
    service_.log_.Info("gateway connected", {{"peer", peer_}, {"incarnation", incarnation_}});
    EnterEngine();
    return absl::OkStatus();
  }

  absl::Status HandlePlan(const v1::Plan& message) {
    if (!*hello_came_ || by_socket_) {
      service_.protocol_errors_["order"].Increment();
      return InvalidArgument("a plan came {}", by_socket_ ? "and not by the socket" : "before the hello");
    }
    ASSIGN_OR_RETURN(std::optional<Plan> plan, TakePlan(message));
    absl::MutexLock lock(&engine_mu_);
    if (plan && engine_stream_) service_.loop_->PostPlan(*engine_stream_, *std::move(plan));
    return absl::OkStatus();
  }

  // A socket that cannot be reached is no fault of the stream: plans and reports then stay in it.
  absl::Status HandleSocket(const v1::SocketOffer& message) {
    if (!*hello_came_ || socket_came_ || last_plan_ > 0 || !service_.identity_.local_socket) {
      service_.protocol_errors_["order"].Increment();
      return InvalidArgument("a socket was offered that was not asked for, or too late");
    }
    socket_came_ = true;
    absl::StatusOr<std::unique_ptr<rpc::MessageSocket>> socket =
        rpc::MessageSocket::Connect({message.name(), message.nonce()}, kMaxRunMessageBytes);
    if (absl::IsInvalidArgument(socket.status())) {
      service_.protocol_errors_["socket"].Increment();
      return socket.status();
    }
    if (socket.ok()) {
      UseSocket(*std::move(socket));
    } else {
      service_.log_.Warning("the socket cannot be used, plans and reports go through gRPC",
                            {{"peer", peer_}, {"reason", socket.status().message()}});
      outbox_->PutSocketAnswer(false);
    }
    writer_->Wake();
    return absl::OkStatus();
  }

  void UseSocket(std::unique_ptr<rpc::MessageSocket> connected) {
    absl::MutexLock lock(&engine_mu_);
    if (!engine_stream_) return;  // the stream ends
    // The loop calls this no more once we have left the engine. It must not wait for the lock, under which
    // the engine is left.
    auto take_plan = [this, loop = service_.loop_,
                      stream = *engine_stream_](const absl::StatusOr<v1::Plan*>& message) {
      return Safely([&]() -> absl::Status {
        if (!message.ok()) service_.protocol_errors_["plan"].Increment();
        RETURN_IF_ERROR(message.status());
        ASSIGN_OR_RETURN(std::optional<Plan> plan, TakePlan(**message));
        if (plan) loop->PostPlan(stream, *std::move(plan));
        return absl::OkStatus();
      });
    };
    const auto socket = std::make_shared<RunSocket>(
        std::move(connected), outbox_, std::move(take_plan),
        [writer = writer_, &service = service_, peer = peer_](const absl::Status& why) {
          // What is no fault of a message is the gateway's leaving, which the stream shows as well.
          if (absl::IsInvalidArgument(why))
            service.log_.Warning("Run stream ends", {{"peer", peer}, {"reason", why.message()}});
          writer->Abort(why);
        });
    by_socket_ = true;
    service_.message_streams_["grpc"].Decrement();
    service_.message_streams_["unix"].Increment();
    outbox_->PutSocketAnswer(true);
    exit_->UseSocket(socket);
    service_.log_.Info("plans and reports go through a socket", {{"peer", peer_}});
    service_.loop_->AddSource(*engine_stream_, socket);
  }

  // Checks it and keeps what it refuses; nothing for a repeat. Where plans come in: the reading side, or the
  // step loop's thread.
  absl::StatusOr<std::optional<Plan>> TakePlan(const v1::Plan& message) {
    if (message.number() <= last_plan_) {  // repeats are no-ops
      service_.stale_messages_.Increment();
      return std::nullopt;
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
    return Refuse(*std::move(checked));
  }

  // What is left to do of it.
  Plan Refuse(CheckedPlan checked) {
    for (const SequenceReport& refused : checked.refused) {
      service_.protocol_errors_["admission"].Increment();
      service_.log_.Warning("admission refused",
                            {{"peer", peer_}, {"sequence", refused.id}, {"reason", refused.error.message()}});
    }
    std::vector<SequenceReport> ended = std::move(checked.refused);
    if (service_.draining_) {
      for (const Admission& admission : checked.plan.admissions) ended.push_back(GiveBack(admission));
      checked.plan.admissions.clear();
    }
    if (!ended.empty()) {
      outbox_->PutEnded(std::move(ended));
      exit_->Send();
    }
    return std::move(checked.plan);
  }

  void EnterEngine() {
    absl::MutexLock lock(&engine_mu_);
    if (left_) return;
    engine_stream_ = service_.loop_->OpenStream([exit = exit_](Report report) {
      exit->outbox().Put(std::move(report));
      exit->Send();
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
  std::shared_ptr<ReportExit> exit_;
  const std::shared_ptr<std::atomic<bool>> hello_came_ = std::make_shared<std::atomic<bool>>(false);
  grpc::Alarm hello_alarm_;

  // Of the reading side, one callback at a time.
  v1::RunRequest request_;
  std::string incarnation_;
  bool socket_came_ = false, by_socket_ = false;
  uint64_t last_plan_ = 0;  // once plans come by the socket, of the step loop

  // Never taken while the service's lock is wanted, nor on the step loop's thread.
  absl::Mutex engine_mu_;
  std::optional<StreamId> engine_stream_ ABSL_GUARDED_BY(engine_mu_);
  bool left_ ABSL_GUARDED_BY(engine_mu_) = false;
};

RunService::RunService(const RunServiceOptions& options, telemetry::Metrics& metrics, telemetry::Logger& log)
    : options_(options),
      log_(log),
      protocol_errors_(metrics.AddCounters(
          "protocol_errors_total", "Messages of a peer that broke the protocol", "check",
          {"order", "plan_number", "plan", "admission", "socket", "exception"}, {{"peer", "gateway"}})),
      handshake_failures_(metrics.AddCounters("handshake_failures_total", "Hellos that did not fit, by field",
                                              "field", HelloFields(), {{"peer", "gateway"}})),
      stale_messages_(metrics.AddCounter("stale_messages_total", "Messages that came too late to matter",
                                         {{"stream", "run"}})),
      message_streams_(metrics.AddGauges("run_message_streams",
                                         "Open streams of gateways, by how plans and reports travel",
                                         "transport", {"grpc", "unix"})) {}

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
  draining_ = true;
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
