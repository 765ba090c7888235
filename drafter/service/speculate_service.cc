#include "drafter/service/speculate_service.h"

#include <grpcpp/alarm.h>

#include <atomic>
#include <deque>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "common/base/status.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/stream_writer.h"
#include "common/speculation/hello_fit.h"
#include "common/speculation/row_ring.h"
#include "common/speculation/wire/speculate_messages.h"
#include "drafter/service/draft_outbox.h"
#include "drafter/service/feed_socket.h"
#include "drafter/service/misbehaviour.h"

namespace tandem::drafter {
namespace {

using speculation::RowTransport;

// How long a verifier has to read that we leave.
constexpr absl::Duration kLastWords = absl::Seconds(1);

absl::Status LeavingError() { return Unavailable("drafter is leaving"); }

class RingRows final : public RowSource {
 public:
  explicit RingRows(std::unique_ptr<speculation::RowRingReader> ring) : ring_(std::move(ring)) {}
  absl::Status Read(int64_t first, int64_t count, std::span<std::byte> out) override {
    return ring_->Read(first, count, out);
  }

 private:
  const std::unique_ptr<speculation::RowRingReader> ring_;
};

// Bytes of feeds that have been posted and not applied. Thread-safe.
class WaitingFeeds {
 public:
  // Whether they stay within `limit`.
  bool Add(uint64_t number, int64_t bytes, int64_t limit) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    feeds_.emplace_back(number, bytes);
    bytes_ += bytes;
    return bytes_ <= limit;
  }
  void Applied(uint64_t number) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    for (; !feeds_.empty() && feeds_.front().first <= number; feeds_.pop_front())
      bytes_ -= feeds_.front().second;
  }

 private:
  absl::Mutex mu_;
  std::deque<std::pair<uint64_t, int64_t>> feeds_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

// One verifier's stream. gRPC calls the On* methods, reads one at a time; OnCancel may come beside any of
// them. Deletes itself in OnDone.
class SpeculateStream final : public grpc::ServerBidiReactor<v1::SpeculateRequest, v1::SpeculateResponse> {
 public:
  SpeculateStream(SpeculateService& service, grpc::CallbackServerContext* context)
      : service_(service),
        context_(context),
        peer_(context->peer()),
        writer_(std::make_shared<Writer>(
            Writer::Stream{
                .start_write = [this](const v1::SpeculateResponse* message) { StartWrite(message); },
                .finish = [this](const absl::Status& status) { FinishStream(status); }},
            [outbox = outbox_](v1::SpeculateResponse& out) { return outbox->Take(out); })) {}

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
    StartRead(&request_);
  }

  // With the service's lock held.
  void SayLeaving() {
    outbox_->PutDraining();
    writer_->Finish(LeavingError());
  }
  void EndNow(const absl::Status& status) {
    LeaveEngine();
    writer_->Abort(status);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {  // the verifier has half-closed, or is gone
      LeaveEngine();
      writer_->Finish(absl::OkStatus());
      return;
    }
    const absl::Status status = HandleSafely();
    if (!status.ok()) {
      service_.log_.Warning("Speculate stream ends", {{"peer", peer_}, {"reason", status.message()}});
      EndNow(status);
      return;
    }
    StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    writer_->OnWriteDone(ok);
    if (!ok) LeaveEngine();
  }
  void OnCancel() override { EndNow(absl::CancelledError("the verifier left")); }
  void OnDone() override {
    LeaveEngine();
    writer_->Detach();
    hello_alarm_.Cancel();
    if (*hello_came_) {
      service_.open_streams_[TransportName()].Decrement();
      service_.message_streams_[MessageTransport()].Decrement();
      service_.log_.Info(
          "verifier disconnected",
          {{"peer", peer_}, {"feeds", socket_ == nullptr ? last_feed_ : socket_->last_feed()}});
    }
    service_.Remove(*this);
    delete this;
  }

 private:
  using Writer = rpc::StreamWriter<v1::SpeculateResponse>;

  const char* MessageTransport() const { return speculation::MessageTransportName(socket_ != nullptr); }
  std::string TransportName() const { return speculation::RowTransportName(hello_.transport); }

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

  absl::Status Counted(const char* check, absl::Status status) {
    if (!status.ok()) service_.protocol_errors_[check].Increment();
    return status;
  }

