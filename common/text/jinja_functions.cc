// Global functions.
#include <algorithm>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_print.h"

namespace tandem::text::jinja {
namespace {

constexpr std::string_view kFunctions[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};
constexpr std::string_view kUnsupported[] = {"lipsum", "cycler", "joiner"};
constexpr int64_t kMaxRange = 100'000;  // as in Jinja's own sandbox

absl::StatusOr<Value> Range(const Arguments& arguments, Budget& budget) {
  const size_t n = arguments.positional().size();
  if (n < 1 || n > 3 || !arguments.named().empty()) return InvalidArgument("range() takes 1 to 3 arguments");
  int64_t given[3] = {};
  for (size_t i = 0; i < n; ++i) {
    ASSIGN_OR_RETURN(given[i], arguments.Integer(i, "bound", 0));
  }
  const int64_t start = n == 1 ? 0 : given[0], stop = n == 1 ? given[0] : given[1],
                step = n == 3 ? given[2] : 1;
  if (step == 0) return InvalidArgument("range() arg 3 must not be zero");
  List list;
  // Distances between any two 64-bit integers need 65 bits.
  for (__int128 at = start; step > 0 ? at < stop : at > stop; at += step) {
    RETURN_IF_ERROR(budget.Steps(1));
    if (static_cast<int64_t>(list.size()) == kMaxRange) {
      return ResourceExhausted("range() of more than {} numbers", kMaxRange);
    }
    list.push_back(Value::Of(static_cast<int64_t>(at)));
  }
  return Value::Of(std::move(list));
}

// The members of an optional dict and of the named arguments.
absl::StatusOr<Dict> Members(const Arguments& arguments, Budget& budget) {
  Dict dict;
  if (arguments.positional().size() > 1) return InvalidArgument("{}() takes one dict", arguments.function());
  if (!arguments.positional().empty()) {
    const Dict* given = arguments.positional()[0].dict();
    if (given == nullptr)
      return Unimplemented("{}() of a {}", arguments.function(), TypeName(arguments.positional()[0]));
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(given->items.size())));
    dict = *given;
  }
  for (const auto& [name, value] : arguments.named()) dict.Set(Value::Of(name), value);
  return dict;
}

absl::StatusOr<Value> MakeNamespace(const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(Dict members, Members(arguments, budget));
  ASSIGN_OR_RETURN(const Value checked, Value::Of(members));  // no namespaces inside namespaces
  auto space = std::make_shared<Namespace>();
  for (auto& [key, value] : members.items) space->attributes[key.text()->bytes()] = std::move(value);
  return Value{std::move(space)};
}

absl::StatusOr<Value> RaiseException(const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(arguments.Check({"message"}, 1));
  ASSIGN_OR_RETURN(const Text message, Print(*arguments.Get(0, "message"), budget));
  return InvalidArgument("{}", message.bytes());
}

absl::StatusOr<Value> StrftimeNow(const Arguments& arguments) {
  RETURN_IF_ERROR(arguments.Check({"format"}, 1));
  ASSIGN_OR_RETURN(const std::string format, arguments.String(0, "format", ""));
  if (format.size() > 256) return InvalidArgument("strftime_now: format of more than 256 bytes");
  return Value::Of(absl::FormatTime(format, Clock::Real().WallNow(), absl::UTCTimeZone()));
}

}  // namespace

absl::StatusOr<Value> FindFunction(const std::string& name) {
  if (std::find(std::begin(kFunctions), std::end(kFunctions), name) != std::end(kFunctions)) {
    return Value{std::make_shared<const Method>(Method{Value::OfUndefined(""), name})};
  }
  if (std::find(std::begin(kUnsupported), std::end(kUnsupported), name) != std::end(kUnsupported)) {
    return Unimplemented("function '{}' is not supported", name);
  }
  return Value::OfUndefined(fmt::format("'{}' is undefined", name.substr(0, 60)));
}

absl::StatusOr<Value> CallFunction(const std::string& name, const Arguments& arguments, Budget& budget) {
  if (name == "range") return Range(arguments, budget);
  if (name == "namespace") return MakeNamespace(arguments, budget);
  if (name == "raise_exception") return RaiseException(arguments, budget);
  if (name == "strftime_now") return StrftimeNow(arguments);
  TANDEM_CHECK(name == "dict");
  ASSIGN_OR_RETURN(Dict dict, Members(arguments, budget));
  return Value::Of(std::move(dict));
}

}  // namespace tandem::text::jinja
