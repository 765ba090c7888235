#include "drafter/models/draft_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/kernels/half.h"
#include "common/models/weight_policy.h"

namespace tandem::drafter {
namespace {

using formats::DType;
using formats::TensorView;
using kernels::ActivationType;
using kernels::Matrix;
using kernels::WeightType;

constexpr float kSmallestNormalF16 = 0x1p-14f;
constexpr float kLargestF16 = 65504.0f;

bool HoldsBlocks(WeightType type) { return type == WeightType::kInt8 || type == WeightType::kInt4; }

bool FitsF16(float scale) { return kernels::FloatFromF16(kernels::F16FromFloat(scale)) == scale; }
bool NearF16(float scale) {
  const float magnitude = std::abs(scale);
  return FitsF16(scale) || (magnitude >= kSmallestNormalF16 && magnitude <= kLargestF16);
}

// An int8 tensor's quants under f16 scales, as ggml's Q8_0 has them: blocks of a scale and 32 quants.
std::vector<std::byte> AsQ8Blocks(const DraftTensor& tensor) {
  constexpr int64_t kBlock = kernels::kBlockColumns;
  const int64_t blocks = tensor.values.row_elements() / kBlock;
  std::vector<std::byte> bytes;
  bytes.reserve(tensor.values.num_rows() * blocks * (kBlock + 2));
  for (int64_t r = 0; r < tensor.values.num_rows(); ++r) {
    const uint16_t scale = kernels::F16FromFloat(tensor.row_scales[r]);
    const auto* const scale_bytes = reinterpret_cast<const std::byte*>(&scale);
    const auto row = tensor.values.row(r);
    for (int64_t b = 0; b < blocks; ++b) {
      bytes.insert(bytes.end(), scale_bytes, scale_bytes + 2);
      const auto quants = row.subspan(b * kBlock, kBlock);
      bytes.insert(bytes.end(), quants.begin(), quants.end());
    }
  }
  return bytes;
}

std::vector<float> AsFloats(const DraftTensor& tensor) {
  std::vector<float> values(tensor.values.num_elements());
  const int64_t cols = tensor.values.row_elements();
  for (int64_t r = 0; r < tensor.values.num_rows(); ++r) {
    tensor.DequantizeRow(r, std::span(values).subspan(r * cols, cols));
  }
  return values;
}

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

}  // namespace

WeightType DraftWeightReader::TypeFor(const TensorView& tensor) const {
  const WeightType type =
      models::ChooseWeightType(tensor.dtype, options_.weight_type, options_.activation_type).type;
  const bool fits = !HoldsBlocks(type) || tensor.row_elements() % kernels::kBlockColumns == 0;
  return fits ? type : kernels::LosslessWeightType(tensor.dtype);
}

absl::StatusOr<Matrix> DraftWeightReader::Pack(const TensorView& tensor,
                                               std::span<const int32_t> source_rows) {
  ASSIGN_OR_RETURN(
      Matrix matrix,
      Matrix::Pack(tensor,
                   {.type = TypeFor(tensor), .source_row = source_rows, .pool = &pool_, .memory = &memory_}));
  bytes_ += matrix.bytes();
  return matrix;
}

absl::StatusOr<Matrix> DraftWeightReader::ReadMatrix(const std::string& name,
                                                     std::span<const int32_t> source_rows) {
  ASSIGN_OR_RETURN(const DraftTensor tensor, checkpoint_.Tensor(name));
  absl::StatusOr<Matrix> matrix;
  if (!tensor.is_int8()) {
    matrix = Pack(tensor.values, source_rows);
  } else {
    const auto& scales = tensor.row_scales;
    const bool asked = options_.weight_type.has_value() ? options_.weight_type == WeightType::kInt8
                                                        : options_.activation_type == ActivationType::kInt8;
    const bool keep = tensor.values.row_elements() % kernels::kBlockColumns == 0 &&
                      (!options_.weight_type.has_value() || asked) &&
                      std::all_of(scales.begin(), scales.end(), asked ? NearF16 : FitsF16);
    if (keep) {
      const std::vector<std::byte> blocks = AsQ8Blocks(tensor);
      matrix = Pack({name, DType::kQ8_0, tensor.values.shape, blocks}, source_rows);
    } else {
      const std::vector<float> values = AsFloats(tensor);
      matrix = Pack({name, DType::kF32, tensor.values.shape, std::as_bytes(std::span(values))}, source_rows);
    }
  }
  if (!matrix.ok()) return Annotate(matrix.status(), checkpoint_.path());
  return matrix;
}

absl::StatusOr<Matrix> DraftWeightReader::ReadColumns(const std::string& name, int64_t begin, int64_t end) {
  ASSIGN_OR_RETURN(const DraftTensor tensor, checkpoint_.Tensor(name));
  const int64_t rows = tensor.values.num_rows(), cols = tensor.values.row_elements();
  TANDEM_CHECK(0 <= begin && begin < end && end <= cols);
  const std::vector<float> floats = tensor.is_int8() ? AsFloats(tensor) : std::vector<float>();
  const DType dtype = tensor.is_int8() ? DType::kF32 : tensor.values.dtype;
  const auto all = tensor.is_int8() ? std::as_bytes(std::span(floats)) : tensor.values.data;
  const int64_t size = formats::BlockBytes(dtype);
  std::vector<std::byte> part;
  part.reserve(rows * (end - begin) * size);
  for (int64_t r = 0; r < rows; ++r) {
    const auto columns = all.subspan((r * cols + begin) * size, (end - begin) * size);
    part.insert(part.end(), columns.begin(), columns.end());
  }
  auto matrix = Pack({name, dtype, {rows, end - begin}, part}, {});
  if (!matrix.ok()) return Annotate(matrix.status(), checkpoint_.path());
  return matrix;
}

absl::StatusOr<TokenRows> DraftWeightReader::ReadTokenRows(const std::string& name,
                                                           std::span<const int32_t> source_rows) {
  ASSIGN_OR_RETURN(const DraftTensor tensor, checkpoint_.Tensor(name));
  auto rows = TokenRows::Read(tensor, source_rows);
  if (!rows.ok()) return Annotate(rows.status(), checkpoint_.path());
  bytes_ += rows->bytes();
  return rows;
}

absl::StatusOr<std::vector<float>> DraftWeightReader::ReadFloats(const std::string& name) {
  ASSIGN_OR_RETURN(const DraftTensor tensor, checkpoint_.Tensor(name));
  std::vector<float> values = AsFloats(tensor);
  if (!AllFinite(values)) {
    return InvalidArgument("{}: tensor {}: weights that are not finite", checkpoint_.path(),
                           formats::Quoted(name));
  }
  bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
  return values;
}

absl::StatusOr<DraftLayerWeights> DraftWeightReader::ReadLayer(int64_t layer) {
  const formats::ModelConfig& shape = checkpoint_.config().shape;
  const std::string prefix = fmt::format("layers.{}.", layer);
  DraftLayerWeights w;
  ASSIGN_OR_RETURN(w.input_norm, ReadFloats(prefix + "input_layernorm.weight"));
  ASSIGN_OR_RETURN(w.q, ReadMatrix(prefix + "self_attn.q_proj.weight"));
  ASSIGN_OR_RETURN(w.k, ReadMatrix(prefix + "self_attn.k_proj.weight"));
  if (!shape.attention.value_is_key) {
    ASSIGN_OR_RETURN(w.v, ReadMatrix(prefix + "self_attn.v_proj.weight"));
  }
  ASSIGN_OR_RETURN(w.q_norm, ReadFloats(prefix + "self_attn.q_norm.weight"));
  ASSIGN_OR_RETURN(w.k_norm, ReadFloats(prefix + "self_attn.k_norm.weight"));
  ASSIGN_OR_RETURN(w.o, ReadMatrix(prefix + "self_attn.o_proj.weight"));
  const char* feed_forward_norm = "post_attention_layernorm.weight";
  if (shape.traits().post_norms) {
    ASSIGN_OR_RETURN(w.post_attention_norm, ReadFloats(prefix + "post_attention_layernorm.weight"));
    ASSIGN_OR_RETURN(w.post_feed_forward_norm, ReadFloats(prefix + "post_feedforward_layernorm.weight"));
    feed_forward_norm = "pre_feedforward_layernorm.weight";
  }
  ASSIGN_OR_RETURN(w.feed_forward_norm, ReadFloats(prefix + feed_forward_norm));
  ASSIGN_OR_RETURN(w.gate, ReadMatrix(prefix + "mlp.gate_proj.weight"));
  ASSIGN_OR_RETURN(w.up, ReadMatrix(prefix + "mlp.up_proj.weight"));
  ASSIGN_OR_RETURN(w.down, ReadMatrix(prefix + "mlp.down_proj.weight"));
  if (shape.traits().layer_scalar) {
    ASSIGN_OR_RETURN(const std::vector<float> scalar, ReadFloats(prefix + "layer_scalar"));
    w.scalar = scalar[0];
  }
  return w;
}

absl::StatusOr<TensorView> DraftWeightReader::TargetTensor(const std::string& name) const {
  if (options_.target == nullptr) {
    return FailedPrecondition("{}: has no {} of its own and needs its target's checkpoint",
                              checkpoint_.path(), name);
  }
  const formats::ModelConfig& shape = checkpoint_.config().shape;
  return options_.target->Tensor(name, {shape.vocab_size, shape.hidden_size});
}

// Which target ids the drafts may be, and which rows of stored tensors belong to them.
absl::Status DraftWeightReader::ChooseDraftVocabulary(VocabularyWeights& weights) {
  weights.draft_ids = checkpoint_.draft_ids();
  draft_rows_ = checkpoint_.draft_rows();
  if (options_.draft_vocab == 0) return absl::OkStatus();
  if (options_.draft_vocab == kUsualDraftVocab &&
      (!weights.draft_ids.empty() || !checkpoint_.ListsFrequentTokens())) {
    return absl::OkStatus();
  }
  if (!weights.draft_ids.empty()) {
    return InvalidArgument(
        "{}: draft_vocab {} is asked for, but the checkpoint has a reduced vocabulary (d2t)",
        checkpoint_.path(), options_.draft_vocab);
  }
  ASSIGN_OR_RETURN(weights.draft_ids, checkpoint_.FrequentTokens(options_.draft_vocab));
  draft_rows_ = weights.draft_ids;
  return absl::OkStatus();
}

absl::StatusOr<VocabularyWeights> DraftWeightReader::ReadVocabulary() {
  VocabularyWeights weights;
  RETURN_IF_ERROR(ChooseDraftVocabulary(weights));
  if (checkpoint_.HasTensor("embed_tokens.weight")) {
    ASSIGN_OR_RETURN(weights.embedding, ReadMatrix("embed_tokens.weight"));
  } else {
    ASSIGN_OR_RETURN(const TensorView tensor, TargetTensor("model.embed_tokens.weight"));
    ASSIGN_OR_RETURN(weights.embedding, Pack(tensor, {}));
  }
  if (checkpoint_.HasTensor("lm_head.weight")) {
    ASSIGN_OR_RETURN(weights.own_head, ReadMatrix("lm_head.weight", draft_rows_));
    return weights;
  }
  const bool target_is_tied = options_.target != nullptr && !options_.target->HasTensor("lm_head.weight");
  const char* const name = target_is_tied ? "model.embed_tokens.weight" : "lm_head.weight";
  ASSIGN_OR_RETURN(const TensorView tensor, TargetTensor(name));
  weights.tied = target_is_tied && weights.draft_ids.empty() && !checkpoint_.HasTensor("embed_tokens.weight");
  if (!weights.tied) {
    ASSIGN_OR_RETURN(weights.own_head, Pack(tensor, weights.draft_ids));
  }
  return weights;
}

}  // namespace tandem::drafter
