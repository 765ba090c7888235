#include "verifier/service/speculate_link.h"

#include <grpcpp/alarm.h>
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
#include "common/speculation/hello_fit.h"
#include "common/speculation/projection_bytes.h"
#include "common/speculation/row_ring.h"
#include "common/speculation/wire/speculate_messages.h"
#include "tandem/v1/speculate.grpc.pb.h"
#include "verifier/service/draft_socket.h"
#include "verifier/service/speculate_outbox.h"

namespace tandem::verifier {
namespace {

using Writer = rpc::StreamWriter<v1::SpeculateRequest>;
using speculation::RowTransport;

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

// What the step loop needs of a stream to send. Outlives it, and then does nothing.
struct Exit {
  std::shared_ptr<SpeculateOutbox> outbox;  // null: no stream is open
  std::shared_ptr<Writer> writer;
  std::shared_ptr<EndReason> reason;
  std::shared_ptr<DraftSocket> socket;  // null: feeds go through the stream

  void End(absl::Status why) const {
    reason->Give(std::move(why));
    writer->Abort(absl::CancelledError());
  }
};

class Stream;

// Shared by a link and its stream, which ends on gRPC's threads.
struct Shared {
  absl::Mutex mu;
  Stream* stream ABSL_GUARDED_BY(mu) = nullptr;  // while its OnDone has not begun
  int num_alive ABSL_GUARDED_BY(mu) = 0;         // streams whose listener may still be called
};

// What a listener is told before anything else, put together from the drafter's first messages.
//
//   kHello -> (kProjection) -> kRing -> kSocket -> kOpen      answers may also come while chunks still do
struct Opening {
  std::optional<speculation::DrafterHello> hello;
  std::optional<speculation::ProjectionAssembler> assembler;  // while chunks are to come
  std::shared_ptr<const speculation::Projection> projection;
  bool ring_offered = false, socket_offered = false;  // and not answered yet
  RowTransport transport = RowTransport::kInline;
  std::unique_ptr<rpc::MessageSocket> socket;  // null: feeds and drafts stay in the stream

  bool complete() const { return hello && !assembler && !ring_offered && !socket_offered; }
};

// One call of Speculate. A read is always outstanding until the stream ends, so its failure is the one sign
// of the end, whoever caused it. Deletes itself in OnDone.
class Stream final : public grpc::ClientBidiReactor<v1::SpeculateRequest, v1::SpeculateResponse> {
 public:
  Stream(std::shared_ptr<Shared> shared, std::shared_ptr<grpc::Channel> channel,
         const speculation::VerifierHello& hello, DrafterLink::Listener& listener)
      : shared_(std::move(shared)),
        channel_(std::move(channel)),
        stub_(v1::Drafter::NewStub(channel_)),
        hello_(hello),
        listener_(listener),
        outbox_(std::make_shared<SpeculateOutbox>(hello)),
        writer_(std::make_shared<Writer>(
            Writer::Stream{
                .start_write = [this](const v1::SpeculateRequest* message) { StartWrite(message); },
                .finish = [this](const absl::Status&) { context_.TryCancel(); }},
            [outbox = outbox_](v1::SpeculateRequest& out) { return outbox->Take(out); })) {}

  void Start(absl::Duration open_timeout) {
    const std::shared_ptr<Writer> writer = writer_;
    open_alarm_.Set(absl::ToChronoTime(absl::Now() + open_timeout), [writer, reason = reason_,
                                                                     open_timeout](bool expired) {
      if (!expired) return;
      reason->Give(Unavailable("the drafter was not ready within {}", absl::FormatDuration(open_timeout)));
      writer->Abort(absl::CancelledError());
    });
    stub_->async()->Speculate(&context_, this);
    AddHold();  // writes start outside gRPC's callbacks
    StartRead(&response_);
    StartCall();
    writer->Wake();  // the stream may be gone by now
  }

