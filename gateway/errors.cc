#include "gateway/errors.h"

#include <algorithm>
#include <array>

#include "common/base/status.h"
#include "gateway/limits.h"

namespace tandem::gateway {
namespace {

constexpr char kReasonUrl[] = "tandem/reason";
constexpr char kParamUrl[] = "tandem/param";
constexpr char kRetryAfterUrl[] = "tandem/retry-after-ms";
constexpr char kHttpStatusUrl[] = "tandem/http-status";

struct ReasonRow {
  ErrorReason reason;
  const char* name;
  absl::StatusCode code;
  int http_status;
  const char* http_code;
};

constexpr std::array<ReasonRow, kNumErrorReasons> kReasons = {{
    {ErrorReason::kValidation, "validation", absl::StatusCode::kInvalidArgument, 400, "invalid_value"},
    {ErrorReason::kUnsupported, "unsupported", absl::StatusCode::kInvalidArgument, 400, "unsupported_value"},
    {ErrorReason::kTooLong, "too_long", absl::StatusCode::kInvalidArgument, 400, "context_length_exceeded"},
    {ErrorReason::kTooLarge, "too_large", absl::StatusCode::kResourceExhausted, 413, "request_too_large"},
    {ErrorReason::kAuth, "auth", absl::StatusCode::kUnauthenticated, 401, "invalid_api_key"},
    {ErrorReason::kDenied, "denied", absl::StatusCode::kPermissionDenied, 403, "forbidden"},
    {ErrorReason::kModel, "model", absl::StatusCode::kNotFound, 404, "model_not_found"},
    {ErrorReason::kUnimplemented, "unimplemented", absl::StatusCode::kUnimplemented, 404, "not_found"},
    {ErrorReason::kQueueFull, "queue_full", absl::StatusCode::kResourceExhausted, 429, "rate_limit_exceeded"},
    {ErrorReason::kQuota, "quota", absl::StatusCode::kResourceExhausted, 429, "rate_limit_exceeded"},
    {ErrorReason::kKvFull, "kv_full", absl::StatusCode::kResourceExhausted, 429, "rate_limit_exceeded"},
    {ErrorReason::kMemory, "memory", absl::StatusCode::kResourceExhausted, 429, "rate_limit_exceeded"},
    {ErrorReason::kStarting, "starting", absl::StatusCode::kUnavailable, 503, "unavailable"},
    {ErrorReason::kDraining, "draining", absl::StatusCode::kUnavailable, 503, "unavailable"},
    {ErrorReason::kNoBackend, "no_backend", absl::StatusCode::kUnavailable, 503, "unavailable"},
    {ErrorReason::kDeadline, "deadline", absl::StatusCode::kDeadlineExceeded, 504, "deadline_exceeded"},
    {ErrorReason::kWriteStall, "write_stall", absl::StatusCode::kDeadlineExceeded, 504, "deadline_exceeded"},
    {ErrorReason::kCancelled, "cancelled", absl::StatusCode::kCancelled, 499, "cancelled"},
    {ErrorReason::kBackendLost, "backend_lost", absl::StatusCode::kUnavailable, 503, "unavailable"},
    {ErrorReason::kPeerProtocol, "peer_protocol", absl::StatusCode::kInternal, 500, "internal_error"},
    {ErrorReason::kInternal, "internal", absl::StatusCode::kInternal, 500, "internal_error"},
    {ErrorReason::kCorrupt, "corrupt", absl::StatusCode::kDataLoss, 500, "internal_error"},
}};

constexpr bool RowsMatchTheirIndex() {
  for (size_t i = 0; i < kReasons.size(); ++i) {
    if (static_cast<size_t>(kReasons[i].reason) != i) return false;
  }
  return true;
}
static_assert(RowsMatchTheirIndex());

const ReasonRow& Row(ErrorReason reason) { return kReasons[static_cast<size_t>(reason)]; }

absl::Status Make(ErrorReason reason, std::string message) {
  if (message.size() > static_cast<size_t>(limits::kErrorMessageBytes))
    message.resize(limits::kErrorMessageBytes);
  absl::Status status(Row(reason).code, message);
  status.SetPayload(kReasonUrl, absl::Cord(Row(reason).name));
  return status;
}

absl::Status Make(ErrorReason reason, std::string_view param, std::string message) {
  absl::Status status = Make(reason, std::move(message));
  if (!param.empty()) status.SetPayload(kParamUrl, absl::Cord(std::string(param)));
  return status;
}

absl::Status WithHttpStatus(absl::Status status, int http_status) {
  status.SetPayload(kHttpStatusUrl, absl::Cord(std::to_string(http_status)));
  return status;
}

int64_t WholeSeconds(absl::Duration d) { return absl::ToInt64Seconds(absl::Ceil(d, absl::Seconds(1))); }

// `message` gets "; retry in N s" appended.
absl::Status MakeRetryable(ErrorReason reason, std::string message, absl::Duration retry_after) {
  retry_after =
      std::clamp(absl::Ceil(retry_after, absl::Seconds(1)), limits::kMinRetryAfter, limits::kMaxRetryAfter);
  absl::Status status = Make(reason, fmt::format("{}, retry in {} s", message, WholeSeconds(retry_after)));
  status.SetPayload(kRetryAfterUrl, absl::Cord(std::to_string(absl::ToInt64Milliseconds(retry_after))));
  return status;
}

std::optional<int64_t> IntPayload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  if (!payload) return std::nullopt;
  return std::stoll(std::string(*payload));  // written by this file only
}

// Length of the UTF-8 character at the front, 0 if the bytes there are none.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t length = lead < 0x80   ? 1
                        : lead < 0xC2 ? 0
                        : lead < 0xE0 ? 2
                        : lead < 0xF0 ? 3
                        : lead < 0xF5 ? 4
                                      : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;   // overlong
  if (lead == 0xED && byte(1) >= 0xA0) return 0;  // surrogate
  if (lead == 0xF0 && byte(1) < 0x90) return 0;   // overlong
  if (lead == 0xF4 && byte(1) >= 0x90) return 0;  // above U+10FFFF
  if (lead == 0xC2 && byte(1) < 0xA0) return 0;   // C1 control characters: shown as bytes
  return length;
}

