#include "gateway/run_link/run_link.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/rpc/callback_threads.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/stream_writer.h"
#include "gateway/run_link/run_messages.h"
#include "tandem/v1/run.grpc.pb.h"

namespace tandem::gateway {
namespace {

using Writer = rpc::StreamWriter<v1::RunRequest>;

// What waits to be sent on one stream. Thread-safe.
class Outbox {
 public:
  explicit Outbox(GatewayHello hello) : hello_(std::move(hello)) {}

  // Returns the number of the plan that will carry it.
  uint64_t Put(Plan plan) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (pending_) {
      MergePlan(*pending_, std::move(plan));
    } else {
      pending_ = std::move(plan);
    }
    return number_ + 1;
  }

  bool Take(v1::RunRequest& out) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (hello_) {
      FillHello(*std::exchange(hello_, std::nullopt), *out.mutable_hello());
      return true;
    }
    if (!pending_) return false;
    FillPlan(*std::exchange(pending_, std::nullopt), ++number_, *out.mutable_plan());
    return true;
  }

 private:
  absl::Mutex mu_;
  std::optional<GatewayHello> hello_ ABSL_GUARDED_BY(mu_);
  std::optional<Plan> pending_ ABSL_GUARDED_BY(mu_);
  uint64_t number_ ABSL_GUARDED_BY(mu_) = 0;
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
         VerifierLink::Listener& listener)
      : shared_(std::move(shared)),
        channel_(std::move(channel)),
        stub_(v1::Verifier::NewStub(channel_)),
        listener_(listener),
        outbox_(std::make_shared<Outbox>(hello)),
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
  std::pair<std::shared_ptr<Outbox>, std::shared_ptr<Writer>> out() const { return {outbox_, writer_}; }
  // With the shared lock held. The first reason counts.
  void Cancel(const absl::Status& why) {
    if (!reason_) reason_ = why;
    context_.TryCancel();
  }

  void OnReadDone(bool ok) override {
    if (ok && HandleSafely()) {
      StartRead(&response_);
      return;
    }
    if (ok) context_.TryCancel();
    writer_->Detach();  // from here on nothing starts a write
    RemoveHold();
  }

  void OnWriteDone(bool ok) override { writer_->OnWriteDone(ok); }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Shared> shared = shared_;
    absl::Status why = rpc::FromGrpcStatus(status);
    {
      absl::MutexLock lock(&shared->mu);
      shared->stream = nullptr;
      if (reason_) why = *reason_;
    }
    if (why.ok()) why = Unavailable("the verifier ended the stream");
    VerifierLink::Listener& listener = listener_;
    delete this;
    listener.OnClosed(std::move(why));
    absl::MutexLock lock(&shared->mu);
    --shared->num_alive;
  }

 private:
  // Whether to read on.
  bool HandleSafely() {
    try {
      switch (response_.message_case()) {
        case v1::RunResponse::kHello:
          listener_.OnHello(ReadHello(response_.hello()));
          return true;
        case v1::RunResponse::kReport:
          listener_.OnReport(ReadReport(response_.report()));
          return true;
        case v1::RunResponse::kDraining:
          listener_.OnDraining(absl::Milliseconds(response_.draining().drain_ms()));
          return true;
        case v1::RunResponse::MESSAGE_NOT_SET:
          break;
      }
      Give(InvalidArgument("a message holds neither hello, report nor draining"));
    } catch (const std::exception& e) {  // gRPC would end its thread, and the process, with it
      Give(Internal("cannot handle the message: {}", e.what()));
    }
    return false;
  }
  void Give(absl::Status reason) {
    absl::MutexLock lock(&shared_->mu);
    if (!reason_) reason_ = std::move(reason);
  }

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Verifier::Stub> stub_;
  grpc::ClientContext context_;
  VerifierLink::Listener& listener_;
  const std::shared_ptr<Outbox> outbox_;
  const std::shared_ptr<Writer> writer_;
  v1::RunResponse response_;
  std::optional<absl::Status> reason_;  // why we ended it; guarded by shared_->mu
};

class RunLink : public VerifierLink {
 public:
  RunLink(const Address& address, const rpc::ChannelOptions& options)
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
    auto* stream = new Stream(shared_, rpc::NewChannel(address_, options_), hello, listener);
    {
      absl::MutexLock lock(&shared_->mu);
      TANDEM_CHECK(shared_->stream == nullptr);

      shared_->stream = stream;
      ++shared_->num_alive;
    }
    stream->Start();
  }

  uint64_t SendPlan(Plan plan) override {
    std::shared_ptr<Outbox> outbox;
    std::shared_ptr<Writer> writer;
    {
      absl::MutexLock lock(&shared_->mu);
      if (shared_->stream == nullptr) return 0;
      std::tie(outbox, writer) = shared_->stream->out();
    }
    const uint64_t number = outbox->Put(std::move(plan));
    writer->Wake();
    return number;
  }

  void Close(const absl::Status& why) override {
    absl::MutexLock lock(&shared_->mu);
    if (shared_->stream != nullptr) shared_->stream->Cancel(why);
  }

  const std::string& name() const override { return name_; }

 private:
  const Address address_;
  const rpc::ChannelOptions options_;
  const std::string name_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace

std::unique_ptr<VerifierLink> NewRunLink(const Address& address, const rpc::ChannelOptions& options) {
  rpc::KeepCallbackThreads();
  return std::make_unique<RunLink>(address, options);
}

}  // namespace tandem::gateway
