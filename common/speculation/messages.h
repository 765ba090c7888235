// What verifier and drafter tell each other: speculate.proto's messages as plain values (proto types stop at
// the handlers). proto/tandem/v1/speculate.proto explains order, identity and credits; here are types and
// units.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tandem::speculation {

// How the verifier decides on a draft; both sides must agree, since the drafter draws accordingly.
enum class AcceptanceMode { kCoupled, kRejection };
enum class RowType { kF32, kBF16 };
// How the projected hidden rows travel. CUDA IPC comes with the CUDA backend.
enum class RowTransport { kInline, kSharedMemory };

const char* AcceptanceModeName(AcceptanceMode mode);   // "coupled", "rejection"
const char* RowTypeName(RowType type);                 // "f32", "bf16"
const char* RowTransportName(RowTransport transport);  // "inline", "shm"
// How feeds and drafts travel, in logs and metrics.
inline const char* MessageTransportName(bool socket) { return socket ? "unix" : "grpc"; }
inline constexpr int64_t RowTypeBytes(RowType type) { return type == RowType::kF32 ? 4 : 2; }

// A ring of row slots in shared host memory (row_ring.h).
struct RingAddress {
  std::string name;   // of the shared-memory object, e.g. "/tandem-3f9c..."
  int64_t slots = 0;  // rows
  int64_t row_bytes = 0;
};

// The verifier's first message.
struct VerifierHello {
  uint32_t protocol_major = 0, protocol_minor = 0;
  std::string incarnation;  // 16 hex digits, random per start
  uint32_t sampling_version = 0;
  AcceptanceMode acceptance = AcceptanceMode::kCoupled;
  int32_t top_m = 0;  // rejection: pairs per position that the drafter sends at most
  std::string target_fingerprint;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t num_layers = 0;
  int32_t max_model_len = 0;
  RowType row_type = RowType::kBF16;
  std::string boot_id;  // of the machine: shared memory is offered only to a peer with the same one
  uint32_t uid = 0;
  bool shared_memory = false;  // offered
  bool local_socket = false;   // offered, for feeds and drafts
};

// A starting point for the verifier's calibration: c_k = sigmoid(scale * logit_k + bias).
struct InitialCalibration {
  AcceptanceMode acceptance = AcceptanceMode::kCoupled;
  float temperature = 0;                            // 0 = greedy; of the fit
  std::vector<std::pair<float, float>> scale_bias;  // by position, block_size entries
};

// What the verifier does to the tapped hidden states of a position: row = norm(fc * concat(taps)).
struct Projection {
  int32_t width = 0;          // of a row; 0 = the drafter needs no rows
  std::vector<int32_t> taps;  // ascending; output of decoder block l, -1 = what enters block 0
  std::vector<float> fc;      // [width, taps * hidden_size]
  std::vector<float> norm;    // [width] RMSNorm weights; empty = no norm
  float norm_eps = 0;
};

// The drafter's first message; the projection follows in chunks.
struct DrafterHello {
  uint32_t protocol_major = 0, protocol_minor = 0;
  std::string incarnation;
  uint32_t sampling_version = 0;
  AcceptanceMode acceptance = AcceptanceMode::kCoupled;
  int32_t top_m = 0;
  std::string algorithm;  // "dspark", "dflash", "eagle3", "ngram", "random", "scripted"
  std::string name;       // of the model, for logs and metrics
  // What the checkpoint was trained for; empty = not said. Unequal is a warning.
  std::string target_fingerprint;
  int32_t vocab_size = 0;
  int32_t mask_token_id = -1;     // -1: none
  int32_t hidden_size = 0;        // of the target; 0 = any
  int32_t num_target_layers = 0;  // 0 = any
  int32_t block_size = 0;         // drafts per round at most, 1..kMaxBlockSize
  bool has_confidence = false;
  int32_t row_width = 0;
  std::vector<int32_t> taps;
  std::string projection_hash;  // SHA-256 hex of what is streamed; the row area's key
  int64_t projection_bytes = 0;
  float norm_eps = 0;
  bool has_norm = false;
  std::vector<InitialCalibration> calibration;
  RowTransport transport = RowTransport::kInline;  // chosen by the drafter from what was offered
  int64_t rows_granted = 0;                        // rows that may be sent on this stream in all, so far
  int32_t max_sequences = 0;                       // that the verifier may keep here at once
  int64_t max_context_rows = 0;                    // of one sequence
  bool local_socket = false;                       // take the verifier's offer
};

inline constexpr int32_t kMaxBlockSize = 64;
inline constexpr int32_t kMaxTopM = 256;

// What a sequence's drafts depend on beside its tokens. Later filters only cost acceptance when left out.
struct DraftSampling {
  uint64_t seed = 0;
  float temperature = 1;
  int32_t top_k = 0;  // 0 = off
  float top_p = 1;
  float min_p = 0;
};

// Rows and tokens of one sequence. Position p's row is the projected hidden state of token p.
struct SequenceFeed {
  uint64_t id = 0;  // the verifier's own
  uint32_t epoch = 0;
  // The drafter keeps rows [0, from) and truncates what it has beyond; with fewer it answers OutOfSync.
  int32_t from = 0;
  int32_t num_rows = 0;          // of positions [from, from + num_rows)
  int64_t first_row_number = 0;  // of this stream, counted from 0; slot = number mod slots
  // Ids of positions [from, from + num_rows + 1): the last has no row yet.
  std::vector<int32_t> tokens;
  std::optional<DraftSampling> sampling;  // with from == 0
  bool draft = false;  // a block behind the last token, which is the anchor: length = from + num_rows + 1
  uint32_t round = 0;  // of this epoch, from 1
};

struct SequenceName {
  uint64_t id = 0;
  uint32_t epoch = 0;
};

struct Feed {
  uint64_t number = 0;  // last + 1
  std::vector<SequenceFeed> sequences;
  std::vector<SequenceName> forgotten;  // ended or moved: their memory is free
  // With inline transport: the rows of all entries in order, row_width values each.
  std::vector<std::byte> rows;
};

// One pair of a truncated, renormalised draft distribution.
struct TokenProbability {
  int32_t token = 0;
  float probability = 0;
};

struct SequenceDraft {
  uint64_t id = 0;
  uint32_t epoch = 0;
  int32_t length = 0;  // confirmed tokens that the drafts follow
  int32_t anchor = 0;  // the last of them
  uint32_t round = 0;
  std::vector<int32_t> tokens;
  std::vector<float> confidence_logits;                      // one per token, or none
  std::vector<std::vector<TokenProbability>> distributions;  // rejection: one per token
};

struct OutOfSync {
  uint64_t id = 0;
  uint32_t epoch = 0;
  int32_t have = 0;  // rows; feed from there
};

struct DraftBatch {
  uint64_t number = 0;       // last + 1
  uint64_t feed_number = 0;  // the latest feed applied
  std::vector<SequenceDraft> drafts;
  std::vector<OutOfSync> out_of_sync;
  int64_t rows_granted = 0;    // cumulative, never falls
  double compute_seconds = 0;  // spent on these drafts
};

}  // namespace tandem::speculation
