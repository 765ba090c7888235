#include "gateway/run_link/run_link.h"

#include <utility>

#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/stream_writer.h"
#include "gateway/run_link/run_messages.h"

namespace tandem::gateway {

// One Run stream. The writer sends Hello first, then plans; a plan that waits for a write in flight takes in
// the later ones. The listener hears of everything on gRPC's threads, one call at a time (reads are one at a
// time, and OnDone comes after the last).
class RunLink::Stream : public grpc::ClientBidiReactor<v1::RunRequest, v1::RunResponse> {
 public:
  Stream(RunLink& link, const GatewayHello& hello, Listener& listener) : link_(link), listener_(listener) {
    writer_ = std::make_shared<rpc::StreamWriter<v1::RunRequest>>(
        rpc::StreamWriter<v1::RunRequest>::Stream{
            [this](const v1::RunRequest* message) { StartWrite(message); },
            [this](const absl::Status& why) { EndWrites(why); }},
        [this](v1::RunRequest& out) { return TakeNext(out); });
    FillHello(hello, *hello_.mutable_hello());
  }

  void Start(v1::Verifier::Stub& stub) {
    stub.async()->Run(&context_, this);
    AddHold();  // released by EndWrites: no OnDone before our side has ended
    StartCall();
    StartRead(&response_);
    writer_->Wake();
  }

  uint64_t SendPlan(Plan plan) {
    uint64_t number = 0;
    {
      absl::MutexLock lock(&mu_);
      if (has_pending_) {
        MergePlan(pending_, std::move(plan));
      } else {
        pending_ = std::move(plan);
        has_pending_ = true;
      }
      number = next_number_;
    }
    writer_->Wake();
    return number;
  }

  void End(const absl::Status& why) {
    {
      absl::MutexLock lock(&mu_);
      if (end_reason_.ok()) end_reason_ = why;
    }
    writer_->Abort(why);
  }

 private:
  bool TakeNext(v1::RunRequest& out) {
    absl::MutexLock lock(&mu_);
    if (!hello_sent_) {
      hello_sent_ = true;
      out = hello_;
      return true;
    }
    if (!has_pending_) return false;
    FillPlan(pending_, next_number_++, *out.mutable_plan());
    pending_ = Plan();
    has_pending_ = false;
    return true;
  }

  // Called once, by the writer. A cancelled call ends at once on both sides; half-closing would wait for the
  // peer.
  void EndWrites(const absl::Status&) {
    context_.TryCancel();
    RemoveHold();
  }

  void OnWriteDone(bool ok) override { writer_->OnWriteDone(ok); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      writer_->Abort(absl::UnavailableError("the verifier ended the stream"));
      return;
    }
    switch (response_.message_case()) {
      case v1::RunResponse::kHello:
        listener_.OnHello(ToHello(response_.hello()));
        break;
      case v1::RunResponse::kReport:
        listener_.OnReport(ToReport(std::move(*response_.mutable_report())));
        break;
      case v1::RunResponse::kDraining:
        listener_.OnDraining(absl::Milliseconds(response_.draining().drain_ms()));
        break;
      case v1::RunResponse::MESSAGE_NOT_SET:
        End(InvalidArgument("the verifier sent an empty message"));
        return;
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    writer_->Detach();
    absl::Status why;
    {
      absl::MutexLock lock(&mu_);
      why = end_reason_;
    }
    if (why.ok()) why = rpc::FromGrpcStatus(status);
    if (why.ok()) why = absl::UnavailableError("the verifier ended the stream");
    // What holds the link: after the lock is free nobody reaches this stream any more, and the link may be
    // connected anew or destroyed as soon as the listener has been told.
    Listener& listener = listener_;
    {
      absl::MutexLock lock(&link_.mu_);
      link_.stream_ = nullptr;
      listener.OnClosed(std::move(why));
    }
    delete this;
  }

  RunLink& link_;
  Listener& listener_;
  grpc::ClientContext context_;
  std::shared_ptr<rpc::StreamWriter<v1::RunRequest>> writer_;
  v1::RunRequest hello_;
  v1::RunResponse response_;

  absl::Mutex mu_;
  bool hello_sent_ ABSL_GUARDED_BY(mu_) = false;
  bool has_pending_ ABSL_GUARDED_BY(mu_) = false;
  Plan pending_ ABSL_GUARDED_BY(mu_);
  uint64_t next_number_ ABSL_GUARDED_BY(mu_) = 1;
  absl::Status end_reason_ ABSL_GUARDED_BY(mu_);
};

RunLink::RunLink(const Address& address)
    : name_(address.ToString()), channel_(rpc::NewChannel(address)), stub_(v1::Verifier::NewStub(channel_)) {}

RunLink::~RunLink() {
  absl::MutexLock lock(&mu_);
  if (stream_ != nullptr) stream_->End(absl::CancelledError("the gateway is going away"));
  const auto ended = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stream_ == nullptr; };
  mu_.Await(absl::Condition(&ended));
}

void RunLink::Connect(const GatewayHello& hello, Listener& listener) {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(stream_ == nullptr);
  stream_ = new Stream(*this, hello, listener);
  stream_->Start(*stub_);
}

uint64_t RunLink::SendPlan(Plan plan) {
  absl::MutexLock lock(&mu_);
  return stream_ == nullptr ? 0 : stream_->SendPlan(std::move(plan));
}

void RunLink::Close(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  if (stream_ != nullptr) stream_->End(why);
}

}  // namespace tandem::gateway
