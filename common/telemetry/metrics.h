// The metrics of one process, for Prometheus. All names get the prefix "tandem_"; the suffix is the unit.
//
//   Metrics metrics("tandem-verifier");
//   prometheus::Counter& preemptions = metrics.AddCounter("preemptions_total", "Sequences that gave way");
//   preemptions.Increment();
//   Labelled<prometheus::Counter> stale = metrics.AddCounters("stale_messages_total", "...", "stream",
//   {"run"}); stale["run"].Increment(); metrics.OnScrape([&] { waiting.Set(queue.size()); });
//   ASSIGN_OR_RETURN(auto server, MetricsServer::Start(address, metrics));   // metrics_server.h
//
// Every series is declared at start and stands at 0 from then on; label values come from configuration or
// enums, never from a request or a peer, so that a process has at most kMaxSeries. Besides, every process has
// build_info and process_{open_fds, max_fds, resident_memory_bytes, cpu_seconds_total, start_time_seconds}
// (without the prefix).
//
// Thread-safe; returned references live as long as Metrics.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"

namespace tandem::telemetry {

inline constexpr int kMaxSeries = 1000;

using Labels = std::map<std::string, std::string>;
using Buckets = std::vector<double>;

// Upper bounds in seconds unless said otherwise; each contains the bounds vLLM uses for the same quantity.
const Buckets& TimeToFirstTokenBuckets();
const Buckets& TimePerOutputTokenBuckets();
const Buckets& EndToEndBuckets();
const Buckets& StepBuckets();           // 1-2-5 from 20 us to 5 s
const Buckets& TokenCountBuckets();     // tokens, 1-2-5 from 1 to 200,000
const Buckets& PowerOfTwoBuckets();     // 1, 2, 4 .. 4,096: tokens or sequences of a step
const Buckets& WindowBuckets();         // tokens, 0-8, 12, 16
const Buckets& RelativeErrorBuckets();  // ratio, .01 to 1

// One metric per value of a label whose values are known.
template <typename T>
class Labelled {
 public:
  // Requires one of the values it was declared with.
  T& operator[](std::string_view value) const {
    const auto it = by_value_.find(value);
    TANDEM_CHECK(it != by_value_.end());
    return *it->second;
  }

 private:
  friend class Metrics;
  std::map<std::string, T*, std::less<>> by_value_;
};

class Metrics {
 public:
  explicit Metrics(const std::string& service);

  // The same name again needs the same help; with the same labels too it is the same series.
  prometheus::Counter& AddCounter(const std::string& name, const std::string& help,
                                  const Labels& labels = {});
  prometheus::Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                      const Buckets& buckets, const Labels& labels = {});
  // One per value; `labels` are common to all.
  Labelled<prometheus::Counter> AddCounters(const std::string& name, const std::string& help,
                                            const std::string& label, const std::vector<std::string>& values,
                                            const Labels& labels = {});
  Labelled<prometheus::Gauge> AddGauges(const std::string& name, const std::string& help,
                                        const std::string& label, const std::vector<std::string>& values,
                                        const Labels& labels = {});
  Labelled<prometheus::Histogram> AddHistograms(const std::string& name, const std::string& help,
                                                const std::string& label,
                                                const std::vector<std::string>& values,
                                                const Buckets& buckets, const Labels& labels = {});

  // Called before each scrape, on its thread, one at a time: for gauges that follow something else.
  void OnScrape(std::function<void()> refresh);

  // Everything in Prometheus' text format.
  std::string Scrape();
  // Series so far, a histogram's buckets, sum and count included.
  int num_series();

 private:
  prometheus::Registry registry_;
  std::shared_ptr<prometheus::Collectable> process_;
  absl::Mutex scrape_mu_;
  std::vector<std::function<void()>> refresh_ ABSL_GUARDED_BY(scrape_mu_);
};

// Raises a counter to a total that is kept elsewhere and never falls.
void RaiseTo(prometheus::Counter& counter, double total);

}  // namespace tandem::telemetry