std::string Quoted(std::string_view value) { return fmt::format("\"{}\"", EscapedValue(value)); }

}  // namespace

const char* ErrorReasonName(ErrorReason reason) { return Row(reason).name; }

ErrorReason ReasonOf(const absl::Status& status) {
  if (const auto payload = status.GetPayload(kReasonUrl)) {
    for (const ReasonRow& row : kReasons) {
      if (*payload == row.name) return row.reason;
    }
  }
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return ErrorReason::kValidation;
    case absl::StatusCode::kResourceExhausted:
      return ErrorReason::kMemory;
    case absl::StatusCode::kUnauthenticated:
      return ErrorReason::kAuth;
    case absl::StatusCode::kPermissionDenied:
      return ErrorReason::kDenied;
    case absl::StatusCode::kUnimplemented:
      return ErrorReason::kUnimplemented;
    case absl::StatusCode::kUnavailable:
      return ErrorReason::kNoBackend;
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorReason::kDeadline;
    case absl::StatusCode::kCancelled:
      return ErrorReason::kCancelled;
    case absl::StatusCode::kDataLoss:
      return ErrorReason::kCorrupt;
    default:
      return ErrorReason::kInternal;
  }
}

std::string ParamOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kParamUrl);
  return payload ? std::string(*payload) : std::string();
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const std::optional<int64_t> ms = IntPayload(status, kRetryAfterUrl);
  if (!ms) return std::nullopt;
  return absl::Milliseconds(*ms);
}

int HttpStatusOf(const absl::Status& status) {
  if (const std::optional<int64_t> given = IntPayload(status, kHttpStatusUrl))
    return static_cast<int>(*given);
  return Row(ReasonOf(status)).http_status;
}

