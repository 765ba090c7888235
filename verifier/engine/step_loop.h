// The thread that owns the engine: takes what arrived, steps while there is work, waits otherwise.
//
// Post* may be called from any thread and never wait for a step. Sinks are called on the loop's thread and
// must not block: they take the report into the stream's writer (merging, see MergeReport, while a write is
// in flight). Streams whose messages go through sockets bring a source, on which the thread sleeps itself.
#pragma once

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "common/base/message_sources.h"
#include "verifier/engine/engine.h"

namespace tandem::verifier {

class StepLoop {
 public:
  using ReportSink = std::function<void(Report)>;
  // Called on the loop's thread after each step.
  using StepObserver = std::function<void(const StepStats&, const EngineStats&)>;

  // Starts the thread. Borrows engine and clock.
  static std::unique_ptr<StepLoop> Start(Engine& engine, const Clock& clock, StepObserver observer);
  // Stops the thread; open streams get nothing more.
  virtual ~StepLoop() = default;

  virtual StreamId OpenStream(ReportSink sink) = 0;
  // After it returns the sink is not called any more (it waits for a call under way, so not from a sink); the
  // sequences are freed within a step.
  virtual void CloseStream(StreamId stream) = 0;
  virtual void PostPlan(StreamId stream, Plan plan) = 0;
  // From now on the loop sleeps on the source as well, and calls it once at first. Its OnReady hands plans
  // over by PostPlan. Not called any more once CloseStream has returned (which waits for a call under way).
  virtual void AddSource(StreamId stream, std::shared_ptr<MessageSource> source) = 0;

  // Streams to drafters (engine.h). `refused` is called on the loop's thread if the engine does not take it.
  virtual void OpenDrafter(int drafter, DrafterStream stream, std::function<void(absl::Status)> refused) = 0;
  // After it returns the engine does not use the stream's link any more (so not from the link's callbacks:
  // they hold up whoever waits for them).
  virtual void CloseDrafter(int drafter) = 0;
  virtual void PostDrafts(int drafter, speculation::DraftBatch batch) = 0;
  virtual void PostDrafterProtocolError(int drafter) = 0;

  // Copies of the latest statistics; cheap, any thread.
  virtual EngineStats stats() const = 0;
  // How long the loop has had work without finishing a step; zero when idle. For the liveness check.
  virtual absl::Duration stalled_for() const = 0;
};

}  // namespace tandem::verifier
