#include "gateway/grpc/generate_call.h"

#include <exception>
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

GenerateCall::GenerateCall(grpc::CallbackServerContext& context, absl::Duration write_stall,
                           std::function<void()> on_end)
    : context_(context), write_stall_(write_stall), on_end_(std::move(on_end)) {
  writer_ = std::make_shared<rpc::StreamWriter<grpc::ByteBuffer>>(
      rpc::StreamWriter<grpc::ByteBuffer>::Stream{
          [this](const grpc::ByteBuffer* message) { StartWrite(message); },
          [this](const absl::Status& status) { Finish(FinalStatus(status, context_)); }},
      [this](grpc::ByteBuffer& out) { return TakeNext(out); });
}

void GenerateCall::Start(const grpc::ByteBuffer& bytes, Generator& generator) {
  const auto start = [&]() -> absl::Status {
    v1::GenerateRequest message;
    RETURN_IF_ERROR(ParseMessage(bytes, message));
    ASSIGN_OR_RETURN(GenerationRequest request, ToGenerationRequest(std::move(message)));
    if (context_.deadline() != std::chrono::system_clock::time_point::max()) {
      request.deadline = absl::FromChrono(context_.deadline());
    }
    const auto& metadata = context_.client_metadata();
    if (const auto found = metadata.find("traceparent"); found != metadata.end()) {
      request.traceparent.assign(found->second.data(), found->second.size());
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Generation> generation, generator.Start(std::move(request), *this));
    absl::MutexLock lock(&generation_mu_);
    if (!dropped_) generation_ = std::move(generation);
    return absl::OkStatus();  // a generation that was dropped meanwhile ends here
  };
  absl::Status status;
  try {
    status = start();
  } catch (const std::exception&) {
    status = error::InternalError("");
  }
  if (!status.ok()) writer_->Abort(status);
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
  DropGeneration();
  writer_->Detach();
  {
    absl::MutexLock lock(&mu_);
    stall_.reset();
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
  {
    absl::MutexLock lock(&mu_);
    if (Delta* next = std::get_if<Delta>(&event)) {
      for (auto known = pending_.rbegin(); known != pending_.rend(); ++known) {
        Delta* delta = std::get_if<Delta>(&*known);
        if (delta == nullptr || delta->choice != next->choice) continue;
        Append(*delta, std::move(*next));
        next = nullptr;
        break;
      }
      if (next == nullptr) return;  // sent together, when the write in flight has ended
    }
    pending_.push_back(std::move(event));
  }
  writer_->Wake();
}

bool GenerateCall::TakeNext(grpc::ByteBuffer& out) {
  absl::MutexLock lock(&mu_);
  if (pending_.empty()) return false;
  Event event = std::move(pending_.front());
  pending_.pop_front();
  if (auto* started = std::get_if<gateway::Started>(&event)) {
    out = SerializeMessage(ToResponse(*started));
  } else if (auto* delta = std::get_if<Delta>(&event)) {
    out = SerializeMessage(ToResponse(std::move(*delta)));
  } else {
    out = SerializeMessage(ToResponse(std::get<Finished>(event)));
  }
  // The alarm holds the writer, which outlives the call; after the call's end Abort does nothing.
  stall_ = std::make_unique<grpc::Alarm>();
  stall_->Set(absl::ToChronoTime(absl::Now() + write_stall_),
              [writer = writer_, stall = write_stall_](bool fired) {
                if (fired) writer->Abort(error::WriteStalled(stall));
              });
  return true;
}

void GenerateCall::OnStarted(const gateway::Started& started) { Push(started); }
void GenerateCall::OnDelta(Delta delta) { Push(std::move(delta)); }
void GenerateCall::OnFinished(const Finished& finished) { Push(finished); }
void GenerateCall::OnAllFinished() { writer_->Finish(absl::OkStatus()); }
void GenerateCall::OnError(const absl::Status& status) { writer_->Finish(status); }

}  // namespace tandem::gateway
