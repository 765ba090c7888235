// One Generate stream: a request's events as messages.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/stream_writer.h"
#include "gateway/admission/generator.h"
#include "gateway/door_observer.h"
#include "gateway/grpc/generation_service.h"

namespace tandem::gateway {

// Owns itself: gRPC's OnDone deletes it. Deltas of a choice that gather while a write is in flight become one
// message, so a slow client costs one message of memory per choice; one that takes nothing for `write_stall`,
// or has more waiting than `stream_buffer_bytes`, is given up: its generation ends at once, and the call is
// cut if its status cannot be sent within another `write_stall`.
class GenerateCall : public grpc::ServerWriteReactor<grpc::ByteBuffer>, private EventSink {
 public:
  // Borrows the observer, which outlives the server.
  GenerateCall(grpc::CallbackServerContext& context, DoorObserver& observer,
               const GenerationService::Options& options, std::function<void()> on_end);

  // Parses and starts; an error ends the stream. Called once, right after construction.
  void Start(const grpc::ByteBuffer& request, Generator& generator);

 private:
  // What alarms hold, for they may outlive the call: OnDone takes it away.
  struct Handle {
    absl::Mutex mu;
    GenerateCall* call ABSL_GUARDED_BY(mu);
  };

  // The reactor.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // EventSink, on the batcher's thread.
  void OnStarted(const gateway::Started& started) override;
  void OnDelta(Delta delta) override;
  void OnFinished(const Finished& finished) override;
  void OnAllFinished() override;
  void OnError(const absl::Status& status) override;

  using Event = std::variant<gateway::Started, Delta, Finished>;
  void Push(Event event);
  bool TakeNext(grpc::ByteBuffer& out);
  // Calls `then` in `wait`, unless the call has ended or the alarm is replaced by then.
  void SetAlarm(std::unique_ptr<grpc::Alarm>& alarm, absl::Duration wait, void (GenerateCall::*then)());
  void GiveUp();
  void OnStall();
  void Cut();
  // Cancels the request, now or as soon as Start has returned.
  void DropGeneration();

  grpc::CallbackServerContext& context_;
  DoorObserver& observer_;
  const GenerationService::Options options_;
  const std::function<void()> on_end_;
  std::shared_ptr<rpc::StreamWriter<grpc::ByteBuffer>> writer_;
  const std::shared_ptr<Handle> handle_;

  absl::Mutex mu_;
  std::deque<Event> pending_ ABSL_GUARDED_BY(mu_);
  int64_t pending_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool given_up_ ABSL_GUARDED_BY(mu_) = false;               // nothing more is taken in
  std::unique_ptr<grpc::Alarm> stall_ ABSL_GUARDED_BY(mu_);  // of the write in flight
  std::unique_ptr<grpc::Alarm> cut_ ABSL_GUARDED_BY(mu_);    // once given up

  absl::Mutex generation_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  bool dropped_ ABSL_GUARDED_BY(generation_mu_) = false;
  std::unique_ptr<Generation> generation_ ABSL_GUARDED_BY(generation_mu_);
};

}  // namespace tandem::gateway
