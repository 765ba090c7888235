#include "common/telemetry/metrics.h"

#include <prometheus/text_serializer.h>

#include <sstream>

#include "common/telemetry/process_collector.h"

namespace tandem::telemetry {
namespace {

// 1, 2, 5, 10, 20, ... times `from`, up to `to`.
Buckets OneTwoFive(double from, double to) {
  Buckets buckets;
  for (double decade = from; decade <= to; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (decade * step <= to * 1.0001) buckets.push_back(decade * step);
    }
  }
  return buckets;
}

int SeriesOf(const prometheus::MetricFamily& family) {
  int series = 0;
  for (const prometheus::ClientMetric& metric : family.metric) {
    const bool histogram = family.type == prometheus::MetricType::Histogram;
    series += histogram ? static_cast<int>(metric.histogram.bucket.size()) + 2 : 1;
  }
  return series;
}

std::string Prefixed(const std::string& name) { return "tandem_" + name; }

}  // namespace

const Buckets& TimeToFirstTokenBuckets() {
  static const Buckets buckets{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                               1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}

const Buckets& TimePerOutputTokenBuckets() {
  static const Buckets buckets{.0002, .0005, .001, .002, .004, .006, .008, .01, .015, .02,
                               .025,  .03,   .04,  .05,  .075, .1,   .15,  .2,  .3,   .4,
                               .5,    .75,   1,    2.5,  5,    7.5,  10,   20,  40,   80};
  return buckets;
}

const Buckets& EndToEndBuckets() {
  static const Buckets buckets{.005, .05, .3, .5, .8, 1,   1.5, 2,   2.5, 5,    10,  15,
                               20,   30,  40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}

const Buckets& StepBuckets() {
  static const Buckets buckets{20e-6, 50e-6, 100e-6, 200e-6, 500e-6, .001, .002, .005, .01,
                               .02,   .05,   .1,     .2,     .5,     1,    2,    5};
  return buckets;
}

const Buckets& TokenCountBuckets() {
  static const Buckets buckets = OneTwoFive(1, 200000);
  return buckets;
}

const Buckets& PowerOfTwoBuckets() {
  static const Buckets buckets{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  return buckets;
}

const Buckets& WindowBuckets() {
  static const Buckets buckets{0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16};
  return buckets;
}

const Buckets& RelativeErrorBuckets() {
  static const Buckets buckets{.01, .02, .05, .1, .2, .5, 1};
  return buckets;
}

Metrics::Metrics(const std::string& service) : process_(std::make_shared<ProcessCollector>()) {
  AddGauge("build_info", "Always 1; the labels say what runs",
           {{"service", service}, {"version", TANDEM_VERSION}})
      .Set(1);
}

prometheus::Counter& Metrics::AddCounter(const std::string& name, const std::string& help,
                                         const Labels& labels) {
  return prometheus::BuildCounter().Name(Prefixed(name)).Help(help).Register(registry_).Add(labels);
}

prometheus::Gauge& Metrics::AddGauge(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildGauge().Name(Prefixed(name)).Help(help).Register(registry_).Add(labels);
}

prometheus::Histogram& Metrics::AddHistogram(const std::string& name, const std::string& help,
                                             const Buckets& buckets, const Labels& labels) {
  return prometheus::BuildHistogram()
      .Name(Prefixed(name))
      .Help(help)
      .Register(registry_)
      .Add(labels, buckets);
}

Labelled<prometheus::Counter> Metrics::AddCounters(const std::string& name, const std::string& help,
                                                   const std::string& label,
                                                   const std::vector<std::string>& values,
                                                   const Labels& labels) {
  Labelled<prometheus::Counter> result;
  for (const std::string& value : values) {
    Labels all = labels;
    all[label] = value;
    result.by_value_[value] = &AddCounter(name, help, all);
  }
  return result;
}

Labelled<prometheus::Gauge> Metrics::AddGauges(const std::string& name, const std::string& help,
                                               const std::string& label,
                                               const std::vector<std::string>& values, const Labels& labels) {
  Labelled<prometheus::Gauge> result;
  for (const std::string& value : values) {
    Labels all = labels;
    all[label] = value;
    result.by_value_[value] = &AddGauge(name, help, all);
  }
  return result;
}

Labelled<prometheus::Histogram> Metrics::AddHistograms(const std::string& name, const std::string& help,
                                                       const std::string& label,
                                                       const std::vector<std::string>& values,
                                                       const Buckets& buckets, const Labels& labels) {
  Labelled<prometheus::Histogram> result;
  for (const std::string& value : values) {
    Labels all = labels;
    all[label] = value;
    result.by_value_[value] = &AddHistogram(name, help, buckets, all);
  }
  return result;
}

void Metrics::OnScrape(std::function<void()> refresh) {
  absl::MutexLock lock(&scrape_mu_);
  refresh_.push_back(std::move(refresh));
}

std::string Metrics::Scrape() {
  absl::MutexLock lock(&scrape_mu_);
  for (const auto& refresh : refresh_) refresh();
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  for (prometheus::MetricFamily& family : process_->Collect()) families.push_back(std::move(family));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return std::move(out).str();
}

int Metrics::num_series() {
  int series = 0;
  for (const prometheus::MetricFamily& family : registry_.Collect()) series += SeriesOf(family);
  for (const prometheus::MetricFamily& family : process_->Collect()) series += SeriesOf(family);
  return series;
}

void RaiseTo(prometheus::Counter& counter, double total) {
  const double missing = total - counter.Value();
  if (missing > 0) counter.Increment(missing);
}

}  // namespace tandem::telemetry
