// What the verifier knows of one open Speculate stream: what the drafter has been sent, what it may still be
// sent, how long it takes and how far its confidences can be trusted.
//
// Plain data of the step loop's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "common/speculation/messages.h"
#include "verifier/engine/draft_breaker.h"
#include "verifier/engine/draft_overlap.h"
#include "verifier/engine/drafter_link.h"
#include "verifier/scheduling/calibration.h"
#include "verifier/scheduling/draft_time_model.h"

namespace tandem::verifier {

// An open stream, as the link's side hands it to the engine.
struct DrafterStream {
  DrafterLink* link = nullptr;  // borrowed until Engine::CloseDrafter
  speculation::DrafterHello hello;
  std::shared_ptr<const speculation::Projection> projection;  // null: the drafter needs no rows
  speculation::RowTransport transport = speculation::RowTransport::kInline;
  std::shared_ptr<MessageSource> source;  // null: drafts come through StepLoop::PostDrafts from other threads
  // The drafter runs on the verifier's own cores: drafting and stepping slow each other down.
  bool shares_cores = true;
};

// One configured drafter, connected or not. What was learnt of it outlives its streams.
struct Drafter {
  explicit Drafter(uint64_t seed) : breaker(seed) {}

  bool connected() const { return stream.link != nullptr; }
  // Rows it can still take, and whether one more sequence fits.
  int64_t free_rows() const { return rows_granted - rows_sent; }
  bool has_place() const { return static_cast<int32_t>(known.size()) < stream.hello.max_sequences; }

  DrafterStream stream;
  uint64_t session = 0;  // of `stream`; unique in the engine
  int64_t rows_granted = 0, rows_sent = 0;
  absl::flat_hash_set<uint64_t> known;               // sequences it holds context of, by admission number
  std::vector<speculation::SequenceName> forgotten;  // to be said with the next feed

  DraftBreaker breaker;
  DraftTimeModel time;
  DraftOverlap overlap;
  std::unique_ptr<Calibration> calibration;  // null until first connected
  std::string calibrated_for;                // what it belongs to: another model starts anew
};

}  // namespace tandem::verifier
