#include "gateway/http/http_answer.h"

#include <algorithm>
#include <cctype>
#include <random>

#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/http/json_text.h"
#include "gateway/limits.h"

namespace tandem::gateway::http {
namespace {

const char* StatusPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Status";
  }
}

}  // namespace

std::string ErrorBody(const absl::Status& status) {
  std::string body = "{\"error\":{\"message\":";
  AppendJsonText(std::string_view(status.message().data(), status.message().size()), &body);
  body += ",\"type\":";
  AppendJsonText(HttpErrorTypeOf(status), &body);
  body += ",\"param\":";
  const std::string param = ParamOf(status);
  if (param.empty()) {
    body += "null";
  } else {
    AppendJsonText(param, &body);
  }
  body += ",\"code\":";
  AppendJsonText(HttpErrorCodeOf(status), &body);
  body += "}}";
  return body;
}

Answer ErrorAnswer(const absl::Status& status) {
  Answer answer{.status = HttpStatusOf(status), .body = ErrorBody(status)};
  if (const std::optional<absl::Duration> wait = RetryAfterOf(status)) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(*wait, absl::Seconds(1)));
    answer.headers.emplace_back("Retry-After", std::to_string(seconds));
  }
  if (ForbidsRetry(status)) answer.headers.emplace_back("x-should-retry", "false");
  if (answer.status == 401) answer.headers.emplace_back("WWW-Authenticate", "Bearer");
  return answer;
}

std::string AnswerHead(const Answer& answer, Framing framing, size_t length, bool keep_alive,
                       absl::Time now) {
  std::string head = fmt::format(
      "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\n", answer.status, StatusPhrase(answer.status),
      absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", now, absl::UTCTimeZone()), answer.content_type);
  if (framing == Framing::kLength) head += fmt::format("Content-Length: {}\r\n", length);
  if (framing == Framing::kChunked) head += "Transfer-Encoding: chunked\r\n";
  for (const auto& [name, value] : answer.headers) head += fmt::format("{}: {}\r\n", name, value);
  head += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return head;
}

std::string Chunk(std::string_view bytes) { return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes); }

std::string RequestIdFrom(std::string_view given) {
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!given.empty() && given.size() <= static_cast<size_t>(limits::kRequestIdBytes) &&
      std::all_of(given.begin(), given.end(), allowed))
    return std::string(given);
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

}  // namespace tandem::gateway::http