  absl::Status Handle() {
    switch (request_.message_case()) {
      case v1::SpeculateRequest::kHello:
        if (*hello_came_) return Counted("order", InvalidArgument("a second hello came"));
        return HandleHello(request_.hello());
      case v1::SpeculateRequest::kRing:
        if (!*hello_came_ || feeds_came_ || ring_came_ || hello_.transport != RowTransport::kSharedMemory)
          return Counted("order", InvalidArgument("a ring was offered that was not asked for, or too late"));
        return HandleRing(request_.ring());
      case v1::SpeculateRequest::kSocket:
        if (!*hello_came_ || feeds_came_ || socket_came_ || !hello_.local_socket)
          return Counted("order",
                         InvalidArgument("a socket was offered that was not asked for, or too late"));
        return HandleSocket(request_.socket());
      case v1::SpeculateRequest::kFeed:
        if (!*hello_came_) return Counted("order", InvalidArgument("a feed came before the hello"));
        if (socket_ != nullptr)
          return Counted("order", InvalidArgument("a feed came, and not by the socket"));
        return HandleFeed(request_.feed());
      case v1::SpeculateRequest::MESSAGE_NOT_SET:
        break;
    }
    return Counted("order", InvalidArgument("a message holds none of hello, ring, socket and feed"));
  }

  absl::Status HandleHello(const v1::SpeculateHello& message) {
    absl::StatusOr<speculation::VerifierHello> verifier = speculation::ReadHello(message);
    RETURN_IF_ERROR(Counted("hello", verifier.status()));
    speculation::DrafterHello answer = AnswerHello(service_.identity_, *verifier);
    const speculation::HelloMismatch mismatch = speculation::CheckHellos(*verifier, answer);
    if (!mismatch.status.ok()) {
      service_.handshake_failures_[mismatch.field].Increment();
      return mismatch.status;
    }
    verifier_ = *std::move(verifier);
    hello_ = answer;
    DraftOutbox::BatchHook hook;
    if (service_.script_ != nullptr && !service_.script_->misdeeds.empty()) {
      auto misbehaviours = std::make_shared<Misbehaviours>(*service_.script_, hello_.vocab_size);
      misbehaviours->Spoil(answer);
      hook = [misbehaviours](speculation::DraftBatch batch) {
        return misbehaviours->Spoil(std::move(batch));
      };
    }
    outbox_->PutHello(std::move(answer), service_.identity_.model.projection, std::move(hook));
    *hello_came_ = true;
    writer_->Wake();
    service_.open_streams_[TransportName()].Increment();
    service_.message_streams_[MessageTransport()].Increment();
    service_.log_.Info("verifier connected", {{"peer", peer_},
                                              {"incarnation", verifier_.incarnation},
                                              {"acceptance", AcceptanceModeName(verifier_.acceptance)},
                                              {"transport", TransportName()}});
    if (FingerprintsDiffer(verifier_, hello_)) {
      service_.log_.Warning("the draft model was trained for another target: fewer drafts will be accepted",
                            {{"peer", peer_},
                             {"trained_for", hello_.target_fingerprint},
                             {"target", verifier_.target_fingerprint}});
    }
    return absl::OkStatus();
  }

  int64_t RowBytes() const { return hello_.row_width * speculation::RowTypeBytes(verifier_.row_type); }

  // A ring that cannot be used is no fault of the stream: rows then go inline.
  absl::Status HandleRing(const v1::RingOffer& message) {
    absl::StatusOr<speculation::RingAddress> address = speculation::ReadRing(message);
    RETURN_IF_ERROR(Counted("ring", address.status()));
    if (address->row_bytes != RowBytes() || address->slots < hello_.rows_granted) {
      return Counted("ring",
                     InvalidArgument("the ring must have at least {} slots of {} bytes, got {} of {}",
                                     hello_.rows_granted, RowBytes(), address->slots, address->row_bytes));
    }
    ring_came_ = true;
    absl::StatusOr<std::unique_ptr<speculation::RowRingReader>> ring =
        speculation::RowRingReader::Open(*address);
    std::string nonce;
    if (ring.ok()) {
      const speculation::RingNonce& bytes = (*ring)->nonce();
      nonce.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      ring_ = *std::move(ring);
    } else {
      service_.log_.Warning("shared memory cannot be used, rows go inline",
                            {{"peer", peer_}, {"reason", ring.status().message()}});
    }
    outbox_->PutRingAnswer(std::move(nonce));
    writer_->Wake();
    return absl::OkStatus();
  }

