#include "verifier/service/capture_service.h"

#include <grpcpp/alarm.h>

#include <atomic>
#include <deque>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/protocol_version.h"
#include "common/rpc/stream_writer.h"

namespace tandem::verifier {
namespace {

constexpr absl::Duration kHelloTimeout = absl::Seconds(5);

// What waits to be sent; the writer takes one message at a time.
class Outbox {
 public:
  void PutHello(v1::CaptureWelcome hello) {
    absl::MutexLock lock(&mu_);
    *messages_.emplace_back().mutable_hello() = std::move(hello);
  }
  void Put(std::vector<CapturedPiece> pieces) {
    absl::MutexLock lock(&mu_);
    for (CapturedPiece& piece : pieces) {
      bytes_ += static_cast<int64_t>(piece.rows.size());
      v1::CapturedPiece& message = *messages_.emplace_back().mutable_piece();
      message.set_id(piece.id);
      message.set_first_position(static_cast<uint32_t>(piece.first_position));
      message.set_num_rows(static_cast<uint32_t>(piece.num_rows));
      message.set_rows(std::move(piece.rows));
      message.mutable_token_ids()->Add(piece.tokens.begin(), piece.tokens.end());
      message.set_done(piece.done);
    }
  }
  bool Take(v1::CaptureResponse& out) {
    absl::MutexLock lock(&mu_);
    if (messages_.empty()) return false;
    out = std::move(messages_.front());
    messages_.pop_front();
    bytes_ -= static_cast<int64_t>(out.piece().rows().size());
    return true;
  }
  int64_t bytes() const {
    absl::MutexLock lock(&mu_);
    return bytes_;
  }

 private:
  mutable absl::Mutex mu_;
  std::deque<v1::CaptureResponse> messages_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;  // of rows
};

absl::StatusOr<speculation::RowType> ReadRowType(v1::RowType type) {
  if (type == v1::ROW_TYPE_F32) return speculation::RowType::kF32;
  if (type == v1::ROW_TYPE_BF16) return speculation::RowType::kBF16;
  return InvalidArgument("hello.row_type must be F32 or BF16, got {}", static_cast<int>(type));
}

v1::CaptureWelcome MakeWelcome(const CaptureIdentity& identity, const CaptureEngine& engine) {
  v1::CaptureWelcome welcome;
  welcome.mutable_protocol()->set_major(rpc::kProtocolMajor);
  welcome.mutable_protocol()->set_minor(rpc::kProtocolMinor);
  welcome.set_model_fingerprint(identity.run.model_fingerprint);
  welcome.set_numerics_id(identity.run.numerics_id);
  welcome.set_tokenizer_hash(identity.run.tokenizer_hash);
  welcome.set_vocab_size(static_cast<uint32_t>(identity.run.vocab_size));
  welcome.set_hidden_size(static_cast<uint32_t>(identity.hidden_size));
  welcome.set_num_layers(static_cast<uint32_t>(identity.num_layers));
  welcome.mutable_eos_token_ids()->Add(identity.run.eos_token_ids.begin(), identity.run.eos_token_ids.end());
  welcome.set_max_text_length(static_cast<uint32_t>(engine.max_text_length()));
  welcome.set_max_texts(static_cast<uint32_t>(engine.max_texts()));
  return welcome;
}

absl::StatusOr<CaptureText> ReadText(const v1::CaptureText& message) {
  CaptureText text;
  text.id = message.id();
  text.tokens.assign(message.token_ids().begin(), message.token_ids().end());
  // Numbers beyond int32 cannot be lengths; -1 is refused by the engine, which knows the limits.
  text.max_tokens = message.max_tokens() > INT32_MAX ? -1 : static_cast<int32_t>(message.max_tokens());
  text.stop_token_ids.assign(message.stop_token_ids().begin(), message.stop_token_ids().end());
  if (message.top_k() > INT32_MAX)
    return InvalidArgument("text.top_k must be in 0..{}, got {}", INT32_MAX, message.top_k());
  text.sampling.seed = message.seed();
  text.sampling.temperature = message.temperature();
  text.sampling.top_k = static_cast<int32_t>(message.top_k());
  text.sampling.top_p = message.top_p();
  text.sampling.min_p = message.min_p();
  text.rows = message.rows();
  return text;
}

}  // namespace

// One trainer's stream. gRPC calls the On* methods, reads one at a time. Deletes itself in OnDone.
class CaptureStream final : public grpc::ServerBidiReactor<v1::CaptureRequest, v1::CaptureResponse> {
 public:
  CaptureStream(CaptureService& service, grpc::CallbackServerContext* context)
      : service_(service),
        peer_(context->peer()),
        outbox_(std::make_shared<Outbox>()),
        writer_(std::make_shared<Writer>(
            Writer::Stream{
                .start_write = [this](const v1::CaptureResponse* message) { StartWrite(message); },
                .finish = [this](const absl::Status& status) { Finish(rpc::ToGrpcStatus(status)); }},
            [outbox = outbox_](v1::CaptureResponse& out) { return outbox->Take(out); })) {}

