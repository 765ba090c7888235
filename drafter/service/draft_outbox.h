// What a drafter has to say on one Speculate stream, merged until it can be said: the hello, the answer to a
// ring, the projection in chunks, notice that it is leaving, batches of drafts.
//
// The stream's writer takes from it whenever no write is in flight; batches that gather meanwhile become one.
// Batches may go through a socket instead.
// Thread-safe; shared by the stream and the draft loop's sink, and may outlive the stream.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/speculation/messages.h"
#include "tandem/v1/speculate.pb.h"

namespace tandem::drafter {

class DraftOutbox {
 public:
  // Stands between a numbered batch and the stream; for tests (misbehaviour.h).
  using BatchHook = std::function<std::vector<speculation::DraftBatch>(speculation::DraftBatch)>;

  // `projection` is sent behind the hello if the hello names one; borrowed.
  void PutHello(speculation::DrafterHello hello, const speculation::Projection& projection,
                BatchHook hook = nullptr) ABSL_LOCKS_EXCLUDED(mu_);
  // An empty nonce: the ring cannot be used.
  void PutRingAnswer(std::string nonce) ABSL_LOCKS_EXCLUDED(mu_);
  void PutSocketAnswer(bool connected) ABSL_LOCKS_EXCLUDED(mu_);
  // Batches are taken by TakeBatch from now on, and not by Take.
  void UseSocket() ABSL_LOCKS_EXCLUDED(mu_);
  void PutBatch(speculation::DraftBatch batch) ABSL_LOCKS_EXCLUDED(mu_);
  // Nothing comes behind it.
  void PutDraining() ABSL_LOCKS_EXCLUDED(mu_);

  // The writer's source: false if there is nothing to say.
  bool Take(v1::SpeculateResponse& out) ABSL_LOCKS_EXCLUDED(mu_);
  // For a socket: the next batch, or false.
  bool TakeBatch(v1::DraftBatch& out) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  bool TakeChunk(v1::SpeculateResponse& out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<speculation::DraftBatch> NextBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::optional<speculation::DrafterHello> hello_ ABSL_GUARDED_BY(mu_);
  const speculation::Projection* projection_ ABSL_GUARDED_BY(mu_) = nullptr;  // while chunks remain
  int64_t chunk_offset_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<std::string> ring_answer_ ABSL_GUARDED_BY(mu_);
  std::optional<bool> socket_answer_ ABSL_GUARDED_BY(mu_);
  bool batches_by_socket_ ABSL_GUARDED_BY(mu_) = false;
  BatchHook hook_ ABSL_GUARDED_BY(mu_);
  std::optional<speculation::DraftBatch> pending_ ABSL_GUARDED_BY(mu_);
  std::deque<speculation::DraftBatch> hooked_ ABSL_GUARDED_BY(mu_);  // what the hook made of one
  uint64_t number_ ABSL_GUARDED_BY(mu_) = 0;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool silent_ ABSL_GUARDED_BY(mu_) = false;  // draining has been said
};

}  // namespace tandem::drafter
