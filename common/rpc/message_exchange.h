// Protobuf messages over a MessageSocket, as far as there is room to send and something to receive.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "common/base/status.h"
#include "common/rpc/message_socket.h"

namespace tandem::rpc {

// What waits goes first, then what `take(message)` gives until it returns false. `message` and `bytes` are
// work areas.
template <typename Message, typename Take>
absl::Status SendMessages(MessageSocket& socket, Message& message, std::string& bytes, Take&& take) {
  RETURN_IF_ERROR(socket.Flush());
  while (!socket.sending() && take(message)) {
    TANDEM_CHECK(message.SerializeToString(&bytes));
    RETURN_IF_ERROR(socket.Send(bytes));
  }
  return absl::OkStatus();
}

// Calls `handle(message)`, which returns a status, for each message that has come, but not until the socket
// is empty: a peer that floods must not hold the loop up. kInvalidArgument for bytes that are no message,
// "a message of the socket is no `name`".
template <typename Message, typename Handle>
absl::Status ReceiveMessages(MessageSocket& socket, const char* name, Message& message, Handle&& handle) {
  do {
    ASSIGN_OR_RETURN(const std::optional<std::string_view> bytes, socket.Receive());
    if (!bytes) break;
    if (!message.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())))
      return InvalidArgument("a message of the socket is no {}", name);
    RETURN_IF_ERROR(handle(message));
  } while (socket.buffered());
  return absl::OkStatus();
}

}  // namespace tandem::rpc
