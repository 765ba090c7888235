#include "gateway/http/json_body.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/limits.h"

namespace tandem::gateway::http {
namespace {

using Json = nlohmann::ordered_json;

// Builds the document from the parser's events and stops the parser at the first limit.
class BoundedBuilder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Add(Json(nullptr)) != nullptr; }
  bool boolean(bool value) override { return Add(Json(value)) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(Json(value)) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(Json(value)) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Add(Json(value)) != nullptr; }
  bool string(string_t& value) override { return Add(Json(std::move(value))) != nullptr; }
  bool binary(binary_t&) override { return Fail("body holds a binary value"); }
  bool start_object(std::size_t) override { return Enter(Json::object()); }
  bool end_object() override { return Leave(); }
  bool start_array(std::size_t) override { return Enter(Json::array()); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    if (++num_keys_ > limits::kJsonKeys)
      return Fail(fmt::format("body has more than {} keys", limits::kJsonKeys));
    // ordered_json finds keys one by one; a set keeps 4,096 of them cheap.
    if (!open_.back().keys.insert(name).second)
      return Fail(fmt::format("body gives the key \"{}\" twice in one object", EscapedValue(name)));
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
    if (error.id == 406) return Fail(fmt::format("body has a number out of range at byte {}", position));
    return Fail(fmt::format("body is not valid JSON at byte {}", position));
  }

  const std::string& error() const { return error_; }
  Json TakeRoot() { return std::move(root_); }

 private:
  struct Open {
    Json* container;
    absl::flat_hash_set<std::string> keys;
  };

  bool Fail(std::string what) {
    error_ = std::move(what);
    return false;
  }

  // Puts the value into the innermost open container.
  Json* Add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back().container;
    if (parent.is_object()) {
      auto& members = parent.get_ref<Json::object_t&>();
      members.emplace_back(std::move(key_), std::move(value));
      return &members.back().second;
    }
    parent.push_back(std::move(value));
    return &parent.back();
  }

  // The pointers stay valid: while a container is open, nothing is added to the ones around it.
  bool Enter(Json container) {
    if (open_.size() >= limits::kJsonDepth)
      return Fail(fmt::format("body nests more than {} deep", limits::kJsonDepth));
    Json* added = Add(std::move(container));
    open_.push_back({added, {}});
    return true;
  }
  bool Leave() {
    open_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Open> open_;
  std::string key_;
  int num_keys_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonBody(std::string_view text) {
  // The library takes a zero byte for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    return error::Invalid("", fmt::format("body is not valid JSON at byte {}: zero byte", nul + 1));
  BoundedBuilder builder;
  if (!Json::sax_parse(text, &builder)) return error::Invalid("", builder.error());
  Json root = builder.TakeRoot();
  if (!root.is_object()) return error::Invalid("", "body must be a JSON object");
  return root;
}

}  // namespace tandem::gateway::http
