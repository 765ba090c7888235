#include "common/formats/json.h"

#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

// Builds the document from the parser's events and stops it at the first limit. The library's own builder
// knows neither limits nor repeated keys.
class BoundedBuilder : public nlohmann::json_sax<json> {
 public:
  explicit BoundedBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(json(nullptr)) != nullptr; }
  bool boolean(bool value) override { return Add(json(value)) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(json(value)) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(json(value)) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Add(json(value)) != nullptr; }
  bool string(string_t& value) override { return Add(json(std::move(value))) != nullptr; }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Enter(json::object()); }
  bool end_object() override { return Leave(); }
  bool start_array(std::size_t) override { return Enter(json::array()); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    if (open_.back()->contains(name)) return Fail(fmt::format("the key {} is given twice", Quoted(name)));
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return Fail(fmt::format("not valid JSON at byte {}", position));
  }

  const std::string& error() const { return error_; }
  json TakeRoot() { return std::move(root_); }

 private:
  bool Fail(std::string what) {
    error_ = std::move(what);
    return false;
  }

  // Puts the value into the innermost open container; nullptr at the limit.
  json* Add(json value) {
    if (++num_values_ > limits_.max_values) {
      Fail(fmt::format("more than {} values", limits_.max_values));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  // The pointers stay valid: while a container is open, nothing is added to the ones around it.
  bool Enter(json container) {
    if (open_.size() >= limits_.max_depth)
      return Fail(fmt::format("nested more than {} deep", limits_.max_depth));
    json* added = Add(std::move(container));
    if (added == nullptr) return false;
    open_.push_back(added);
    return true;
  }
  bool Leave() {
    open_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  json root_;
  std::vector<json*> open_;
  std::string key_;
  size_t num_values_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text, const JsonLimits& limits) {
  // The library takes a zero byte for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return InvalidArgument("not valid JSON at byte {}: zero byte", nul + 1);
  }
  BoundedBuilder builder(limits);
  if (!json::sax_parse(text, &builder)) return InvalidArgument("{}", builder.error());
  return builder.TakeRoot();
}

}  // namespace tandem::formats
