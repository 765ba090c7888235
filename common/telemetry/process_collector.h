// process_* metrics as Prometheus' own client libraries name them, read from /proc at each scrape.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <vector>

namespace tandem::telemetry {

// Thread-safe. What /proc does not tell is left out.
class ProcessCollector : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace tandem::telemetry
