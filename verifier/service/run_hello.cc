#include "verifier/service/run_hello.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/rpc/grpc_status.h"
#include "common/rpc/protocol_version.h"

namespace tandem::verifier {
namespace {

constexpr size_t kIncarnationDigits = 16;

bool IsIncarnation(const std::string& text) {
  return text.size() == kIncarnationDigits &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
}

HelloMismatch Differs(const std::string& field, const std::string& verifier, const std::string& gateway) {
  return {field, FailedPrecondition("hello.{} differs: verifier {}, gateway {}", field,
                                    rpc::QuoteForMessage(verifier), rpc::QuoteForMessage(gateway))};
}

}  // namespace

std::string NewIncarnation() {
  uint64_t random = 0;
  TANDEM_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&random), sizeof random) == 1);
  return fmt::format("{:016x}", random);
}

v1::VerifierHello MakeHello(const RunIdentity& identity) {
  v1::VerifierHello hello;
  hello.mutable_protocol()->set_major(rpc::kProtocolMajor);
  hello.mutable_protocol()->set_minor(rpc::kProtocolMinor);
  hello.set_incarnation(identity.incarnation);
  hello.set_sampling_version(rpc::kSamplingVersion);
  hello.set_model_fingerprint(identity.model_fingerprint);
  hello.set_numerics_id(identity.numerics_id);
  hello.set_tokenizer_hash(identity.tokenizer_hash);
  hello.set_vocab_size(static_cast<uint32_t>(identity.vocab_size));
  hello.mutable_eos_token_ids()->Add(identity.eos_token_ids.begin(), identity.eos_token_ids.end());
  hello.set_max_model_len(static_cast<uint32_t>(identity.max_model_len));
  hello.set_kv_block_positions(static_cast<uint32_t>(identity.kv_block_positions));
  hello.set_kv_total_blocks(static_cast<uint32_t>(identity.kv_total_blocks));
  hello.set_max_sequences(static_cast<uint32_t>(identity.max_sequences));
  hello.set_draft_block_size(static_cast<uint32_t>(identity.draft_block_size));
  hello.set_local_socket(identity.local_socket);
  return hello;
}

const std::vector<std::string>& HelloFields() {
  static const std::vector<std::string> fields{"protocol",          "incarnation", "sampling_version",
                                               "model_fingerprint", "numerics_id", "tokenizer_hash",
                                               "vocab_size"};
  return fields;
}

HelloMismatch CheckHello(const RunIdentity& identity, const v1::GatewayHello& hello) {
  const auto& protocol = hello.protocol();
  if (protocol.major() != rpc::kProtocolMajor) {
    return Differs("protocol", fmt::format("{}.{}", rpc::kProtocolMajor, rpc::kProtocolMinor),
                   fmt::format("{}.{}", protocol.major(), protocol.minor()));
  }
  if (!IsIncarnation(hello.incarnation()))
    return Differs("incarnation", "16 hex digits", hello.incarnation());
  if (hello.sampling_version() != rpc::kSamplingVersion) {
    return Differs("sampling_version", fmt::format("{}", rpc::kSamplingVersion),
                   fmt::format("{}", hello.sampling_version()));
  }
  // Empty and 0 mean that the gateway has no opinion yet.
  if (!hello.model_fingerprint().empty() && hello.model_fingerprint() != identity.model_fingerprint) {
    return Differs("model_fingerprint", identity.model_fingerprint, hello.model_fingerprint());
  }
  if (!hello.numerics_id().empty() && hello.numerics_id() != identity.numerics_id) {
    return Differs("numerics_id", identity.numerics_id, hello.numerics_id());
  }
  if (!hello.tokenizer_hash().empty() && hello.tokenizer_hash() != identity.tokenizer_hash) {
    return Differs("tokenizer_hash", identity.tokenizer_hash, hello.tokenizer_hash());
  }
  if (hello.vocab_size() != 0 && hello.vocab_size() != static_cast<uint32_t>(identity.vocab_size)) {
    return Differs("vocab_size", fmt::format("{}", identity.vocab_size),
                   fmt::format("{}", hello.vocab_size()));
  }
  return {};
}

}  // namespace tandem::verifier
