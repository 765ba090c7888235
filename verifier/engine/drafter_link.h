// One Speculate stream to one drafter, as the step loop sees it. speculate.proto explains the messages.
//
//   link->Connect(hello, listener);                    // returns at once; OnOpen or OnClosed follows
//   ... OnOpen(drafter hello, projection, transport, source)   // from here on rows and feeds may go out
//   link->PutRow(number, row);                         // rows first,
//   link->SendFeed(feed);                              // then the feed that names them
//   ... OnDrafts(batch)                                // its rows_granted allows more rows
//   link->Close();                                     // OnClosed follows
//   link->Connect(hello, listener);                    // after OnClosed only; a new stream starts empty
//
// Implementations: verifier/service/speculate_link.h (gRPC), and one in memory for a process that holds both
// sides. Connect, PutRow, SendFeed and Close are called by one thread, the step loop's. They never wait for
// the peer and never fail: what goes wrong arrives as OnClosed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "common/base/message_sources.h"
#include "common/speculation/messages.h"

namespace tandem::verifier {

class DrafterLink {
 public:
  // Called on threads of the link, one call at a time; must not block and must not call back into the link.
  class Listener {
   public:
    virtual ~Listener() = default;
    // The drafter's hello fits ours, its projection is complete and has the hash that the hello names (null
    // if it needs no rows), the transport works. Once per stream, before any OnDrafts. With a source OnDrafts
    // and OnProtocolError are called by its OnReady, maybe beside an OnClosed, else on threads of the link.
    virtual void OnOpen(speculation::DrafterHello hello,
                        std::shared_ptr<const speculation::Projection> projection,
                        speculation::RowTransport transport, std::shared_ptr<MessageSource> source) = 0;
    // Every number in it has been checked by itself (ids, sizes, finite); whether it is about the present
    // (epoch, length, anchor, round) of a sequence is for the listener to check.
    virtual void OnDrafts(speculation::DraftBatch batch) = 0;
    // Something of this machine's cannot be used: what goes in its place, and why. Before OnOpen.
    virtual void OnFallback(const std::string& instead, absl::Status why) = 0;
    // Entries of a batch were dropped; `check` names what failed, as a label of protocol_errors_total.
    virtual void OnProtocolError(std::string check) = 0;
    // The last call of a stream, exactly once per Connect. The codes that matter to a caller:
    // kFailedPrecondition = a hello does not fit (try again late), kInvalidArgument = the peer broke the
    // protocol, kCancelled = Close, everything else = the peer is away or leaves.
    virtual void OnClosed(absl::Status why) = 0;
  };

  // Ends the stream; no call of a listener is under way or follows.
  virtual ~DrafterLink() = default;

  // Requires that no stream is open or being closed. The listener is borrowed until its OnClosed. Shared
  // memory is offered if `hello` says so; boot id and uid are the caller's (speculation::LocalMachine).
  virtual void Connect(const speculation::VerifierHello& hello, Listener& listener) = 0;

  // Puts the row where the drafter will find it: row_width values of the hello's row type, copied before this
  // returns. Numbers rise by 1 from 0 on each stream and stay below the rows granted. Before the SendFeed
  // that names it. A no-op when no stream is open.
  virtual void PutRow(int64_t row_number, std::span<const std::byte> row) = 0;

  // `number` and `rows` are filled in by the link. What cannot be sent at once is merged with feeds that
  // follow, in order. A no-op when no stream is open.
  virtual void SendFeed(speculation::Feed feed) = 0;

  // OnClosed(kCancelled) follows if a stream is open.
  virtual void Close() = 0;

  virtual const std::string& name() const = 0;  // of the address, for logs and metrics
};

}  // namespace tandem::verifier
