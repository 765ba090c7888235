#include "common/text/bounded_json.h"

#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/base/status.h"

namespace tandem::text {
namespace {

using nlohmann::json;

// Reads the text without building anything and stops at the first fault.
class Checker : public json::json_sax_t {
 public:
  explicit Checker(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(json::number_integer_t) override { return true; }
  bool number_unsigned(json::number_unsigned_t) override { return true; }
  bool number_float(json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(std::string& key) override {
    if (open_keys_.back().insert(key).second) return true;
    status_ = InvalidArgument("JSON object has the key '{}' twice", key.substr(0, 60));
    return false;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    status_ = InvalidArgument("bad JSON at byte {}", position);
    return false;
  }

  const absl::Status& status() const { return status_; }

 private:
  bool Enter() {
    if (static_cast<int>(open_keys_.size()) == max_depth_) {
      status_ = InvalidArgument("JSON is nested deeper than {}", max_depth_);
      return false;
    }
    open_keys_.emplace_back();
    return true;
  }
  bool Leave() {
    open_keys_.pop_back();
    return true;
  }

  int max_depth_;
  std::vector<absl::flat_hash_set<std::string>> open_keys_;  // of the objects and arrays around the current place
  absl::Status status_;
};

}  // namespace

absl::StatusOr<json> ParseBoundedJson(std::string_view text, int max_depth) {
  Checker checker(max_depth);
  const bool good = json::sax_parse(text.begin(), text.end(), &checker);
  RETURN_IF_ERROR(checker.status());
  json parsed = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!good || parsed.is_discarded()) return InvalidArgument("bad JSON");
  return parsed;
}

}  // namespace tandem::text
