// What the connections of one server share. The members are thread-safe or constant.
#pragma once

#include <atomic>
#include <functional>

#include "gateway/http/http_server.h"

namespace tandem::gateway::http {

struct ServerState {
  const HttpServer::Options options;
  Generator& generator;
  DoorObserver& observer;
  // Called once by each connection, on its strand, when it has closed.
  std::function<void(int64_t id)> on_closed;
  std::atomic<bool> draining = false;
  std::atomic<int> open_streams = 0;
};

}  // namespace tandem::gateway::http