const char* HttpErrorCodeOf(const absl::Status& status) {
  switch (HttpStatusOf(status)) {
    case 405:
      return "method_not_allowed";
    case 408:
      return "request_timeout";
    case 415:
      return "unsupported_media_type";
    default:
      return Row(ReasonOf(status)).http_code;
  }
}

const char* HttpErrorTypeOf(const absl::Status& status) {
  const int http_status = HttpStatusOf(status);
  if (http_status == 429) return "rate_limit_error";
  return http_status >= 500 ? "server_error" : "invalid_request_error";
}

bool ForbidsRetry(const absl::Status& status) {
  const int http_status = HttpStatusOf(status);
  return http_status == 500 || http_status == 504;
}

std::string EscapedValue(std::string_view value) {
  const size_t limit = limits::kErrorValueBytes;
  std::string out;
  while (!value.empty()) {
    const auto byte = static_cast<unsigned char>(value[0]);
    size_t length = CharacterLength(value);
    if (byte < 0x20 || byte == 0x7F || byte == '"' || byte == '\\') length = 0;
    const std::string piece =
        length > 0 ? std::string(value.substr(0, length)) : fmt::format("\\x{:02x}", byte);
    if (out.size() + piece.size() > limit) return out + "...";
    out += piece;
    value.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

namespace error {

absl::Status OutOfRange(std::string_view param, std::string_view range, double got) {
  return Make(ErrorReason::kValidation, param, fmt::format("{} must be in {}, got {}", param, range, got));
}
absl::Status OutOfRange(std::string_view param, std::string_view range, int64_t got) {
  return Make(ErrorReason::kValidation, param, fmt::format("{} must be in {}, got {}", param, range, got));
}
absl::Status InvalidValue(std::string_view param, std::string_view expected, std::string_view got) {
  return Make(ErrorReason::kValidation, param,
              fmt::format("{} must be {}, got {}", param, expected, Quoted(got)));
}
absl::Status Required(std::string_view param) {
  return Make(ErrorReason::kValidation, param, fmt::format("{} is required", param));
}
absl::Status TooMany(std::string_view param, int64_t got, int64_t limit) {
  return Make(ErrorReason::kValidation, param,
              fmt::format("{} has {} entries, at most {} are allowed", param, got, limit));
}
absl::Status Invalid(std::string_view param, std::string_view message) {
  return Make(ErrorReason::kValidation, param, std::string(message));
}

absl::Status Unsupported(std::string_view param, std::string_view model) {
  return Make(ErrorReason::kUnsupported, param,
              fmt::format("{} is not supported by model {}", param, EscapedValue(model)));
}
absl::Status UnsupportedValue(std::string_view param, std::string_view message) {
  return Make(ErrorReason::kUnsupported, param, std::string(message));
}

absl::Status PromptTooLong(int64_t tokens, int64_t max_tokens, int64_t context) {
  return Make(ErrorReason::kTooLong, "max_tokens",
              fmt::format("prompt ({} tokens) + max_tokens ({}) exceed the context of {}", tokens, max_tokens,
                          context));
}
absl::Status PromptTooManyBytes(int64_t bytes, int64_t limit, int64_t context) {
  return Make(ErrorReason::kTooLong, "prompt",
              fmt::format("prompt has {} bytes, at most {} are allowed for the context of {}", bytes, limit,
                          context));
}
absl::Status PromptFillsContext(int64_t tokens, int64_t context) {
  return Make(ErrorReason::kTooLong, "prompt",
              fmt::format("prompt ({} tokens) leaves no room in the context of {}", tokens, context));
}

absl::Status BodyTooLarge(int64_t limit) {
  return Make(ErrorReason::kTooLarge, fmt::format("body exceeds {} bytes", limit));
}
absl::Status HeadersTooLarge(int64_t limit) {
  return WithHttpStatus(Make(ErrorReason::kTooLarge, fmt::format("headers exceed {} bytes", limit)), 431);
}

absl::Status InvalidApiKey() { return Make(ErrorReason::kAuth, "missing or invalid API key"); }
absl::Status Forbidden() { return Make(ErrorReason::kDenied, "this API key may not do that"); }

absl::Status ModelNotFound(std::string_view model) {
  return Make(ErrorReason::kModel, "model", fmt::format("model {} does not exist", Quoted(model)));
}

absl::Status RouteNotFound(std::string_view path) {
  return Make(ErrorReason::kUnimplemented, fmt::format("route {} does not exist", Quoted(path)));
}
absl::Status MethodNotAllowed(std::string_view method) {
  return WithHttpStatus(
      Make(ErrorReason::kUnimplemented, fmt::format("method {} is not allowed here", Quoted(method))), 405);
}
absl::Status EncodingNotSupported(std::string_view encoding) {
  return WithHttpStatus(Make(ErrorReason::kUnimplemented,
                             fmt::format("Content-Encoding {} is not supported", Quoted(encoding))),
                        415);
}
absl::Status MediaTypeNotSupported(std::string_view media_type) {
  return WithHttpStatus(
      Make(ErrorReason::kUnimplemented, fmt::format("Content-Type {} is not supported", Quoted(media_type))),
      415);
}

absl::Status QueueFull(int64_t limit, absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kQueueFull, fmt::format("queue is full ({})", limit), retry_after);
}
absl::Status WaitTooLong(absl::Duration predicted, absl::Duration limit) {
  return MakeRetryable(
      ErrorReason::kQueueFull,
      fmt::format("predicted wait of {} s exceeds {} s", WholeSeconds(predicted), WholeSeconds(limit)),
      predicted);
}
absl::Status QuotaExceeded(int64_t limit, absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kQuota,
                       fmt::format("{} requests of this API key are waiting or running", limit), retry_after);
}
absl::Status KvFull(absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kKvFull, "KV memory is full", retry_after);
}
absl::Status OutOfMemory(absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kMemory, "server is short of memory", retry_after);
}

