// A gRPC channel to one peer, as our processes use them.
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "absl/time/time.h"
#include "common/base/option_values.h"

namespace tandem::rpc {

struct ChannelOptions {
  int max_receive_bytes = 16 << 20;  // of one message
  // A peer that answers no ping is lost after both, 15 s.
  absl::Duration keepalive_time = absl::Seconds(10);
  absl::Duration keepalive_timeout = absl::Seconds(5);
  // Between attempts to connect: doubling from the first to the last.
  absl::Duration min_reconnect = absl::Milliseconds(100);
  absl::Duration max_reconnect = absl::Seconds(2);
};

// Connects when first used, and again whenever the connection breaks. One connection of its own per channel:
// sharing one with another channel to the same address would share its flow control and its death. Never
// fails; calls do.
std::shared_ptr<grpc::Channel> NewChannel(const Address& address, const ChannelOptions& options = {});

}  // namespace tandem::rpc
