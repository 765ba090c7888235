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
#include "absl/time/time.h"
#include "common/rpc/stream_writer.h"
#include "gateway/admission/generator.h"

namespace tandem::gateway {

// Owns itself: gRPC's OnDone deletes it. Deltas of a choice that gather while a write is in flight become one
// message, so a slow client costs one message of memory per choice; one that takes nothing for `write_stall`
// is given up.
class GenerateCall : public grpc::ServerWriteReactor<grpc::ByteBuffer>, private EventSink {
 public:
  GenerateCall(grpc::CallbackServerContext& context, absl::Duration write_stall,
               std::function<void()> on_end);

  // Parses and starts; an error ends the stream. Called once, right after construction.
  void Start(const grpc::ByteBuffer& request, Generator& generator);

 private:
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
  // Cancels the request, now or as soon as Start has returned.
  void DropGeneration();

  grpc::CallbackServerContext& context_;
  const absl::Duration write_stall_;
  const std::function<void()> on_end_;
  std::shared_ptr<rpc::StreamWriter<grpc::ByteBuffer>> writer_;

  absl::Mutex mu_;
  std::deque<Event> pending_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<grpc::Alarm> stall_ ABSL_GUARDED_BY(mu_);

  absl::Mutex generation_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  bool dropped_ ABSL_GUARDED_BY(generation_mu_) = false;
  std::unique_ptr<Generation> generation_ ABSL_GUARDED_BY(generation_mu_);
};

}  // namespace tandem::gateway
