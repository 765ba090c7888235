#include "common/speculation/merge_messages.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace tandem::speculation {
namespace {

// Whether `later`, which brings no rows, says no more than where `entry` has ended.
bool Continues(const SequenceFeed& entry, const SequenceFeed& later) {
  return later.num_rows == 0 && later.epoch == entry.epoch && later.from == entry.from + entry.num_rows &&
         !later.sampling.has_value() && later.tokens == std::vector<int32_t>{entry.tokens.back()};
}

template <typename Entry>
void RemoveIds(std::vector<Entry>& entries, const std::unordered_set<uint64_t>& ids) {
  std::erase_if(entries, [&](const Entry& entry) { return ids.contains(entry.id); });
}

}  // namespace

void MergeFeed(Feed& feed, Feed&& later) {
  std::unordered_map<uint64_t, size_t> last_entry;  // by id, of what `feed` holds
  for (size_t i = 0; i < feed.sequences.size(); ++i) last_entry[feed.sequences[i].id] = i;
  for (SequenceFeed& entry : later.sequences) {
    // Started again after it was forgotten: forgetting comes after all entries, and must not meet this one.
    std::erase_if(feed.forgotten,
                  [&](const SequenceName& name) { return name.id == entry.id && name.epoch == entry.epoch; });
    const auto found = last_entry.find(entry.id);
    if (found != last_entry.end()) {
      SequenceFeed& earlier = feed.sequences[found->second];
      if (Continues(earlier, entry)) {
        earlier.draft = entry.draft;
        earlier.round = entry.round;
        continue;
      }
      earlier.draft = false;
    }
    last_entry[entry.id] = feed.sequences.size();
    feed.sequences.push_back(std::move(entry));
  }
  std::move(later.forgotten.begin(), later.forgotten.end(), std::back_inserter(feed.forgotten));
}

void MergeBatch(DraftBatch& batch, DraftBatch&& later) {
  std::unordered_set<uint64_t> superseded;
  for (const SequenceDraft& draft : later.drafts) superseded.insert(draft.id);
  for (const OutOfSync& out : later.out_of_sync) superseded.insert(out.id);
  RemoveIds(batch.drafts, superseded);
  RemoveIds(batch.out_of_sync, superseded);
  std::move(later.drafts.begin(), later.drafts.end(), std::back_inserter(batch.drafts));
  std::move(later.out_of_sync.begin(), later.out_of_sync.end(), std::back_inserter(batch.out_of_sync));
  batch.feed_number = std::max(batch.feed_number, later.feed_number);
  batch.rows_granted = std::max(batch.rows_granted, later.rows_granted);
  batch.compute_seconds += later.compute_seconds;
}

}  // namespace tandem::speculation