absl::Status Starting(absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kStarting, "server is starting", retry_after);
}
absl::Status Draining(absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kDraining, "server is draining", retry_after);
}
absl::Status NoBackend(absl::Duration retry_after) {
  return MakeRetryable(ErrorReason::kNoBackend, "no verifier is connected", retry_after);
}

absl::Status DeadlineExceeded(absl::Duration after) {
  return Make(ErrorReason::kDeadline,
              fmt::format("deadline exceeded after {} s", absl::ToDoubleSeconds(after)));
}
absl::Status RequestIncomplete(absl::Duration after) {
  return WithHttpStatus(Make(ErrorReason::kDeadline,
                             fmt::format("request not complete after {} s", absl::ToDoubleSeconds(after))),
                        408);
}
absl::Status WriteStalled(absl::Duration after) {
  return Make(ErrorReason::kWriteStall,
              fmt::format("client read nothing for {} s", absl::ToDoubleSeconds(after)));
}
absl::Status Cancelled() { return Make(ErrorReason::kCancelled, "request cancelled"); }

absl::Status BackendLost(int64_t output_tokens) {
  return Make(ErrorReason::kBackendLost, fmt::format("backend lost after {} tokens", output_tokens));
}
absl::Status PeerProtocol(std::string_view request_id) {
  return Make(ErrorReason::kPeerProtocol,
              fmt::format("internal error, request {}", EscapedValue(request_id)));
}
absl::Status InternalError(std::string_view request_id) {
  if (request_id.empty()) return Make(ErrorReason::kInternal, "internal error");
  return Make(ErrorReason::kInternal, fmt::format("internal error, request {}", EscapedValue(request_id)));
}
absl::Status Corrupt(std::string_view request_id) {
  return Make(ErrorReason::kCorrupt, fmt::format("internal error, request {}", EscapedValue(request_id)));
}

}  // namespace error
}  // namespace tandem::gateway
