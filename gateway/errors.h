// Every error that a client of the gateway can see, as a named function.
//
//   return error::PromptTooLong(tokens, max_tokens, context);
//
// A status carries, as payloads: its reason (a metric label and the key of the tables below), the field it is
// about and, for overload, when to try again. Doors read them with the accessors and never look into
// messages. Messages name field, limit and value; a client's value is cut to 64 bytes and escaped; no prompt
// text, path or address.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tandem::gateway {

enum class ErrorReason {
  kValidation,
  kUnsupported,
  kTooLong,
  kTooLarge,
  kAuth,
  kDenied,
  kModel,
  kUnimplemented,
  kQueueFull,
  kQuota,
  kKvFull,
  kMemory,
  kStarting,
  kDraining,
  kNoBackend,
  kDeadline,
  kWriteStall,
  kCancelled,
  kBackendLost,
  kPeerProtocol,
  kInternal,
  kCorrupt,
};
inline constexpr int kNumErrorReasons = static_cast<int>(ErrorReason::kCorrupt) + 1;

// "validation", "queue_full", ...: the metric label, and the reason of google.rpc.ErrorInfo.
const char* ErrorReasonName(ErrorReason reason);

// Of a status made elsewhere (a library's) the reason follows from its code; kInternal if nothing else fits.
ErrorReason ReasonOf(const absl::Status& status);
// The request's field, e.g. "temperature"; empty if the error is about none.
std::string ParamOf(const absl::Status& status);
// 1..60 s, for overload and unavailability only.
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

// HTTP's view: status code (499 for a cancelled request, logs only), "code" and "type" of the error object,
// and whether the client's automatic retry must be switched off (x-should-retry: false).
int HttpStatusOf(const absl::Status& status);
const char* HttpErrorCodeOf(const absl::Status& status);
const char* HttpErrorTypeOf(const absl::Status& status);
bool ForbidsRetry(const absl::Status& status);

// A client's text for use in a message: at most 64 bytes, control characters, quotes, backslashes and bytes
// that are not UTF-8 as \xNN; "..." follows if something was cut off.
std::string EscapedValue(std::string_view value);

namespace error {

// validation ------------------------------------------------------------------------------------------------
// "temperature must be in 0..2, got 3.5". `range` is our own text.
absl::Status OutOfRange(std::string_view param, std::string_view range, double got);
absl::Status OutOfRange(std::string_view param, std::string_view range, int64_t got);
// "role must be one of system, user, got \"x\"".
absl::Status InvalidValue(std::string_view param, std::string_view expected, std::string_view got);
// "model is required".
absl::Status Required(std::string_view param);
// "stop has 5 entries, at most 4 are allowed".
absl::Status TooMany(std::string_view param, int64_t got, int64_t limit);
// Any other complaint about a field; `message` is complete, its values already escaped.
absl::Status Invalid(std::string_view param, std::string_view message);

// unsupported
absl::Status Unsupported(std::string_view param, std::string_view model);
absl::Status UnsupportedValue(std::string_view param, std::string_view message);

// too_long
absl::Status PromptTooLong(int64_t tokens, int64_t max_tokens, int64_t context);
absl::Status PromptTooManyBytes(int64_t bytes, int64_t limit, int64_t context);
// The prompt alone leaves no room for one token.
absl::Status PromptFillsContext(int64_t tokens, int64_t context);

// too_large
absl::Status BodyTooLarge(int64_t limit);
absl::Status HeadersTooLarge(int64_t limit);  // HTTP 431

// auth, denied
absl::Status InvalidApiKey();
absl::Status Forbidden();

// model
absl::Status ModelNotFound(std::string_view model);

// unimplemented: HTTP 404, 405, 415
absl::Status RouteNotFound(std::string_view path);
absl::Status MethodNotAllowed(std::string_view method);
absl::Status EncodingNotSupported(std::string_view encoding);
absl::Status MediaTypeNotSupported(std::string_view media_type);

// overload: retry_after is clamped to 1..60 s
absl::Status QueueFull(int64_t limit, absl::Duration retry_after);
absl::Status WaitTooLong(absl::Duration predicted, absl::Duration limit);  // reason queue_full
absl::Status QuotaExceeded(int64_t limit, absl::Duration retry_after);
absl::Status KvFull(absl::Duration retry_after);
absl::Status OutOfMemory(absl::Duration retry_after);

// unavailable
absl::Status Starting(absl::Duration retry_after);
absl::Status Draining(absl::Duration retry_after);
absl::Status NoBackend(absl::Duration retry_after);

absl::Status DeadlineExceeded(absl::Duration after);
absl::Status RequestIncomplete(absl::Duration after);  // never arrived whole: HTTP 408
absl::Status WriteStalled(absl::Duration after);       // the client stopped reading
absl::Status Cancelled();

absl::Status BackendLost(int64_t output_tokens);
absl::Status PeerProtocol(std::string_view request_id);
absl::Status InternalError(std::string_view request_id);  // empty: none is known
absl::Status Corrupt(std::string_view request_id);

}  // namespace error
}  // namespace tandem::gateway