  // With the shared lock held.
  Exit exit() const { return {outbox_, writer_, reason_, socket_}; }
  // With the shared lock held.
  void Cancel(absl::Status why) {
    reason_->Give(std::move(why));
    context_.TryCancel();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      const absl::Status handled = HandleSafely();
      if (handled.ok()) {
        response_.Clear();
        StartRead(&response_);
        return;
      }
      reason_->Give(handled);
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
    open_alarm_.Cancel();
    absl::Status why = reason_->Or(rpc::FromGrpcStatus(status));
    if (why.ok()) why = Unavailable("the drafter ended the stream");
    DrafterLink::Listener& listener = listener_;
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
      case v1::SpeculateResponse::kHello:
        RETURN_IF_ERROR(HandleHello(response_.hello()));
        break;
      case v1::SpeculateResponse::kProjection:
        RETURN_IF_ERROR(HandleProjection(response_.projection()));
        break;
      case v1::SpeculateResponse::kRing:
        RETURN_IF_ERROR(HandleRing(response_.ring()));
        break;
      case v1::SpeculateResponse::kSocket:
        RETURN_IF_ERROR(HandleSocket(response_.socket()));
        break;
      case v1::SpeculateResponse::kDrafts:
        if (!receiver_)
          return InvalidArgument("drafts came before the stream was open, or not by the socket");
        return receiver_->Receive(response_.drafts());
      case v1::SpeculateResponse::kDraining:
        return Unavailable("the drafter is leaving");
      case v1::SpeculateResponse::MESSAGE_NOT_SET:
        return InvalidArgument("a message holds none of hello, projection, ring, socket, drafts, draining");
    }
    OpenIfComplete();
    return absl::OkStatus();
  }

  absl::Status HandleHello(const v1::DrafterHello& message) {
    if (opening_.hello) return InvalidArgument("a second hello came");
    ASSIGN_OR_RETURN(speculation::DrafterHello hello, speculation::ReadHello(message));
    RETURN_IF_ERROR(speculation::CheckHellos(hello_, hello).status);
    if (hello.row_width > 0) {
      RETURN_IF_ERROR(speculation::CheckProjectionShape(hello, hello_.hidden_size));
      opening_.assembler.emplace(hello);
      const int64_t row_bytes = hello.row_width * speculation::RowTypeBytes(hello_.row_type);
      outbox_->SetRowBytes(row_bytes);
      if (hello.transport == RowTransport::kSharedMemory) OfferRing(hello.rows_granted, row_bytes);
    }
    if (hello.local_socket) OfferSocket();
    opening_.hello = std::move(hello);
    return absl::OkStatus();
  }

  // Without shared memory to be had rows go inline: the drafter learns so by the first feed.
  void OfferRing(int64_t slots, int64_t row_bytes) {
    auto ring = speculation::RowRingWriter::Create(slots, row_bytes);
    if (!ring.ok()) return listener_.OnFallback("rows go inline", ring.status());
    opening_.ring_offered = true;
    outbox_->OfferRing(*std::move(ring));
    writer_->Wake();
  }

  void OfferSocket() {
    auto socket = rpc::SocketListener::Create();
    if (!socket.ok()) return listener_.OnFallback("feeds and drafts go through gRPC", socket.status());
    opening_.socket_offered = true;
    outbox_->OfferSocket(*std::move(socket));
    writer_->Wake();
  }

  absl::Status HandleProjection(const v1::ProjectionChunk& chunk) {
    if (!opening_.assembler) return InvalidArgument("a projection chunk came that is not expected");
    RETURN_IF_ERROR(opening_.assembler->Add(chunk.offset(), std::as_bytes(std::span(chunk.data()))));
    if (!opening_.assembler->complete()) return absl::OkStatus();
    ASSIGN_OR_RETURN(speculation::Projection projection, opening_.assembler->Finish());
    opening_.projection = std::make_shared<const speculation::Projection>(std::move(projection));
    opening_.assembler.reset();
    return absl::OkStatus();
  }

  absl::Status HandleRing(const v1::RingAnswer& answer) {
    if (!opening_.ring_offered) return InvalidArgument("a ring answer came without an offer");
    ASSIGN_OR_RETURN(const bool in_use, outbox_->TakeRingAnswer(std::as_bytes(std::span(answer.nonce()))));
    opening_.ring_offered = false;
    if (in_use) {
      opening_.transport = RowTransport::kSharedMemory;
    } else {
      listener_.OnFallback("rows go inline", Unavailable("the drafter cannot open the ring"));
    }
    return absl::OkStatus();
  }

