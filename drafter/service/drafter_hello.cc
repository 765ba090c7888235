#include "drafter/service/drafter_hello.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include "common/base/status.h"
#include "common/rpc/protocol_version.h"
#include "common/speculation/projection_bytes.h"

namespace tandem::drafter {

using speculation::RowTransport;

std::string NewIncarnation() {
  uint64_t random = 0;
  TANDEM_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&random), sizeof random) == 1);
  return fmt::format("{:016x}", random);
}

speculation::DrafterHello AnswerHello(const DrafterIdentity& identity,
                                      const speculation::VerifierHello& verifier) {
  const DraftModelInfo& model = identity.model;
  speculation::DrafterHello hello;
  hello.protocol_major = rpc::kProtocolMajor;
  hello.protocol_minor = rpc::kProtocolMinor;
  hello.incarnation = identity.incarnation;
  hello.sampling_version = rpc::kSamplingVersion;
  hello.acceptance = verifier.acceptance;
  hello.top_m = verifier.top_m;
  hello.algorithm = model.algorithm;
  hello.name = model.name;
  hello.target_fingerprint = model.target_fingerprint;
  hello.vocab_size = model.vocab_size == 0 ? verifier.vocab_size : model.vocab_size;
  hello.mask_token_id = model.mask_token_id;
  hello.hidden_size = model.hidden_size;
  hello.num_target_layers = model.num_target_layers;
  hello.block_size = model.block_size;
  hello.has_confidence = model.has_confidence;
  hello.row_width = model.projection.width;
  const bool one_machine =
      identity.shared_memory && MayShareMemory(identity.machine, {verifier.boot_id, verifier.uid});
  if (hello.row_width > 0) {
    hello.taps = model.projection.taps;
    hello.projection_hash = identity.projection_hash;
    hello.projection_bytes = speculation::ProjectionNumBytes(model.projection);
    hello.norm_eps = model.projection.norm_eps;
    hello.has_norm = !model.projection.norm.empty();
    hello.transport =
        one_machine && verifier.shared_memory ? RowTransport::kSharedMemory : RowTransport::kInline;
  }
  hello.local_socket = one_machine && verifier.local_socket;
  hello.calibration = model.calibration;
  hello.rows_granted = identity.row_window;
  hello.max_sequences = identity.max_sequences;
  hello.max_context_rows = identity.max_context_rows;
  return hello;
}

}  // namespace tandem::drafter
