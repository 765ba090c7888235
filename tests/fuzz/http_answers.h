// The answers in the bytes that a server sent on one connection.
#pragma once

#include <optional>
#include <string_view>

namespace tandem::fuzz {

struct HttpAnswer {
  int status = 0;
  bool is_json = false;
  std::string_view body;  // without the framing only if it has a Content-Length
};

// The first answer, removed from `received`; none if it has not arrived whole, which is how a connection that
// was cut ends. Aborts where the bytes are no HTTP/1.1.
std::optional<HttpAnswer> TakeAnswer(std::string_view& received);

}  // namespace tandem::fuzz