  // A socket that cannot be reached is no fault of the stream either: feeds then stay in it.
  absl::Status HandleSocket(const v1::SocketOffer& message) {
    absl::StatusOr<rpc::SocketAddress> address = speculation::ReadSocket(message);
    RETURN_IF_ERROR(Counted("socket", address.status()));
    socket_came_ = true;
    absl::StatusOr<std::unique_ptr<rpc::MessageSocket>> socket = rpc::MessageSocket::Connect(*address);
    if (socket.ok()) {
      UseSocket(*std::move(socket));
    } else {
      service_.log_.Warning("the socket cannot be used, feeds go through gRPC",
                            {{"peer", peer_}, {"reason", socket.status().message()}});
    }
    outbox_->PutSocketAnswer(socket_ != nullptr);
    writer_->Wake();
    return absl::OkStatus();
  }

  // Feeds may come as soon as the verifier has our answer.
  void UseSocket(std::unique_ptr<rpc::MessageSocket> socket) {
    feeds_came_ = true;
    inline_rows_ = ring_ == nullptr;
    outbox_->UseSocket();
    socket_ = std::make_shared<FeedSocket>(
        std::move(socket), outbox_, Bounds(),
        [writer = writer_, &service = service_, peer = peer_](absl::Status why) {
          // What is no fault of a message is the verifier's leaving, which the stream shows as well.
          if (absl::IsInvalidArgument(why)) {
            service.protocol_errors_["feed"].Increment();
            service.log_.Warning("Speculate stream ends", {{"peer", peer}, {"reason", why.message()}});
          }
          writer->Abort(why);
        });
    service_.message_streams_["grpc"].Decrement();
    service_.message_streams_["unix"].Increment();
    service_.log_.Info("feeds and drafts go through a socket", {{"peer", peer_}});
    EnterEngine();
  }

  speculation::FeedBounds Bounds() const {
    return {.vocab_size = hello_.vocab_size,
            .max_context_rows = hello_.max_context_rows,
            .row_bytes = RowBytes(),
            .inline_rows = inline_rows_};
  }

  absl::Status HandleFeed(const v1::Feed& message) {
    if (!feeds_came_) {
      feeds_came_ = true;
      inline_rows_ = ring_ == nullptr;
      EnterEngine();
    }
    absl::StatusOr<speculation::Feed> feed = speculation::ReadFeed(message, Bounds());
    RETURN_IF_ERROR(Counted("feed", feed.status()));
    last_feed_ = feed->number;
    if (!waiting_->Add(feed->number, static_cast<int64_t>(message.ByteSizeLong()),
                       service_.options_.max_waiting_bytes)) {
      return Counted("flood", ResourceExhausted("more than {} bytes of feeds wait for their turn",
                                                service_.options_.max_waiting_bytes));
    }
    absl::MutexLock lock(&engine_mu_);
    if (engine_stream_) service_.loop_->PostFeed(*engine_stream_, *std::move(feed));
    return absl::OkStatus();
  }

  void EnterEngine() {
    absl::MutexLock lock(&engine_mu_);
    if (left_) return;
    StreamSetup setup;
    setup.row_type = verifier_.row_type;
    setup.mode = {.acceptance = verifier_.acceptance, .top_m = verifier_.top_m};
    if (ring_ != nullptr) setup.rows = std::make_unique<RingRows>(std::move(ring_));
    engine_stream_ = service_.loop_->OpenStream(
        std::move(setup),
        {.on_batch =
             [outbox = outbox_, writer = writer_, waiting = waiting_,
              socket = socket_](speculation::DraftBatch batch) {
               waiting->Applied(batch.feed_number);
               outbox->PutBatch(std::move(batch));
               if (socket != nullptr) {
                 socket->SendBatches();
               } else {
                 writer->Wake();
               }
             },
         .on_error =
             [writer = writer_, &service = service_, peer = peer_](absl::Status error) {
               service.protocol_errors_["feed_order"].Increment();
               service.log_.Warning("Speculate stream ends", {{"peer", peer}, {"reason", error.message()}});
               writer->Abort(error);
             }},
        socket_);
  }
  void LeaveEngine() {
    absl::MutexLock lock(&engine_mu_);
    left_ = true;
    if (!engine_stream_) return;
    service_.loop_->CloseStream(*engine_stream_);
    engine_stream_.reset();
  }

