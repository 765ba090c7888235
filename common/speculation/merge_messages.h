// Joining messages that wait for a write in flight, so that a slow peer makes them larger, never more of
// them.
#pragma once

#include "common/speculation/messages.h"

namespace tandem::speculation {

// Appends `later` to `feed`: the receiver ends up as if both had come one after the other. Entries stay in
// order. An earlier request for a draft of a sequence that `later` feeds is withdrawn: its answer could only
// be stale. An entry without rows joins the sequence's last entry where it continues it, so requests that
// nobody takes do not pile up. Numbers and inline rows are the sender's to fill in at the end.
void MergeFeed(Feed& feed, Feed&& later);

// Appends `later` to `batch`: of each sequence the later draft or OutOfSync alone stays.
void MergeBatch(DraftBatch& batch, DraftBatch&& later);

}  // namespace tandem::speculation
