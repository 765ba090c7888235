#include "gateway/run_link/run_link.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/rpc/callback_threads.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/stream_writer.h"
#include "gateway/run_link/plan_outbox.h"
#include "gateway/run_link/run_messages.h"
#include "gateway/run_link/run_socket.h"
#include "tandem/v1/run.grpc.pb.h"

namespace tandem::gateway {
namespace {

using Writer = rpc::StreamWriter<v1::RunRequest>;

// Why a stream was ended by us; the first reason counts. Outlives the stream.
class EndReason {
 public:
  void Give(absl::Status reason) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (!reason_) reason_ = std::move(reason);
  }
  absl::Status Or(absl::Status otherwise) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return reason_ ? *reason_ : std::move(otherwise);
  }

 private:
  absl::Mutex mu_;
  std::optional<absl::Status> reason_ ABSL_GUARDED_BY(mu_);
};

// What the batcher needs of a stream to send. Outlives it, and then does nothing.
struct Exit {
  std::shared_ptr<PlanOutbox> outbox;  // null: no stream is open
  std::shared_ptr<Writer> writer;
  std::shared_ptr<RunSocket> socket;  // null: plans go through the stream
};

class Stream;

// Shared by a link and its stream, which ends on gRPC's threads.
struct Shared {
  absl::Mutex mu;
  Stream* stream ABSL_GUARDED_BY(mu) = nullptr;  // while its OnDone has not begun
  int num_alive ABSL_GUARDED_BY(mu) = 0;         // streams whose listener may still be called
};

// One call of Run. A read is always outstanding until the stream ends, so its failure is the one sign of the
// end, whoever caused it. Deletes itself in OnDone.
class Stream final : public grpc::ClientBidiReactor<v1::RunRequest, v1::RunResponse> {
 public:
  Stream(std::shared_ptr<Shared> shared, std::shared_ptr<grpc::Channel> channel, const GatewayHello& hello,
         bool local_socket, int max_message_bytes, VerifierLink::Listener& listener)
      : shared_(std::move(shared)),
        channel_(std::move(channel)),
        stub_(v1::Verifier::NewStub(channel_)),
        local_socket_(local_socket),
        max_message_bytes_(static_cast<size_t>(max_message_bytes)),
        listener_(listener),
        outbox_(std::make_shared<PlanOutbox>(hello)),
        writer_(std::make_shared<Writer>(
            Writer::Stream{.start_write = [this](const v1::RunRequest* message) { StartWrite(message); },
                           .finish = [this](const absl::Status&) { context_.TryCancel(); }},
            [outbox = outbox_](v1::RunRequest& out) { return outbox->Take(out); })) {}

  void Start() {
    const std::shared_ptr<Writer> writer = writer_;
    stub_->async()->Run(&context_, this);
    AddHold();  // writes start outside gRPC's callbacks
    StartRead(&response_);
    StartCall();
    writer->Wake();  // the stream may be gone by now
  }

