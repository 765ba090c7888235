#include "common/telemetry/process_collector.h"

#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace tandem::telemetry {
namespace {

struct Stat {
  double start_seconds, resident_bytes;  // start: since boot
};

// Fields 22 (start in ticks since boot) and 24 (resident pages) of /proc/self/stat, counted after the command
// name, which may hold spaces and parentheses.
std::optional<Stat> ReadStat() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(end + 1));
  double fields[25] = {};
  std::string state;
  rest >> state;  // field 3
  for (int i = 4; i <= 24; ++i) rest >> fields[i];
  if (!rest) return std::nullopt;
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  return Stat{fields[22] / ticks, fields[24] * static_cast<double>(sysconf(_SC_PAGESIZE))};
}

// In nanoseconds; /proc/self/stat counts it in ticks of 10 ms, of which a gateway's start may take none.
std::optional<double> CpuSeconds() {
  timespec time{};
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) != 0) return std::nullopt;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::optional<double> BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("btime ")) return std::stod(line.substr(6));
  }
  return std::nullopt;
}

std::optional<double> OpenDescriptors() {
  std::error_code error;
  double count = -1;  // the iterator's own
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end;
       it.increment(error)) {
    ++count;
  }
  return error ? std::nullopt : std::optional<double>(count);
}

prometheus::MetricFamily Family(const std::string& name, const std::string& help, prometheus::MetricType type,
                                double value) {
  prometheus::MetricFamily family{name, help, type, {}};
  prometheus::ClientMetric metric;
  (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  family.metric.push_back(metric);
  return family;
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessCollector::Collect() const {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  if (const auto count = OpenDescriptors()) {
    families.push_back(Family("process_open_fds", "Open file descriptors", MetricType::Gauge, *count));
  }
  if (rlimit limit; getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    families.push_back(Family("process_max_fds", "Limit of open file descriptors", MetricType::Gauge,
                              static_cast<double>(limit.rlim_cur)));
  }
  if (const auto seconds = CpuSeconds()) {
    families.push_back(
        Family("process_cpu_seconds_total", "User and system CPU time", MetricType::Counter, *seconds));
  }
  if (const auto stat = ReadStat()) {
    families.push_back(
        Family("process_resident_memory_bytes", "Resident memory", MetricType::Gauge, stat->resident_bytes));
    if (const auto boot = BootTime()) {
      families.push_back(Family("process_start_time_seconds", "Start, seconds since 1970", MetricType::Gauge,
                                *boot + stat->start_seconds));
    }
  }
  return families;
}

}  // namespace tandem::telemetry