  absl::Status HandleSocket(const v1::SocketAnswer& answer) {
    if (!opening_.socket_offered) return InvalidArgument("a socket answer came without an offer");
    opening_.socket_offered = false;
    ASSIGN_OR_RETURN(opening_.socket, outbox_->TakeSocketAnswer(answer.connected()));
    if (!answer.connected()) {
      listener_.OnFallback("feeds and drafts go through gRPC",
                           Unavailable("the drafter cannot reach the socket"));
    }
    return absl::OkStatus();
  }

  void OpenIfComplete() {
    if (open_ || !opening_.complete()) return;
    open_ = true;
    open_alarm_.Cancel();
    BatchReceiver receiver(*opening_.hello, outbox_, listener_);
    std::shared_ptr<DraftSocket> socket;
    if (opening_.socket == nullptr) {
      receiver_.emplace(std::move(receiver));
    } else {
      socket = std::make_shared<DraftSocket>(
          std::move(opening_.socket), outbox_, std::move(receiver),
          [exit = Exit{outbox_, writer_, reason_, nullptr}](absl::Status why) { exit.End(std::move(why)); });
      absl::MutexLock lock(&shared_->mu);
      socket_ = socket;
    }
    listener_.OnOpen(*std::move(opening_.hello), std::move(opening_.projection), opening_.transport,
                     std::move(socket));
  }

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Drafter::Stub> stub_;
  grpc::ClientContext context_;
  const speculation::VerifierHello hello_;
  DrafterLink::Listener& listener_;
  const std::shared_ptr<EndReason> reason_ = std::make_shared<EndReason>();
  const std::shared_ptr<SpeculateOutbox> outbox_;
  const std::shared_ptr<Writer> writer_;
  grpc::Alarm open_alarm_;

  // Of the reading side, one callback at a time.
  v1::SpeculateResponse response_;
  Opening opening_;
  bool open_ = false;
  std::optional<BatchReceiver> receiver_;  // once it is open, unless drafts come by the socket

  std::shared_ptr<DraftSocket> socket_;  // null: there is none; guarded by the shared lock
};

class SpeculateLink final : public DrafterLink {
 public:
  SpeculateLink(const Address& address, const SpeculateLinkOptions& options)
      : address_(address),
        options_(options),
        name_(address.ToString()),
        shared_(std::make_shared<Shared>()) {}

  ~SpeculateLink() override {
    Close();
    absl::MutexLock lock(&shared_->mu);
    shared_->mu.Await(absl::Condition(
        +[](int* alive) { return *alive == 0; }, &shared_->num_alive));
  }

  void Connect(const speculation::VerifierHello& hello, Listener& listener) override {
    // Where steps do not wait for drafts these come by a thread of gRPC's, which knows when they came.
    speculation::VerifierHello own = hello;
    own.local_socket = hello.local_socket && address_.is_local();
    auto* stream = new Stream(shared_, rpc::NewChannel(address_, options_.channel), own, listener);
    {
      absl::MutexLock lock(&shared_->mu);
      TANDEM_CHECK(shared_->stream == nullptr);
      shared_->stream = stream;
      ++shared_->num_alive;
    }
    stream->Start(options_.open_timeout);
  }

  void PutRow(int64_t row_number, std::span<const std::byte> row) override {
    const Exit exit = StreamExit();
    if (exit.outbox == nullptr) return;
    if (absl::Status put = exit.outbox->PutRow(row_number, row); !put.ok()) exit.End(std::move(put));
  }

  void SendFeed(speculation::Feed feed) override {
    const Exit exit = StreamExit();
    if (exit.outbox == nullptr) return;
    exit.outbox->PutFeed(std::move(feed));
    if (exit.socket != nullptr) {
      exit.socket->SendFeeds();
    } else {
      exit.writer->Wake();
    }
  }

  void Close() override {
    absl::MutexLock lock(&shared_->mu);
    if (shared_->stream != nullptr) shared_->stream->Cancel(absl::CancelledError("the verifier closed it"));
  }

  const std::string& name() const override { return name_; }

 private:
  Exit StreamExit() {
    absl::MutexLock lock(&shared_->mu);
    return shared_->stream == nullptr ? Exit() : shared_->stream->exit();
  }

  const Address address_;
  const SpeculateLinkOptions options_;
  const std::string name_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace

std::unique_ptr<DrafterLink> NewSpeculateLink(const Address& address, const SpeculateLinkOptions& options) {
  rpc::KeepCallbackThreads();
  return std::make_unique<SpeculateLink>(address, options);
}

}  // namespace tandem::verifier