  // With the shared lock held.
  Exit exit() const { return {outbox_, writer_, socket_}; }
  // With the shared lock held.
  void Cancel(absl::Status why) {
    reason_->Give(std::move(why));
    context_.TryCancel();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      absl::Status handled = HandleSafely();
      if (handled.ok()) {
        StartRead(&response_);
        return;
      }
      reason_->Give(std::move(handled));
      context_.TryCancel();
    }
    writer_->Detach();  // from here on nothing starts a write
    RemoveHold();
  }

  void OnWriteDone(bool ok) override { writer_->OnWriteDone(ok); }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Shared> shared = shared_;
    {
      absl::MutexLock lock(&shared->mu);
      shared->stream = nullptr;
    }
    absl::Status why = reason_->Or(rpc::FromGrpcStatus(status));
    if (why.ok()) why = Unavailable("the verifier ended the stream");
    VerifierLink::Listener& listener = listener_;
    delete this;
    listener.OnClosed(std::move(why));
    absl::MutexLock lock(&shared->mu);
    --shared->num_alive;
  }

 private:
  absl::Status HandleSafely() {
    try {
      return Handle();
    } catch (const std::exception& e) {  // gRPC would end its thread, and the process, with it
      return Internal("cannot handle the message: {}", e.what());
    }
  }

  absl::Status Handle() {
    switch (response_.message_case()) {
      case v1::RunResponse::kHello:
        if (local_socket_ && response_.hello().local_socket() && !std::exchange(hello_came_, true))
          OfferSocket();
        listener_.OnHello(ReadHello(response_.hello()));
        return absl::OkStatus();
      case v1::RunResponse::kSocket:
        return HandleSocket(response_.socket());
      case v1::RunResponse::kReport:
        if (by_socket_) return InvalidArgument("a report came, and not by the socket");
        listener_.OnReport(ReadReport(response_.report()));
        return absl::OkStatus();
      case v1::RunResponse::kDraining:
        listener_.OnDraining(absl::Milliseconds(response_.draining().drain_ms()));
        return absl::OkStatus();
      case v1::RunResponse::MESSAGE_NOT_SET:
        break;
    }
    return InvalidArgument("a message holds none of hello, socket, report and draining");
  }

  // Before the listener knows of the stream, so that no plan has been sent.
  void OfferSocket() {
    auto socket = rpc::SocketListener::Create();
    if (!socket.ok()) return listener_.OnFallback(socket.status());
    outbox_->OfferSocket(*std::move(socket));
    writer_->Wake();
  }

  absl::Status HandleSocket(const v1::SocketAnswer& answer) {
    ASSIGN_OR_RETURN(auto connected, outbox_->TakeSocketAnswer(answer.connected(), max_message_bytes_));
    if (connected == nullptr) {
      listener_.OnFallback(Unavailable("the verifier cannot reach the socket"));
      writer_->Wake();  // for the plans that have waited
      return absl::OkStatus();
    }
    by_socket_ = true;
    auto socket = std::make_shared<RunSocket>(std::move(connected), outbox_, listener_,
                                              [writer = writer_, reason = reason_](absl::Status why) {
                                                reason->Give(std::move(why));
                                                writer->Abort(absl::CancelledError());
                                              });
    {
      absl::MutexLock lock(&shared_->mu);
      socket_ = socket;
    }
    listener_.OnSource(std::move(socket));
    return absl::OkStatus();
  }

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Verifier::Stub> stub_;
  grpc::ClientContext context_;
  const bool local_socket_;  // to be offered
  const size_t max_message_bytes_;
  VerifierLink::Listener& listener_;
  const std::shared_ptr<EndReason> reason_ = std::make_shared<EndReason>();
  const std::shared_ptr<PlanOutbox> outbox_;
  const std::shared_ptr<Writer> writer_;

  // Of the reading side, one callback at a time.
  v1::RunResponse response_;
  bool hello_came_ = false, by_socket_ = false;

  std::shared_ptr<RunSocket> socket_;  // null: there is none; guarded by the shared lock
};

class RunLink : public VerifierLink {
 public:
  RunLink(const Address& address, const RunLinkOptions& options)
      : address_(address),
        options_(options),
        name_(address.ToString()),
        shared_(std::make_shared<Shared>()) {}

  ~RunLink() override {
    Close(absl::CancelledError("the gateway stops"));
    absl::MutexLock lock(&shared_->mu);
    shared_->mu.Await(absl::Condition(
        +[](int* alive) { return *alive == 0; }, &shared_->num_alive));
  }

  void Connect(const GatewayHello& hello, Listener& listener) override {
    auto* stream = new Stream(shared_, rpc::NewChannel(address_, options_.channel), hello,
                              options_.local_socket && address_.is_local(),
                              options_.channel.max_receive_bytes, listener);
    {
      absl::MutexLock lock(&shared_->mu);
      TANDEM_CHECK(shared_->stream == nullptr);

      shared_->stream = stream;
      ++shared_->num_alive;
    }
    stream->Start();
  }

  uint64_t SendPlan(Plan plan) override {
    Exit exit;
    {
      absl::MutexLock lock(&shared_->mu);
      if (shared_->stream == nullptr) return 0;
      exit = shared_->stream->exit();
    }
    const uint64_t number = exit.outbox->Put(std::move(plan));
    if (exit.socket != nullptr) {
      exit.socket->SendPlans();
    } else {
      exit.writer->Wake();
    }
    return number;
  }

  void Close(const absl::Status& why) override {
    absl::MutexLock lock(&shared_->mu);
    if (shared_->stream != nullptr) shared_->stream->Cancel(why);
  }

  const std::string& name() const override { return name_; }

 private:
  const Address address_;
  const RunLinkOptions options_;
  const std::string name_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace

std::unique_ptr<VerifierLink> NewRunLink(const Address& address, const RunLinkOptions& options) {
  rpc::KeepCallbackThreads();
  return std::make_unique<RunLink>(address, options);
}

}  // namespace tandem::gateway
