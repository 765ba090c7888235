#include "gateway/grpc/generate_call.h"

#include <utility>

#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/grpc/messages.h"
#include "gateway/grpc/status_details.h"

namespace tandem::gateway {
namespace {

// Joins a delta to one of the same choice that has not been sent.
void Append(Delta& pending, Delta&& next) {
  pending.text += next.text;
  if (pending.tokens.empty()) pending.first_index = next.first_index;
  std::move(next.tokens.begin(), next.tokens.end(), std::back_inserter(pending.tokens));
}

}  // namespace

GenerateCall::GenerateCall(grpc::CallbackServerContext& context, DoorObserver& observer,
                           const GenerationService::Options& options, std::function<void()> on_end)
    : context_(context),
      observer_(observer),
      options_(options),
      on_end_(std::move(on_end)),
      handle_(new Handle{.mu = {}, .call = this}) {
  writer_ = std::make_shared<rpc::StreamWriter<grpc::ByteBuffer>>(
      rpc::StreamWriter<grpc::ByteBuffer>::Stream{
          [this](const grpc::ByteBuffer* message) { StartWrite(message); },
          [this](const absl::Status& status) { Finish(FinalStatus(status, context_)); }},
      [this](grpc::ByteBuffer& out) { return TakeNext(out); });
}

void GenerateCall::Start(const grpc::ByteBuffer& bytes, Generator& generator) {
  std::string request_id;
  const auto start = [&]() -> absl::Status {
    v1::GenerateRequest message;
    RETURN_IF_ERROR(ParseMessage(bytes, message));
    request_id = message.request_id();
    if (const int unknown = CountUnknownFields(message); unknown > 0) observer_.OnUnknownFields(unknown);
    ASSIGN_OR_RETURN(GenerationRequest request, ToGenerationRequest(std::move(message)));
    // One that is over is gRPC's own affair; seen here it is one of ten thousand years, which overflowed.
    if (context_.deadline() != std::chrono::system_clock::time_point::max()) {
      const absl::Time deadline = absl::FromChrono(context_.deadline());
      if (deadline > absl::Now()) request.deadline = deadline;
    }
    const auto metadata = [this](const char* name) -> std::string {
      const auto found = context_.client_metadata().find(name);
      if (found == context_.client_metadata().end()) return "";
      return {found->second.data(), found->second.size()};
    };
    request.traceparent = metadata("traceparent");
    request.tracestate = metadata("tracestate");
    ASSIGN_OR_RETURN(std::unique_ptr<Generation> generation, generator.Start(std::move(request), *this));
    absl::MutexLock lock(&generation_mu_);
    if (!dropped_) generation_ = std::move(generation);
    return absl::OkStatus();  // a generation that was dropped meanwhile ends here
  };
  absl::Status status;
  try {
    status = start();
  } catch (...) {  // no memory, above all
    status = error::InternalError(request_id);
  }
  if (status.ok()) return;
  observer_.OnRefused("grpc", status);
  writer_->Abort(status);
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mu_);
    stall_.reset();
  }
  writer_->OnWriteDone(ok);
}

void GenerateCall::OnCancel() {
  DropGeneration();
  writer_->Abort(error::Cancelled());
}

void GenerateCall::OnDone() {
  {
    absl::MutexLock lock(&handle_->mu);  // waits for an alarm that goes off just now
    handle_->call = nullptr;
  }
  DropGeneration();
  writer_->Detach();
  {
    absl::MutexLock lock(&mu_);
    stall_.reset();
    cut_.reset();
  }
  on_end_();
  delete this;
}

void GenerateCall::DropGeneration() {
  std::unique_ptr<Generation> generation;
  absl::MutexLock lock(&generation_mu_);
  dropped_ = true;
  generation = std::move(generation_);
  // Its destructor waits for the sink's calls, which take mu_ and the writer's lock but never this one.
  generation.reset();
}

void GenerateCall::Push(Event event) {
  bool overflow = false;
  {
    absl::MutexLock lock(&mu_);
    if (given_up_) return;
    if (Delta* next = std::get_if<Delta>(&event)) {
      pending_bytes_ += SizeOf(*next);
      overflow = given_up_ = pending_bytes_ > options_.stream_buffer_bytes;
      for (auto known = pending_.rbegin(); known != pending_.rend(); ++known) {
        Delta* delta = std::get_if<Delta>(&*known);
        if (delta == nullptr || delta->choice != next->choice) continue;
        Append(*delta, std::move(*next));
        next = nullptr;
        break;
      }
      if (next == nullptr && !given_up_) return;  // sent together, when the write in flight has ended
    }
    if (!given_up_) pending_.push_back(std::move(event));
  }
  if (overflow) return GiveUp();
  writer_->Wake();
}

void GenerateCall::SetAlarm(std::unique_ptr<grpc::Alarm>& alarm, absl::Duration wait,
                            void (GenerateCall::*then)()) {
  alarm = std::make_unique<grpc::Alarm>();
  alarm->Set(absl::ToChronoTime(absl::Now() + wait), [handle = handle_, then](bool fired) {
    if (!fired) return;
    absl::MutexLock lock(&handle->mu);
    if (handle->call != nullptr) (handle->call->*then)();
  });
}

// On the batcher's thread: the generation goes on into the void until the write in flight ends, well or
// badly.
void GenerateCall::GiveUp() {
  observer_.OnWriteStall();
  writer_->Abort(error::WriteStalled(options_.write_stall));
}

void GenerateCall::OnStall() {
  bool first = false;
  {
    absl::MutexLock lock(&mu_);
    first = !std::exchange(given_up_, true);
    pending_.clear();
    SetAlarm(cut_, options_.write_stall, &GenerateCall::Cut);
  }
  if (first) GiveUp();
  DropGeneration();
}

void GenerateCall::Cut() { context_.TryCancel(); }

bool GenerateCall::TakeNext(grpc::ByteBuffer& out) {
  absl::MutexLock lock(&mu_);
  if (pending_.empty()) return false;
  Event event = std::move(pending_.front());
  pending_.pop_front();
  if (auto* started = std::get_if<gateway::Started>(&event)) {
    out = SerializeMessage(ToResponse(*started));
  } else if (auto* delta = std::get_if<Delta>(&event)) {
    pending_bytes_ -= SizeOf(*delta);
    out = SerializeMessage(ToResponse(std::move(*delta)));
  } else {
    out = SerializeMessage(ToResponse(std::get<Finished>(event)));
  }
  SetAlarm(stall_, options_.write_stall, &GenerateCall::OnStall);
  return true;
}

void GenerateCall::OnStarted(const gateway::Started& started) { Push(started); }
void GenerateCall::OnDelta(Delta delta) { Push(std::move(delta)); }
void GenerateCall::OnFinished(const Finished& finished) { Push(finished); }
void GenerateCall::OnAllFinished() { writer_->Finish(absl::OkStatus()); }
void GenerateCall::OnError(const absl::Status& status) { writer_->Finish(status); }

}  // namespace tandem::gateway
