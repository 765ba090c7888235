#include "common/speculation/hello_fit.h"

#include "common/base/status.h"

namespace tandem::speculation {
namespace {

HelloMismatch Differs(const char* field, const std::string& verifier, const std::string& drafter) {
  return {field, FailedPrecondition("hello.{} differs: verifier {}, drafter {}", field, verifier, drafter)};
}

HelloMismatch Differs(const char* field, int64_t verifier, int64_t drafter) {
  return Differs(field, fmt::format("{}", verifier), fmt::format("{}", drafter));
}

}  // namespace

const std::vector<std::string>& HelloFields() {
  static const std::vector<std::string> fields{"protocol",   "sampling_version", "acceptance",  "top_m",
                                               "vocab_size", "hidden_size",      "num_layers",  "taps",
                                               "mask_token", "transport",        "local_socket"};
  return fields;
}

HelloMismatch CheckHellos(const VerifierHello& verifier, const DrafterHello& drafter) {
  if (verifier.protocol_major != drafter.protocol_major) {
    return Differs("protocol", fmt::format("{}.{}", verifier.protocol_major, verifier.protocol_minor),
                   fmt::format("{}.{}", drafter.protocol_major, drafter.protocol_minor));
  }
  if (verifier.sampling_version != drafter.sampling_version)
    return Differs("sampling_version", verifier.sampling_version, drafter.sampling_version);
  if (verifier.acceptance != drafter.acceptance) {
    return Differs("acceptance", AcceptanceModeName(verifier.acceptance),
                   AcceptanceModeName(drafter.acceptance));
  }
  if (verifier.top_m != drafter.top_m) return Differs("top_m", verifier.top_m, drafter.top_m);
  if (verifier.vocab_size != drafter.vocab_size)
    return Differs("vocab_size", verifier.vocab_size, drafter.vocab_size);
  // 0: the drafter does not depend on it.
  if (drafter.hidden_size != 0 && verifier.hidden_size != drafter.hidden_size)
    return Differs("hidden_size", verifier.hidden_size, drafter.hidden_size);
  if (drafter.num_target_layers != 0 && verifier.num_layers != drafter.num_target_layers)
    return Differs("num_layers", verifier.num_layers, drafter.num_target_layers);
  if (!drafter.taps.empty() && drafter.taps.back() >= verifier.num_layers)
    return Differs("taps", fmt::format("{} layers", verifier.num_layers),
                   fmt::format("tap {}", drafter.taps.back()));
  if (drafter.mask_token_id >= verifier.vocab_size)
    return Differs("mask_token", fmt::format("{} ids", verifier.vocab_size),
                   fmt::format("id {}", drafter.mask_token_id));
  if (drafter.transport == RowTransport::kSharedMemory && !verifier.shared_memory)
    return Differs("transport", RowTransportName(RowTransport::kInline), RowTransportName(drafter.transport));
  if (drafter.local_socket && !verifier.local_socket) return Differs("local_socket", "none", "one");
  return {};
}

}  // namespace tandem::speculation
