// A process's /metrics page: Prometheus text, as our own processes write it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/option_values.h"

namespace tandem::cli {

class MetricsPage {
 public:
  // kInvalidArgument with the line that is no sample.
  static absl::StatusOr<MetricsPage> Parse(std::string_view text);
  // One scrape. kUnavailable if nobody answers there.
  static absl::StatusOr<MetricsPage> Read(const Address& address);

  // The sum of the samples of a name ("tandem_step_seconds_sum") that have all of `labels`; 0 if there is
  // none.
  double Sum(const std::string& name, const std::map<std::string, std::string>& labels = {}) const;

 private:
  struct Sample {
    std::map<std::string, std::string> labels;
    double value = 0;
  };
  std::map<std::string, std::vector<Sample>> samples_;
};

}  // namespace tandem::cli
