#include "tests/fuzz/http_answers.h"

#include <algorithm>
#include <charconv>
#include <cstddef>

#include "common/base/status.h"

namespace tandem::fuzz {
namespace {

constexpr std::string_view kStart = "HTTP/1.1 ";
constexpr std::string_view kLastChunk = "0\r\n\r\n";

size_t Number(std::string_view text, int base) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  TANDEM_CHECK(error == std::errc() && end != text.data());
  return value;
}

// The value of a header that we write ourselves, in our own spelling; empty if absent.
std::string_view Header(std::string_view head, std::string_view name) {
  const size_t at = head.find(name);
  if (at == std::string_view::npos) return {};
  const std::string_view value = head.substr(at + name.size());
  return value.substr(0, value.find("\r\n"));
}

// Bytes of a chunked body with its framing, or npos if it is not whole.
size_t ChunkedSize(std::string_view body) {
  size_t at = 0;
  while (true) {
    const size_t line = body.find("\r\n", at);
    if (line == std::string_view::npos) return line;
    const size_t size = Number(body.substr(at, line - at), 16);
    if (size == 0)
      return body.size() - at < kLastChunk.size() ? std::string_view::npos : at + kLastChunk.size();
    at = line + 2 + size + 2;
    if (at > body.size()) return std::string_view::npos;
    TANDEM_CHECK(body.substr(at - 2, 2) == "\r\n");
  }
}

}  // namespace

std::optional<HttpAnswer> TakeAnswer(std::string_view& received) {
  const size_t start = std::min(received.size(), kStart.size());
  TANDEM_CHECK(received.substr(0, start) == kStart.substr(0, start));
  const size_t head_end = received.find("\r\n\r\n");
  if (head_end == std::string_view::npos) return std::nullopt;
  const std::string_view head = received.substr(0, head_end + 2);
  const std::string_view body = received.substr(head_end + 4);
  HttpAnswer answer;
  answer.status = static_cast<int>(Number(head.substr(kStart.size(), 3), 10));
  answer.is_json = Header(head, "\r\nContent-Type: ") == "application/json";
  size_t size = body.size();  // until the connection's end
  if (answer.status == 100) {
    size = 0;
  } else if (const std::string_view length = Header(head, "\r\nContent-Length: "); !length.empty()) {
    size = Number(length, 10);
  } else if (!Header(head, "\r\nTransfer-Encoding: ").empty()) {
    size = ChunkedSize(body);
  }
  if (size > body.size()) return std::nullopt;
  answer.body = body.substr(0, size);
  received = body.substr(size);
  return answer;
}

}  // namespace tandem::fuzz
