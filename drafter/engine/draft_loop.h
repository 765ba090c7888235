// The thread that owns the draft engine: takes what arrived, steps while there is work, parks otherwise.
//
//   auto loop = DraftLoop::Start(engine, Clock::Real());
//   const StreamId stream = loop->OpenStream(std::move(setup), {.on_batch = ..., .on_error = ...});
//   loop->PostFeed(stream, std::move(feed));       // on_batch follows; its feed_number says what is applied
//   loop->CloseStream(stream);
//
// All methods may be called from any thread and never wait for a step. A sink is called on the loop's thread,
// one call at a time; it must not block and may post, but not close.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "drafter/engine/draft_engine.h"

namespace tandem::drafter {

struct DraftSink {
  // Every applied feed is followed by one; the number is the sink's to fill in.
  std::function<void(speculation::DraftBatch)> on_batch;
  // A feed broke the protocol, or its rows could not be read: the stream's sequences are gone, later feeds
  // are dropped, nothing follows but CloseStream.
  std::function<void(absl::Status)> on_error;
};

// A stream's descriptor on which the draft loop sleeps itself, so that feeds wake it and nobody else. The
// loop's thread only.
class FeedSource {
 public:
  virtual ~FeedSource() = default;
  virtual int fd() const = 0;
  // Whether a batch waits for room to be sent: the descriptor is then to be polled for that, too.
  virtual bool sending() const = 0;
  // The descriptor is ready. Sends what waits and appends the feeds that have come, checked as PostFeed's
  // are. False: the source has nothing more to give (the stream ends, and is told why) and must not be polled
  // again.
  virtual bool OnReady(std::vector<speculation::Feed>& feeds) = 0;
};

// What one step took.
struct DraftStep {
  absl::Duration time;
  int64_t drafts = 0;
};

class DraftLoop {
 public:
  using StepObserver = std::function<void(const DraftStep&, const DraftEngineStats&)>;

  // Starts the thread. Borrows engine and clock. The observer is called on the loop's thread.
  static std::unique_ptr<DraftLoop> Start(DraftEngine& engine, const Clock& clock,
                                          StepObserver observer = nullptr);
  // Stops the thread; open streams get nothing more.
  virtual ~DraftLoop() = default;

  // With a source feeds come from there, else by PostFeed.
  virtual StreamId OpenStream(StreamSetup setup, DraftSink sink,
                              std::shared_ptr<FeedSource> source = nullptr) = 0;
  // After it returns the sink is not called any more (it waits for a call under way); its sequences are freed
  // within a step.
  virtual void CloseStream(StreamId stream) = 0;
  virtual void PostFeed(StreamId stream, speculation::Feed feed) = 0;

  // A copy of the latest; cheap.
  virtual DraftEngineStats stats() const = 0;
  // How long the loop has had work without finishing a step; zero when idle. For the liveness check.
  virtual absl::Duration stalled_for() const = 0;
};

}  // namespace tandem::drafter