  SpeculateService& service_;
  grpc::CallbackServerContext* const context_;
  const std::string peer_;
  const std::shared_ptr<DraftOutbox> outbox_ = std::make_shared<DraftOutbox>();
  const std::shared_ptr<WaitingFeeds> waiting_ = std::make_shared<WaitingFeeds>();
  const std::shared_ptr<Writer> writer_;
  const std::shared_ptr<std::atomic<bool>> hello_came_ = std::make_shared<std::atomic<bool>>(false);
  grpc::Alarm hello_alarm_;

  // Of the reading side, one callback at a time.
  v1::SpeculateRequest request_;
  speculation::VerifierHello verifier_;
  speculation::DrafterHello hello_;                   // our answer
  std::unique_ptr<speculation::RowRingReader> ring_;  // until the engine has it
  std::shared_ptr<FeedSocket> socket_;                // null: feeds and batches stay in the stream
  bool ring_came_ = false, socket_came_ = false, feeds_came_ = false, inline_rows_ = true;
  uint64_t last_feed_ = 0;

  // Never taken while the service's lock is wanted.
  absl::Mutex engine_mu_;
  std::optional<StreamId> engine_stream_ ABSL_GUARDED_BY(engine_mu_);
  bool left_ ABSL_GUARDED_BY(engine_mu_) = false;
};

SpeculateService::SpeculateService(const SpeculateServiceOptions& options, telemetry::Metrics& metrics,
                                   telemetry::Logger& log, const Script* script)
    : options_(options),
      log_(log),
      script_(script),
      protocol_errors_(metrics.AddCounters(
          "protocol_errors_total", "Messages of a peer that broke the protocol", "check",
          {"order", "hello", "ring", "socket", "feed", "feed_order", "flood", "exception"},
          {{"peer", "verifier"}})),
      handshake_failures_(metrics.AddCounters("handshake_failures_total", "Hellos that did not fit, by field",
                                              "field", speculation::HelloFields(), {{"peer", "verifier"}})),
      open_streams_(metrics.AddGauges("drafter_streams",
                                      "Open streams of verifiers, by how hidden rows travel", "transport",
                                      {"inline", "shm"})),
      message_streams_(metrics.AddGauges("drafter_message_streams",
                                         "Open streams of verifiers, by how feeds and drafts travel",
                                         "transport", {"grpc", "unix"})) {}

SpeculateService::~SpeculateService() {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(streams_.empty());
}

void SpeculateService::Open(const DrafterIdentity& identity, DraftLoop& loop) {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(state_ == State::kStarting);
  identity_ = identity;
  loop_ = &loop;
  state_ = State::kOpen;
}

void SpeculateService::Leave() {
  absl::MutexLock lock(&mu_);
  state_ = State::kLeaving;
  for (SpeculateStream* stream : streams_) stream->SayLeaving();
  const auto no_streams = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return streams_.empty(); };
  if (mu_.AwaitWithTimeout(absl::Condition(&no_streams), kLastWords)) return;
  for (SpeculateStream* stream : streams_) stream->EndNow(LeavingError());
}

int SpeculateService::num_streams() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(streams_.size());
}

absl::Status SpeculateService::Enter(SpeculateStream& stream) {
  absl::MutexLock lock(&mu_);
  if (state_ == State::kStarting) return Unavailable("drafter is starting");
  if (state_ == State::kLeaving) return LeavingError();
  if (static_cast<int>(streams_.size()) >= options_.max_streams) {
    return Unavailable("drafter has {} streams, the limit", options_.max_streams);
  }
  streams_.insert(&stream);
  return absl::OkStatus();
}

void SpeculateService::Remove(SpeculateStream& stream) {
  absl::MutexLock lock(&mu_);
  streams_.erase(&stream);
}

grpc::ServerBidiReactor<v1::SpeculateRequest, v1::SpeculateResponse>* SpeculateService::Speculate(
    grpc::CallbackServerContext* context) {
  auto* stream = new SpeculateStream(*this, context);
  stream->Start();
  return stream;
}

}  // namespace tandem::drafter
