// Answers as HTTP/1.1 bytes: status line, headers and the error object.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tandem::gateway::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Answer {
  int status = 200;
  Headers headers = {};  // besides Content-Type, Content-Length, Connection and Date
  std::string body = {};
  const char* content_type = "application/json";
};

// {"error":{"message":...,"type":...,"param":...,"code":...}}: param is null if the error is about no field.
std::string ErrorBody(const absl::Status& status);
// With the status of gateway/errors.h, Retry-After and x-should-retry.
Answer ErrorAnswer(const absl::Status& status);

// How the end of an answer's body is found.
enum class Framing { kLength, kChunked, kUntilClose };

// Status line and headers with the empty line. `length` counts for kLength only.
std::string AnswerHead(const Answer& answer, Framing framing, size_t length, bool keep_alive, absl::Time now);
// One chunk of a chunked body; `bytes` is not empty.
std::string Chunk(std::string_view bytes);
inline constexpr char kLastChunk[] = "0\r\n\r\n";

// The client's x-request-id if it is 1..limits::kRequestIdBytes of [A-Za-z0-9._-], else a random one.
std::string RequestIdFrom(std::string_view given);

}  // namespace tandem::gateway::http
