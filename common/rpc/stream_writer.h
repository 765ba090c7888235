// Writes one stream of gRPC's callback API: one write in flight, messages made when they can be sent, one
// finisher.
//
//   writer = std::make_shared<StreamWriter<RunResponse>>(
//       StreamWriter<RunResponse>::Stream{[this](const RunResponse* m) { StartWrite(m); },
//                                         [this](const absl::Status& s) { Finish(ToGrpcStatus(s)); }},
//       [this](RunResponse& out) { return TakePending(out); });
//   reactor: OnWriteDone(bool ok) { writer->OnWriteDone(ok); }   OnDone() { writer->Detach(); delete this; }
//   worker threads hold the shared_ptr: writer->Wake() is safe for ever, the stream's end makes it a no-op.
//
// The source is asked for the next message only when nothing is in flight, so whatever gathers meanwhile can
// be merged where it gathers, and nothing queues up behind a slow reader. A client's reactor is the same,
// with StartWritesDone as `finish`.
//
// Thread-safe. Stream and source are called with the writer's lock held, one at a time: they must not call
// back into the writer, nor wait for anything that does.
#pragma once

#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace tandem::rpc {

template <typename Message>
class StreamWriter {
 public:
  struct Stream {
    // Sends; the message stays as it is until OnWriteDone.
    std::function<void(const Message*)> start_write;
    // Ends the stream (a server) or this side of it (a client). Called once.
    std::function<void(const absl::Status&)> finish;
  };
  // Fills the cleared message with what is to be sent next; false: nothing now.
  using Source = std::function<bool(Message&)>;

  StreamWriter(Stream stream, Source source) : stream_(std::move(stream)), source_(std::move(source)) {}

  // There is something to send.
  void Wake() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    Advance();
  }

  // Sends what the source still has, then finishes. Only the first status counts.
  void Finish(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kOpen) return;
    state_ = State::kDraining;
    final_status_ = std::move(status);
    Advance();
  }

  // Finishes now, also while a write hangs: for a peer that is gone or does not read.
  void Abort(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    FinishNow(status);
  }

  // By the reactor. A failed write means that the peer is gone.
  void OnWriteDone(bool ok) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    in_flight_ = false;
    if (ok) {
      Advance();
    } else {
      FinishNow(absl::UnavailableError("the peer is gone"));
    }
  }

  // By the reactor's OnDone: neither stream nor source is called any more once this returns.
  void Detach() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    state_ = State::kDone;
  }

 private:
  // kOpen -> kDraining -> kDone, or kOpen -> kDone.
  enum class State { kOpen, kDraining, kDone };

  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (in_flight_ || state_ == State::kDone) return;
    message_.Clear();
    if (source_(message_)) {
      in_flight_ = true;
      stream_.start_write(&message_);
    } else if (state_ == State::kDraining) {
      FinishNow(final_status_);
    }
  }
  void FinishNow(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (state_ == State::kDone) return;
    state_ = State::kDone;
    stream_.finish(status);
  }

  const Stream stream_;
  const Source source_;
  absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kOpen;
  bool in_flight_ ABSL_GUARDED_BY(mu_) = false;
  Message message_ ABSL_GUARDED_BY(mu_);
  absl::Status final_status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tandem::rpc