  void Start() {
    if (const absl::Status entered = service_.Enter(*this); !entered.ok()) {
      writer_->Abort(entered);
      return;
    }
    hello_alarm_.Set(absl::ToChronoTime(absl::Now() + kHelloTimeout),
                     [writer = writer_, hello_came = hello_came_](bool expired) {
                       if (expired && !*hello_came)
                         writer->Abort(absl::DeadlineExceededError("no hello came in time"));
                     });
    StartRead(&request_);
  }
  void EndNow(const absl::Status& status) { writer_->Abort(status); }

  void OnReadDone(bool ok) override {
    if (!ok) {  // the trainer has half-closed, or is gone: what it asked for is finished first
      absl::MutexLock lock(&mu_);
      no_more_texts_ = true;
      if (!thread_.joinable()) writer_->Finish(absl::OkStatus());
      return;
    }
    if (const absl::Status status = HandleSafely(); !status.ok()) {
      service_.log_.Warning("Capture stream ends", {{"peer", peer_}, {"reason", status.message()}});
      EndNow(status);
      return;
    }
    StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    writer_->OnWriteDone(ok);
    absl::MutexLock lock(&mu_);  // lets the thread look whether there is room again
  }
  void OnCancel() override { EndNow(absl::CancelledError("the trainer left")); }
  void OnDone() override {
    {
      absl::MutexLock lock(&mu_);
      over_ = true;
    }
    if (thread_.joinable()) thread_.join();  // within a step
    writer_->Detach();
    hello_alarm_.Cancel();
    service_.Leave(*this);
    delete this;
  }

  // With the service's lock held, before the first read.
  void Prepare(CaptureEngine& engine) { engine_ = &engine; }

 private:
  using Writer = rpc::StreamWriter<v1::CaptureResponse>;

  absl::Status HandleSafely() {
    try {
      return Handle();
    } catch (const std::exception& e) {  // gRPC would end the process's callback thread with it
      return Internal("cannot handle the message: {}", e.what());
    }
  }

  absl::Status Handle() {
    switch (request_.message_case()) {
      case v1::CaptureRequest::kHello:
        return HandleHello(request_.hello());
      case v1::CaptureRequest::kText:
        return HandleText(request_.text());
      case v1::CaptureRequest::MESSAGE_NOT_SET:
        break;
    }
    return InvalidArgument("a message holds neither hello nor text");
  }

  absl::Status HandleHello(const v1::CaptureHello& hello) {
    if (*hello_came_) return InvalidArgument("a second hello came");
    if (hello.protocol().major() != rpc::kProtocolMajor) {
      return FailedPrecondition("hello.protocol differs: verifier {}, trainer {}", rpc::kProtocolMajor,
                                hello.protocol().major());
    }
    if (hello.sampling_version() != rpc::kSamplingVersion) {
      return FailedPrecondition("hello.sampling_version differs: verifier {}, trainer {}",
                                rpc::kSamplingVersion, hello.sampling_version());
    }
    ASSIGN_OR_RETURN(const speculation::RowType row_type, ReadRowType(hello.row_type()));
    RETURN_IF_ERROR(engine_->Start({hello.layers().begin(), hello.layers().end()}, row_type));
    *hello_came_ = true;
    service_.log_.Info("trainer connected", {{"peer", peer_}, {"layers", hello.layers_size()}});
    outbox_->PutHello(MakeWelcome(service_.identity_, *engine_));
    writer_->Wake();
    thread_ = std::thread([this] { Work(); });
    return absl::OkStatus();
  }

