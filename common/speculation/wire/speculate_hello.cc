// Hellos of speculate_messages.h.
#include <cmath>
#include <utility>

#include "common/base/status.h"
#include "common/speculation/wire/field_checks.h"
#include "common/speculation/wire/speculate_messages.h"

namespace tandem::speculation {
namespace {

constexpr size_t kIncarnationDigits = 16;
constexpr size_t kSha256Digits = 64;
constexpr int kMaxCalibrations = 64;
constexpr float kMaxNormEps = 1;

v1::AcceptanceMode ToProto(AcceptanceMode mode) {
  return mode == AcceptanceMode::kCoupled ? v1::ACCEPTANCE_MODE_COUPLED : v1::ACCEPTANCE_MODE_REJECTION;
}

absl::StatusOr<AcceptanceMode> ReadMode(const char* field, v1::AcceptanceMode mode) {
  if (mode == v1::ACCEPTANCE_MODE_COUPLED) return AcceptanceMode::kCoupled;
  if (mode == v1::ACCEPTANCE_MODE_REJECTION) return AcceptanceMode::kRejection;
  return InvalidArgument("{} must be coupled (1) or rejection (2), got {}", field, static_cast<int>(mode));
}

absl::Status CheckTopM(AcceptanceMode mode, uint32_t top_m) {
  if (mode == AcceptanceMode::kCoupled) return CheckRange("hello.top_m (coupled)", top_m, 0, 0);
  return CheckRange("hello.top_m (rejection)", top_m, 1, kMaxTopM);
}

absl::StatusOr<InitialCalibration> ReadCalibration(const v1::InitialCalibration& message, int block_size) {
  InitialCalibration calibration;
  ASSIGN_OR_RETURN(calibration.acceptance, ReadMode("acceptance", message.acceptance()));
  calibration.temperature = message.temperature();
  if (!std::isfinite(calibration.temperature) || calibration.temperature < 0)
    return InvalidArgument("temperature must be finite and not negative, got {}", calibration.temperature);
  RETURN_IF_ERROR(CheckRange("scale's count", message.scale_size(), block_size, block_size));
  RETURN_IF_ERROR(CheckRange("bias' count", message.bias_size(), block_size, block_size));
  for (int k = 0; k < block_size; ++k) {
    if (!std::isfinite(message.scale(k)) || !std::isfinite(message.bias(k)))
      return InvalidArgument("scale and bias {} must be finite, got {} and {}", k, message.scale(k),
                             message.bias(k));
    calibration.scale_bias.emplace_back(message.scale(k), message.bias(k));
  }
  return calibration;
}

absl::Status ReadRowFields(const v1::DrafterHello& message, DrafterHello& hello) {
  RETURN_IF_ERROR(CheckRange("hello.row_width", message.row_width(), 0, kMaxWidth));
  hello.row_width = static_cast<int32_t>(message.row_width());
  const bool rows = hello.row_width > 0;
  RETURN_IF_ERROR(CheckRange("hello.taps' count", message.taps_size(), rows ? 1 : 0, rows ? kMaxTaps : 0));
  for (int i = 0; i < message.taps_size(); ++i) {
    RETURN_IF_ERROR(CheckRange("hello.taps", message.taps(i), i == 0 ? -1 : message.taps(i - 1) + int64_t{1},
                               kMaxLayers - 1));
    hello.taps.push_back(message.taps(i));
  }
  RETURN_IF_ERROR(CheckCounter("hello.projection_bytes", message.projection_bytes()));
  hello.projection_bytes = static_cast<int64_t>(message.projection_bytes());
  if (rows) {
    RETURN_IF_ERROR(CheckHex("hello.projection_hash", message.projection_hash(), kSha256Digits));
  } else {
    RETURN_IF_ERROR(CheckRange("hello.projection_bytes without rows", hello.projection_bytes, 0, 0));
    RETURN_IF_ERROR(CheckText("hello.projection_hash without rows", message.projection_hash(), 0));
  }
  hello.projection_hash = message.projection_hash();
  hello.has_norm = message.has_norm();
  hello.norm_eps = message.norm_eps();
  if (!(hello.norm_eps >= 0 && hello.norm_eps <= kMaxNormEps))
    return InvalidArgument("hello.norm_eps must be in 0..{}, got {}", kMaxNormEps, hello.norm_eps);
  return absl::OkStatus();
}

}  // namespace

void FillHello(const VerifierHello& hello, v1::SpeculateHello& out) {
  out.mutable_protocol()->set_major(hello.protocol_major);
  out.mutable_protocol()->set_minor(hello.protocol_minor);
  out.set_incarnation(hello.incarnation);
  out.set_sampling_version(hello.sampling_version);
  out.set_acceptance(ToProto(hello.acceptance));
  out.set_top_m(static_cast<uint32_t>(hello.top_m));
  out.set_target_fingerprint(hello.target_fingerprint);
  out.set_vocab_size(static_cast<uint32_t>(hello.vocab_size));
  out.set_hidden_size(static_cast<uint32_t>(hello.hidden_size));
  out.set_num_layers(static_cast<uint32_t>(hello.num_layers));
  out.set_max_model_len(static_cast<uint32_t>(hello.max_model_len));
  out.set_row_type(hello.row_type == RowType::kF32 ? v1::ROW_TYPE_F32 : v1::ROW_TYPE_BF16);
  out.set_boot_id(hello.boot_id);
  out.set_uid(hello.uid);
  out.set_shared_memory(hello.shared_memory);
  out.set_local_socket(hello.local_socket);
}

absl::StatusOr<VerifierHello> ReadHello(const v1::SpeculateHello& message) {
  VerifierHello hello;
  hello.protocol_major = message.protocol().major();
  hello.protocol_minor = message.protocol().minor();
  RETURN_IF_ERROR(CheckHex("hello.incarnation", message.incarnation(), kIncarnationDigits));
  hello.incarnation = message.incarnation();
  hello.sampling_version = message.sampling_version();
  ASSIGN_OR_RETURN(hello.acceptance, ReadMode("hello.acceptance", message.acceptance()));
  RETURN_IF_ERROR(CheckTopM(hello.acceptance, message.top_m()));
  hello.top_m = static_cast<int32_t>(message.top_m());
  RETURN_IF_ERROR(CheckText("hello.target_fingerprint", message.target_fingerprint(), kMaxNameBytes));
  hello.target_fingerprint = message.target_fingerprint();
  RETURN_IF_ERROR(CheckRange("hello.vocab_size", message.vocab_size(), 1, kMaxVocabSize));
  hello.vocab_size = static_cast<int32_t>(message.vocab_size());
  RETURN_IF_ERROR(CheckRange("hello.hidden_size", message.hidden_size(), 1, kMaxWidth));
  hello.hidden_size = static_cast<int32_t>(message.hidden_size());
  RETURN_IF_ERROR(CheckRange("hello.num_layers", message.num_layers(), 1, kMaxLayers));
  hello.num_layers = static_cast<int32_t>(message.num_layers());
  RETURN_IF_ERROR(CheckRange("hello.max_model_len", message.max_model_len(), 1, kMaxPositions));
  hello.max_model_len = static_cast<int32_t>(message.max_model_len());
  if (message.row_type() == v1::ROW_TYPE_F32) {
    hello.row_type = RowType::kF32;
  } else if (message.row_type() == v1::ROW_TYPE_BF16) {
    hello.row_type = RowType::kBF16;
  } else {
    return InvalidArgument("hello.row_type must be f32 (1) or bf16 (2), got {}",
                           static_cast<int>(message.row_type()));
  }
  RETURN_IF_ERROR(CheckText("hello.boot_id", message.boot_id(), kMaxNameBytes));
  hello.boot_id = message.boot_id();
  hello.uid = message.uid();
  hello.shared_memory = message.shared_memory();
  hello.local_socket = message.local_socket();
  return hello;
}

void FillHello(const DrafterHello& hello, v1::DrafterHello& out) {
  out.mutable_protocol()->set_major(hello.protocol_major);
  out.mutable_protocol()->set_minor(hello.protocol_minor);
  out.set_incarnation(hello.incarnation);
  out.set_sampling_version(hello.sampling_version);
  out.set_acceptance(ToProto(hello.acceptance));
  out.set_top_m(static_cast<uint32_t>(hello.top_m));
  out.set_algorithm(hello.algorithm);
  out.set_name(hello.name);
  out.set_target_fingerprint(hello.target_fingerprint);
  out.set_vocab_size(static_cast<uint32_t>(hello.vocab_size));
  if (hello.mask_token_id >= 0) out.set_mask_token_id(static_cast<uint32_t>(hello.mask_token_id));
  out.set_hidden_size(static_cast<uint32_t>(hello.hidden_size));
  out.set_num_target_layers(static_cast<uint32_t>(hello.num_target_layers));
  out.set_block_size(static_cast<uint32_t>(hello.block_size));
  out.set_has_confidence(hello.has_confidence);
  out.set_row_width(static_cast<uint32_t>(hello.row_width));
  out.mutable_taps()->Add(hello.taps.begin(), hello.taps.end());
  out.set_projection_hash(hello.projection_hash);
  out.set_projection_bytes(static_cast<uint64_t>(hello.projection_bytes));
  out.set_has_norm(hello.has_norm);
  out.set_norm_eps(hello.norm_eps);
  for (const InitialCalibration& calibration : hello.calibration) {
    v1::InitialCalibration& entry = *out.add_calibration();
    entry.set_acceptance(ToProto(calibration.acceptance));
    entry.set_temperature(calibration.temperature);
    for (const auto& [scale, bias] : calibration.scale_bias) {
      entry.add_scale(scale);
      entry.add_bias(bias);
    }
  }
  out.set_transport(hello.transport == RowTransport::kInline ? v1::ROW_TRANSPORT_INLINE
                                                             : v1::ROW_TRANSPORT_SHARED_MEMORY);
  out.set_rows_granted(static_cast<uint64_t>(hello.rows_granted));
  out.set_max_sequences(static_cast<uint32_t>(hello.max_sequences));
  out.set_max_context_rows(static_cast<uint64_t>(hello.max_context_rows));
  out.set_local_socket(hello.local_socket);
}

absl::StatusOr<DrafterHello> ReadHello(const v1::DrafterHello& message) {
  DrafterHello hello;
  hello.protocol_major = message.protocol().major();
  hello.protocol_minor = message.protocol().minor();
  RETURN_IF_ERROR(CheckHex("hello.incarnation", message.incarnation(), kIncarnationDigits));
  hello.incarnation = message.incarnation();
  hello.sampling_version = message.sampling_version();
  ASSIGN_OR_RETURN(hello.acceptance, ReadMode("hello.acceptance", message.acceptance()));
  RETURN_IF_ERROR(CheckTopM(hello.acceptance, message.top_m()));
  hello.top_m = static_cast<int32_t>(message.top_m());
  RETURN_IF_ERROR(CheckText("hello.algorithm", message.algorithm(), kMaxNameBytes));
  hello.algorithm = message.algorithm();
  RETURN_IF_ERROR(CheckText("hello.name", message.name(), kMaxNameBytes));
  hello.name = message.name();
  RETURN_IF_ERROR(CheckText("hello.target_fingerprint", message.target_fingerprint(), kMaxNameBytes));
  hello.target_fingerprint = message.target_fingerprint();
  RETURN_IF_ERROR(CheckRange("hello.vocab_size", message.vocab_size(), 1, kMaxVocabSize));
  hello.vocab_size = static_cast<int32_t>(message.vocab_size());
  if (message.has_mask_token_id()) {
    RETURN_IF_ERROR(CheckRange("hello.mask_token_id", message.mask_token_id(), 0, kMaxVocabSize - 1));
    hello.mask_token_id = static_cast<int32_t>(message.mask_token_id());
  }
  RETURN_IF_ERROR(CheckRange("hello.hidden_size", message.hidden_size(), 0, kMaxWidth));
  hello.hidden_size = static_cast<int32_t>(message.hidden_size());
  RETURN_IF_ERROR(CheckRange("hello.num_target_layers", message.num_target_layers(), 0, kMaxLayers));
  hello.num_target_layers = static_cast<int32_t>(message.num_target_layers());
  RETURN_IF_ERROR(CheckRange("hello.block_size", message.block_size(), 1, kMaxBlockSize));
  hello.block_size = static_cast<int32_t>(message.block_size());
  hello.has_confidence = message.has_confidence();
  RETURN_IF_ERROR(ReadRowFields(message, hello));
  RETURN_IF_ERROR(CheckRange("hello.calibration's count", message.calibration_size(), 0, kMaxCalibrations));
  for (int i = 0; i < message.calibration_size(); ++i) {
    absl::StatusOr<InitialCalibration> calibration =
        ReadCalibration(message.calibration(i), hello.block_size);
    if (!calibration.ok())
      return InvalidArgument("hello.calibration[{}].{}", i, std::string(calibration.status().message()));
    hello.calibration.push_back(*std::move(calibration));
  }
  if (message.transport() == v1::ROW_TRANSPORT_SHARED_MEMORY) {
    hello.transport = RowTransport::kSharedMemory;
  } else if (message.transport() != v1::ROW_TRANSPORT_INLINE) {
    return InvalidArgument("hello.transport must be inline (1) or shared memory (2), got {}",
                           static_cast<int>(message.transport()));
  }
  RETURN_IF_ERROR(CheckCounter("hello.rows_granted", message.rows_granted()));
  hello.rows_granted = static_cast<int64_t>(message.rows_granted());
  RETURN_IF_ERROR(CheckRange("hello.max_sequences", message.max_sequences(), 1, kInt32Max));
  hello.max_sequences = static_cast<int32_t>(message.max_sequences());
  RETURN_IF_ERROR(CheckCounter("hello.max_context_rows", message.max_context_rows()));
  hello.max_context_rows = static_cast<int64_t>(message.max_context_rows());
  RETURN_IF_ERROR(CheckRange("hello.max_context_rows", hello.max_context_rows, 1, kMaxPositions));
  hello.local_socket = message.local_socket();
  return hello;
}

}  // namespace tandem::speculation
