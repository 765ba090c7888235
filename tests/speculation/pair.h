// A target and a drafter in one thread: the verifier's engine and the drafter's, joined by a link that passes
// feeds and batches on at once, so that every run is the same.
//
//   ASSERT_OK(pair.Load(...)); FakeGateway gateway(pair.engine(), 1); ... pair.RunToEnd({&gateway});
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/formats/checkpoint.h"
#include "drafter/engine/draft_engine.h"
#include "verifier/engine/engine.h"
#include "verifier/engine/fake_gateway.h"

namespace tandem::testing {

// Passes rows inline, as a stream to another machine would.
class PairLink final : public verifier::DrafterLink {
 public:
  PairLink(drafter::DraftEngine& drafter, int index) : drafter_(drafter), index_(index) {}

  // The stream as both ends see it after their hellos.
  verifier::DrafterStream Open(const verifier::SpeculationOptions& options) {
    const drafter::DraftModelInfo& info = drafter_.info();
    ++stream_;
    next_number_ = 0;
    rows_.clear();
    drafter_.OpenStream(
        stream_,
        {.row_type = options.row_type, .mode = {options.acceptance, options.top_m}, .rows = nullptr});
    open_ = true;
    verifier::DrafterStream stream;
    stream.link = this;
    stream.hello.algorithm = info.algorithm;
    stream.hello.name = info.name;
    stream.hello.vocab_size = info.vocab_size;
    stream.hello.block_size = info.block_size;
    stream.hello.has_confidence = info.has_confidence;
    stream.hello.row_width = info.projection.width;
    stream.hello.taps = info.projection.taps;
    stream.hello.projection_hash = info.projection.width > 0 ? info.name : "";
    stream.hello.calibration = info.calibration;
    stream.hello.rows_granted = drafter_.options().row_window;
    stream.hello.max_sequences = drafter_.options().max_sequences;
    stream.hello.max_context_rows = drafter_.max_context_rows();
    if (info.projection.width > 0) {
      stream.projection = std::make_shared<speculation::Projection>(info.projection);
    }
    return stream;
  }
  void Break() {
    open_ = false;
    drafter_.CloseStream(stream_);
  }
  bool open() const { return open_; }

  void Connect(const speculation::VerifierHello&, Listener&) override {}
  void PutRow(int64_t, std::span<const std::byte> row) override {
    if (open_) rows_.insert(rows_.end(), row.begin(), row.end());
  }
  void SendFeed(speculation::Feed feed) override {
    if (!open_) return;
    if (on_feed) on_feed(feed);
    feed.number = ++next_number_;
    feed.rows = std::exchange(rows_, {});
    const absl::Status status = drafter_.ApplyFeed(stream_, std::move(feed));
    ASSERT_TRUE(status.ok()) << status;
  }
  void Close() override {}
  const std::string& name() const override { return name_; }

  // All drafts that are due, into the verifier's engine.
  void Deliver(verifier::Engine& engine, absl::Duration now) {
    while (open_ && drafter_.HasWork()) {
      for (auto& [stream, batch] : drafter_.Step()) {
        if (on_batch) on_batch(batch);
        engine.TakeDrafts(index_, std::move(batch), now);
      }
    }
  }
  // See, and may change, what goes to the drafter and to the verifier.
  std::function<void(speculation::Feed&)> on_feed;
  std::function<void(speculation::DraftBatch&)> on_batch;

 private:
  drafter::DraftEngine& drafter_;
  const int index_;
  const std::string name_ = "in memory";
  drafter::StreamId stream_ = 0;
  uint64_t next_number_ = 0;
  bool open_ = false;
  std::vector<std::byte> rows_;
};

// Steps until all gateways are done, with drafts delivered between steps.
inline void RunPair(
    verifier::Engine& engine, const Clock& clock, std::vector<verifier::testing::FakeGateway*> gateways,
    std::vector<PairLink*> links, const std::function<void()>& before_step = [] {}) {
  verifier::testing::RunToEnd(engine, std::move(gateways), [&] {
    before_step();
    for (PairLink* link : links) link->Deliver(engine, clock.Now());
  });
}

}  // namespace tandem::testing
