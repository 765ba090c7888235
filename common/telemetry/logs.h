// Structured logs on stderr, one line an event:
//
//   {"ts":"2026-01-31T12:00:00.123456Z","level":"info","msg":"stream ended","service":"tandem-verifier",
//    "version":"0.1.0","request_id":"r-1","tokens":37}
//
//   Logger log({.service = "tandem-verifier"});
//   log.Info("stream ended", {{"request_id", id}, {"tokens", 37}});
//
// `msg` is fixed text; what varies goes into fields. Never log prompts, outputs, keys or metadata. A call
// never blocks: a thread writes the lines, and when its queue is full, or stderr takes nothing for a second,
// lines are dropped and counted. Thread-safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace tandem {
class OptionParser;
}

namespace tandem::telemetry {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogOptions {
  std::string service;          // the binary's name, in every line
  std::string format = "json";  // "json", or "text": key=value
  std::string level = "info";   // the least that is written: debug, info, warning, error
  int queue_lines = 4096;       // waiting for stderr; beyond it the oldest is dropped
  int fd = 2;                   // where lines go; borrowed
};
// --log-format and --log-level.
void AddLogOptions(OptionParser& parser, LogOptions* options);

// A name and a value; bytes that are not UTF-8 become U+FFFD.
class LogField {
 public:
  using Value = std::variant<bool, int64_t, uint64_t, double, std::string>;

  template <typename T>
  LogField(std::string_view name, const T& value) : name_(name), value_(ToValue(value)) {}

  const std::string& name() const { return name_; }
  const Value& value() const { return value_; }

 private:
  template <typename T>
  static Value ToValue(const T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      return value;
    } else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      return static_cast<int64_t>(value);
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<uint64_t>(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<double>(value);
    } else {
      return std::string(value);
    }
  }
  std::string name_;
  Value value_;
};

class Logger {
 public:
  explicit Logger(const LogOptions& options);
  // Writes what is queued; gives up on a stderr that takes nothing for a second.
  ~Logger();
  Logger(const Logger&) = delete;

  using Fields = std::initializer_list<LogField>;
  void Debug(std::string_view msg, Fields fields = {}) { Write(LogLevel::kDebug, msg, fields); }
  void Info(std::string_view msg, Fields fields = {}) { Write(LogLevel::kInfo, msg, fields); }
  void Warning(std::string_view msg, Fields fields = {}) { Write(LogLevel::kWarning, msg, fields); }
  void Error(std::string_view msg, Fields fields = {}) { Write(LogLevel::kError, msg, fields); }

  void Write(LogLevel level, std::string_view msg, Fields fields);
  bool enabled(LogLevel level) const { return level >= level_; }

  // Lines lost since the start: log_dropped_total.
  int64_t dropped() const;

 private:
  struct Pipeline;
  bool json_;
  LogLevel level_;
  std::unique_ptr<Pipeline> pipeline_;
};

// `text` as a JSON string with its quotes.
void AppendJsonString(std::string& out, std::string_view text);

}  // namespace tandem::telemetry
