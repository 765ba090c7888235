// A ring of row slots in POSIX shared memory, written by a verifier and read by one drafter on its machine.
//
//   verifier: ASSIGN_OR_RETURN(auto ring, RowRingWriter::Create(slots, row_bytes));
//             offers ring->address(); when the drafter has echoed ring->nonce(), or refused: ring->Unlink();
//             ring->Put(n, row);                         // then tells the drafter that row n is there
//   drafter:  ASSIGN_OR_RETURN(auto ring, RowRingReader::Open(address));
//             echoes ring->nonce(); ring->Read(first, count, out);   // then grants as many rows more
//
// Row n lies in slot n mod slots. Nothing here orders a write before a read: the message that names the row
// does (it passes through the kernel), and the grant orders the read before the slot's next write.
//
// Layout: one page with the 16 random bytes of the nonce at its start, then slots * row_bytes.
//
// Both sides read and write through the descriptor, never through a mapping. A copy costs a system call more,
// some hundred nanoseconds a row, and in return a memory object that somebody of the same user truncates is
// an error to report; a mapping would end the process with SIGBUS. What remains: such a somebody can write
// wrong rows, which costs acceptance and never text.
//
// The writer allocates all pages at once, so memory that runs short is an error at the start. The name is
// "/tandem-<pid>-<16 random hex digits>", mode 0600; it goes with Unlink or the writer. Only a process killed
// between Create and Unlink leaves one behind: RemoveStaleRings takes it away.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/speculation/messages.h"

namespace tandem::speculation {

inline constexpr size_t kRingNonceBytes = 16;
inline constexpr int64_t kMaxRingBytes = int64_t{1} << 30;
using RingNonce = std::array<std::byte, kRingNonceBytes>;

// Not thread-safe, except that Unlink may come beside Put.
class RowRingWriter {
 public:
  // kInvalidArgument for sizes out of range, kResourceExhausted or kUnavailable naming what the system
  // refuses (a container's /dev/shm is often 64 MiB).
  static absl::StatusOr<std::unique_ptr<RowRingWriter>> Create(int64_t slots, int64_t row_bytes);
  ~RowRingWriter();
  RowRingWriter(const RowRingWriter&) = delete;

  const RingAddress& address() const { return address_; }
  const RingNonce& nonce() const { return nonce_; }

  // `row` has row_bytes. kUnavailable if the memory object has been tampered with.
  absl::Status Put(int64_t row_number, std::span<const std::byte> row);
  // Removes the name; who has opened the ring keeps it. Only the first call does something.
  void Unlink();

 private:
  RowRingWriter(RingAddress address, int fd) : address_(std::move(address)), fd_(fd) {}

  const RingAddress address_;
  const int fd_;
  RingNonce nonce_{};
  bool linked_ = true;
};

// Thread-safe.
class RowRingReader {
 public:
  // The address comes from a peer. kInvalidArgument for a name or sizes that no writer makes;
  // kFailedPrecondition if the object is not ours (owner, mode), not of that size or not allocated;
  // kUnavailable if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<RowRingReader>> Open(const RingAddress& address);
  ~RowRingReader();
  RowRingReader(const RowRingReader&) = delete;

  const RingAddress& address() const { return address_; }
  const RingNonce& nonce() const { return nonce_; }

  // Rows [first, first + count) into `out` of count * row_bytes; requires count <= slots. kUnavailable if the
  // object has shrunk.
  absl::Status Read(int64_t first, int64_t count, std::span<std::byte> out) const;

 private:
  RowRingReader(RingAddress address, int fd) : address_(std::move(address)), fd_(fd) {}

  const RingAddress address_;
  const int fd_;
  RingNonce nonce_{};
};

// Removes rings of this user whose maker is no longer alive; returns how many. A maker in another PID
// namespace that shares /dev/shm with ours looks dead: its peer then cannot open the ring and takes rows
// inline.
int RemoveStaleRings(const std::string& directory = "/dev/shm");

}  // namespace tandem::speculation