  absl::Status HandleText(const v1::CaptureText& message) {
    if (!*hello_came_) return InvalidArgument("a text came before the hello");
    ASSIGN_OR_RETURN(CaptureText text, ReadText(message));
    absl::MutexLock lock(&mu_);
    if (static_cast<int>(inbox_.size()) >= engine_->max_texts())
      return ResourceExhausted("{} texts are unfinished, the limit", inbox_.size());
    inbox_.push_back(std::move(text));
    return absl::OkStatus();
  }

  // The stream's thread; from the hello on it alone uses the engine.
  void Work() {
    try {
      const absl::Status status = WorkUntilOver();
      if (!status.ok())
        service_.log_.Warning("Capture stream ends", {{"peer", peer_}, {"reason", status.message()}});
      if (status.ok()) {
        writer_->Finish(status);
      } else {
        writer_->Abort(status);
      }
    } catch (const std::exception& e) {
      writer_->Abort(Internal("capture failed: {}", e.what()));
    }
  }

  absl::Status WorkUntilOver() {
    for (;;) {
      std::vector<CaptureText> arrived;
      {
        absl::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(this, &CaptureStream::HasSomethingToDo));
        if (over_) return absl::OkStatus();
        if (no_more_texts_ && inbox_.empty() && !engine_->has_work()) return absl::OkStatus();
        arrived = std::exchange(inbox_, {});
      }
      for (CaptureText& text : arrived) {
        RETURN_IF_ERROR(engine_->Check(text));
        engine_->Add(std::move(text));
      }
      if (!engine_->has_work() || outbox_->bytes() >= kMaxAheadBytes) continue;
      std::vector<CapturedPiece> pieces;
      RETURN_IF_ERROR(engine_->Step(pieces));
      outbox_->Put(std::move(pieces));
      writer_->Wake();
    }
  }
  bool HasSomethingToDo() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (over_ || !inbox_.empty()) return true;
    return engine_->has_work() ? outbox_->bytes() < kMaxAheadBytes : no_more_texts_;
  }

  CaptureService& service_;
  const std::string peer_;
  const std::shared_ptr<Outbox> outbox_;
  const std::shared_ptr<Writer> writer_;
  const std::shared_ptr<std::atomic<bool>> hello_came_ = std::make_shared<std::atomic<bool>>(false);
  grpc::Alarm hello_alarm_;
  CaptureEngine* engine_ = nullptr;
  v1::CaptureRequest request_;  // of the reading side
  std::thread thread_;

  absl::Mutex mu_;
  std::vector<CaptureText> inbox_ ABSL_GUARDED_BY(mu_);
  bool no_more_texts_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
};

CaptureService::~CaptureService() {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(stream_ == nullptr);
}

void CaptureService::Open(const CaptureIdentity& identity, CaptureEngine& engine) {
  absl::MutexLock lock(&mu_);
  TANDEM_CHECK(engine_ == nullptr && !stopped_);
  identity_ = identity;
  engine_ = &engine;
}

void CaptureService::Stop() {
  absl::MutexLock lock(&mu_);
  stopped_ = true;
  if (stream_ != nullptr) stream_->EndNow(Unavailable("verifier is draining"));
  mu_.Await(absl::Condition(
      +[](CaptureStream** stream) { return *stream == nullptr; }, &stream_));
}

grpc::ServerBidiReactor<v1::CaptureRequest, v1::CaptureResponse>* CaptureService::Capture(
    grpc::CallbackServerContext* context) {
  auto* stream = new CaptureStream(*this, context);
  stream->Start();
  return stream;
}

absl::Status CaptureService::Enter(CaptureStream& stream) {
  absl::MutexLock lock(&mu_);
  if (stopped_) return Unavailable("verifier is draining");
  if (engine_ == nullptr) return Unavailable("verifier is starting");
  if (stream_ != nullptr) return ResourceExhausted("another Capture stream is open, one at a time is taken");
  stream_ = &stream;
  stream.Prepare(*engine_);
  return absl::OkStatus();
}

void CaptureService::Leave(CaptureStream& stream) {
  absl::MutexLock lock(&mu_);
  if (stream_ == &stream) stream_ = nullptr;
}

}  // namespace tandem::verifier
