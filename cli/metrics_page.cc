#include "cli/metrics_page.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "cli/http_client.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

// {a="x",b="y"} from `at` on; escapes stay as they are. False if malformed.
bool ReadLabels(std::string_view line, size_t& at, std::map<std::string, std::string>& labels) {
  ++at;  // the brace
  while (at < line.size() && line[at] != '}') {
    const size_t equals = line.find("=\"", at);
    if (equals == std::string_view::npos) return false;
    size_t end = equals + 2;
    while (end < line.size() && line[end] != '"') end += line[end] == '\\' ? 2 : 1;
    if (end >= line.size()) return false;
    labels[std::string(line.substr(at, equals - at))] =
        std::string(line.substr(equals + 2, end - equals - 2));
    at = end + 1;
    if (at < line.size() && line[at] == ',') ++at;
  }
  return at++ < line.size();
}

}  // namespace

absl::StatusOr<MetricsPage> MetricsPage::Parse(std::string_view text) {
  MetricsPage page;
  const absl::string_view bytes(text.data(), text.size());
  for (const absl::string_view part : absl::StrSplit(bytes, '\n', absl::SkipEmpty())) {
    const std::string_view line(part.data(), part.size());
    if (line.starts_with('#')) continue;
    size_t at = line.find_first_of("{ ");
    const std::string name(line.substr(0, at));
    Sample sample;
    const bool good = at != std::string_view::npos && !name.empty() &&
                      (line[at] != '{' || ReadLabels(line, at, sample.labels)) && at < line.size() &&
                      line[at] == ' ' && absl::SimpleAtod(part.substr(at + 1), &sample.value);
    if (!good) return InvalidArgument("metrics: no sample: {}", line.substr(0, 200));
    page.samples_[name].push_back(std::move(sample));
  }
  return page;
}

absl::StatusOr<MetricsPage> MetricsPage::Read(const Address& address) {
  HttpClient client(address, absl::Seconds(10));
  ASSIGN_OR_RETURN(const HttpAnswer answer, client.Get("/metrics"));
  if (answer.status != 200) return Unavailable("{}: /metrics answers {}", address.ToString(), answer.status);
  return Parse(answer.body);
}

double MetricsPage::Sum(const std::string& name, const std::map<std::string, std::string>& labels) const {
  const auto found = samples_.find(name);
  if (found == samples_.end()) return 0;
  double sum = 0;
  for (const Sample& sample : found->second) {
    bool fits = true;
    for (const auto& [key, value] : labels) {
      const auto label = sample.labels.find(key);
      fits = fits && label != sample.labels.end() && label->second == value;
    }
    if (fits) sum += sample.value;
  }
  return sum;
}

}  // namespace tandem::cli
