#include "common/telemetry/logs.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>

#include "absl/time/time.h"
#include "common/base/options.h"
#include "common/base/status.h"

namespace tandem::telemetry {
namespace {

constexpr int kStderrPatienceMs = 1000;

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

LogLevel ParseLevel(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

// Bytes of the well-formed UTF-8 character at `at`, or 0.
size_t Utf8Length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(at);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xc2 && first < 0xe0   ? 2
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xf0 && first < 0xf5 ? 4
                                                        : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(at + 1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return length;
}

void AppendValue(std::string& out, const LogField::Value& value, bool json) {
  const auto append_text = [&](std::string_view text) {
    const bool bare = !json && !text.empty() &&
                      text.find_first_not_of(
                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                          "_-.:/+@,") == std::string_view::npos;
    bare ? void(out.append(text)) : AppendJsonString(out, text);
  };
  std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>) {
          append_text(v);
        } else if constexpr (std::is_same_v<T, double>) {
          std::isfinite(v) ? void(out.append(fmt::format("{}", v))) : void(out.append("null"));
        } else {
          out.append(fmt::format("{}", v));
        }
      },
      value);
}

// Puts time and level before the payload, which Logger::Write has escaped already.
class LineFormatter : public spdlog::formatter {
 public:
  explicit LineFormatter(bool json) : json_(json) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const std::string time =
        absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::FromChrono(message.time), absl::UTCTimeZone());
    const std::string_view payload(message.payload.data(), message.payload.size());
    const auto level = spdlog::level::to_string_view(message.level);
    const std::string_view level_name(level.data(), level.size());
    if (json_) {
      fmt::format_to(std::back_inserter(out),
                     R"({{"ts":"{}","level":"{}",{}}})"
                     "\n",
                     time, level_name, payload);
    } else {
      fmt::format_to(std::back_inserter(out), "ts={} level={} {}\n", time, level_name, payload);
    }
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<LineFormatter>(json_); }

 private:
  const bool json_;
};

// Whole lines to a descriptor. Used by the logger's one thread.
class FdSink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  explicit FdSink(int fd) : fd_(fd) {}
  int64_t dropped() const { return dropped_.load(); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    if (!WriteAll(line.data(), line.size())) ++dropped_;
  }
  void flush_() override {}

 private:
  bool WriteAll(const char* data, size_t size) {
    while (size > 0) {
      // Waiting before each write keeps a blocking descriptor (a full pipe) from blocking us for ever;
      // PIPE_BUF bytes are what poll promises room for.
      pollfd ready{fd_, POLLOUT, 0};
      const int polled = poll(&ready, 1, patience_ms_);
      if (polled < 0 && errno == EINTR) continue;
      // After one wait in vain the lines behind are not waited for, so that the process can end.
      patience_ms_ = polled > 0 ? kStderrPatienceMs : 0;
      if (polled <= 0) return false;
      const ssize_t written = write(fd_, data, std::min<size_t>(size, 4096));
      if (written < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (written <= 0) return false;
      data += written;
      size -= static_cast<size_t>(written);
    }
    return true;
  }

  const int fd_;
  int patience_ms_ = kStderrPatienceMs;
  std::atomic<int64_t> dropped_{0};
};

}  // namespace

struct Logger::Pipeline {
  std::string service;
  std::shared_ptr<FdSink> sink;
  std::shared_ptr<spdlog::details::thread_pool> pool;
  std::shared_ptr<spdlog::async_logger> logger;
};

void AddLogOptions(OptionParser& parser, LogOptions* options) {
  parser.AddChoice("log-format", &options->format, {"json", "text"}, "Form of the log lines on stderr");
  parser.AddChoice("log-level", &options->level, {"debug", "info", "warning", "error"}, "Least level to log");
}

Logger::Logger(const LogOptions& options)
    : json_(options.format == "json"), level_(ParseLevel(options.level)), pipeline_(new Pipeline) {
  pipeline_->service = options.service;
  pipeline_->sink = std::make_shared<FdSink>(options.fd);
  pipeline_->sink->set_formatter(std::make_unique<LineFormatter>(json_));
  pipeline_->pool =
      std::make_shared<spdlog::details::thread_pool>(static_cast<size_t>(options.queue_lines), 1);
  pipeline_->logger = std::make_shared<spdlog::async_logger>(
      options.service, pipeline_->sink, pipeline_->pool, spdlog::async_overflow_policy::overrun_oldest);
  pipeline_->logger->set_level(SpdlogLevel(level_));
}

Logger::~Logger() = default;  // the pool's end writes what is queued

void Logger::Write(LogLevel level, std::string_view msg, Fields fields) {
  if (!enabled(level)) return;
  std::string line;
  line.reserve(128);
  const auto append = [&](std::string_view name, const LogField::Value& value) {
    if (!line.empty()) line.push_back(json_ ? ',' : ' ');
    if (json_) {
      AppendJsonString(line, name);
      line.push_back(':');
    } else {
      line.append(name).push_back('=');
    }
    AppendValue(line, value, json_);
  };
  append("msg", std::string(msg));
  append("service", pipeline_->service);
  append("version", std::string(TANDEM_VERSION));
  for (const LogField& field : fields) append(field.name(), field.value());
  pipeline_->logger->log(SpdlogLevel(level), spdlog::string_view_t(line.data(), line.size()));
}

int64_t Logger::dropped() const {
  return static_cast<int64_t>(pipeline_->pool->overrun_counter()) + pipeline_->sink->dropped();
}

void AppendJsonString(std::string& out, std::string_view text) {
  out.push_back('"');
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
      ++i;
    } else if (c < 0x20 || c == 0x7f) {
      out.append(fmt::format("\\u{:04x}", c));
      ++i;
    } else if (const size_t length = Utf8Length(text, i); length > 0) {
      out.append(text.substr(i, length));
      i += length;
    } else {
      out.append("\xef\xbf\xbd");
      ++i;
    }
  }
  out.push_back('"');
}

}  // namespace tandem::telemetry
