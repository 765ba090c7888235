#include "verifier/engine/capture_engine.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/half.h"
#include "verifier/engine/kv_size.h"

namespace tandem::verifier {
namespace {

using speculation::RowType;

int64_t BlocksFor(int64_t positions) {
  return (positions + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
}

void AppendValues(std::span<const float> values, RowType type, std::string& bytes) {
  const size_t begin = bytes.size();
  bytes.resize(begin + values.size() * speculation::RowTypeBytes(type));
  char* out = bytes.data() + begin;
  if (type == RowType::kF32) {
    std::memcpy(out, values.data(), values.size_bytes());
    return;
  }
  for (const float value : values) {
    const uint16_t bits = kernels::BF16FromFloat(value);
    std::memcpy(out, &bits, sizeof bits);
    out += sizeof bits;
  }
}

absl::Status CheckIds(const char* field, const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size)
      return InvalidArgument("{}[{}] must be in 0..{}, got {}", field, i, vocab_size - 1, ids[i]);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CaptureEngine>> CaptureEngine::Create(const CaptureOptions& options,
                                                                     models::Model& model) {
  TANDEM_CHECK(options.max_texts >= 1 && options.prefill_chunk >= 1);
  KvMemoryOffer offer;
  if (options.kv_bytes == 0) {
    ASSIGN_OR_RETURN(offer, OfferKvMemory(model));
  }
  const int64_t context = model.options().max_positions;
  ASSIGN_OR_RETURN(const int32_t blocks, NumKvBlocks({.kv_bytes = options.kv_bytes,
                                                      .block_bytes = model.kv_layout().block_bytes,
                                                      .max_sequences = options.max_texts,
                                                      .context = context,
                                                      .default_share = offer.share},
                                                     offer.available_bytes));
  ASSIGN_OR_RETURN(auto cache, model.CreateKvCache(blocks));
  const int64_t longest = std::min(context, int64_t{blocks} * kernels::kKvBlockPositions);
  return std::unique_ptr<CaptureEngine>(
      new CaptureEngine(options, model, std::move(cache), static_cast<int32_t>(longest)));
}

CaptureEngine::CaptureEngine(const CaptureOptions& options, models::Model& model,
                             std::unique_ptr<kernels::KvCache> cache, int32_t max_text_length)
    : options_(options), model_(model), cache_(std::move(cache)), max_text_length_(max_text_length) {
  free_blocks_.resize(cache_->num_blocks());
  std::iota(free_blocks_.rbegin(), free_blocks_.rend(), 0);
}

absl::Status CaptureEngine::Start(std::vector<int32_t> layers, RowType row_type) {
  const int64_t limit = std::min(kMaxCaptureLayers, model_.options().max_taps);
  if (layers.empty() || static_cast<int64_t>(layers.size()) > limit)
    return InvalidArgument("hello.layers must have 1..{} entries, got {}", limit, layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i] < -1 || layers[i] >= model_.config().num_layers) {
      return InvalidArgument("hello.layers[{}] must be in -1..{}, got {}", i, model_.config().num_layers - 1,
                             layers[i]);
    }
    if (i > 0 && layers[i] <= layers[i - 1])
      return InvalidArgument("hello.layers must be ascending, got {} after {}", layers[i], layers[i - 1]);
  }
  for (const auto& running : texts_) {
    free_blocks_.insert(free_blocks_.end(), running->blocks.begin(), running->blocks.end());
  }
  texts_.clear();
  layers_ = std::move(layers);
  row_type_ = row_type;
  return absl::OkStatus();
}

absl::Status CaptureEngine::Check(const CaptureText& text) const {
  const auto length = static_cast<int64_t>(text.tokens.size());
  if (length < 1 || length > max_text_length_)
    return InvalidArgument("text.token_ids' count must be in 1..{}, got {}", max_text_length_, length);
  if (text.max_tokens < 0 || length + text.max_tokens > max_text_length_) {
    return InvalidArgument("text.max_tokens must be in 0..{}, got {}", max_text_length_ - length,
                           text.max_tokens);
  }
  RETURN_IF_ERROR(CheckIds("text.token_ids", text.tokens, model_.config().vocab_size));
  if (text.stop_token_ids.size() > kMaxCaptureStopTokens) {
    return InvalidArgument("text.stop_token_ids' count must be in 0..{}, got {}", kMaxCaptureStopTokens,
                           text.stop_token_ids.size());
  }
  RETURN_IF_ERROR(CheckIds("text.stop_token_ids", text.stop_token_ids, model_.config().vocab_size));
  if (text.max_tokens > 0) {
    RETURN_IF_ERROR(
        sampling::ValidateSamplingParams(text.sampling, static_cast<int32_t>(model_.config().vocab_size)));
  }
  for (const auto& running : texts_) {
    if (running->text.id == text.id)
      return InvalidArgument("text.id {} is that of an unfinished text", text.id);
  }
  if (static_cast<int64_t>(texts_.size()) >= options_.max_texts)
    return ResourceExhausted("{} texts are unfinished, the limit", texts_.size());
  return absl::OkStatus();
}

void CaptureEngine::Add(CaptureText text) {
  auto running = std::make_unique<Running>();
  running->prompt_length = static_cast<int32_t>(text.tokens.size());
  running->text = std::move(text);
  texts_.push_back(std::move(running));
}

void CaptureEngine::StartWaiting() {
  for (const auto& running : texts_) {
    if (!running->blocks.empty()) continue;
    const int64_t wanted = BlocksFor(int64_t{running->prompt_length} + running->text.max_tokens);
    if (wanted > static_cast<int64_t>(free_blocks_.size())) return;  // in order: nobody is passed by
    running->blocks.assign(free_blocks_.end() - wanted, free_blocks_.end());
    free_blocks_.resize(free_blocks_.size() - wanted);
  }
}

void CaptureEngine::Plan() {
  slices_.clear();
  tokens_.clear();
  positions_.clear();
  logits_rows_.clear();
  sequences_.clear();
  const int max_rows = model_.options().max_step_tokens;
  for (const auto& running : texts_) {
    const int32_t room = max_rows - static_cast<int32_t>(tokens_.size());
    const int32_t missing = static_cast<int32_t>(running->text.tokens.size()) - running->computed;
    const int32_t rows = std::min({room, missing, options_.prefill_chunk});
    if (running->blocks.empty() || rows <= 0) continue;
    Slice slice = {running.get(), static_cast<int32_t>(tokens_.size()), rows, -1};
    if (running->generates() && rows == missing) {
      if (static_cast<int>(logits_rows_.size()) >= model_.options().max_logits_rows) continue;
      slice.logits_row = static_cast<int32_t>(logits_rows_.size());
      logits_rows_.push_back(slice.first_row + rows - 1);
    }
    const auto begin = running->text.tokens.begin() + running->computed;
    tokens_.insert(tokens_.end(), begin, begin + rows);
    for (int32_t i = 0; i < rows; ++i) positions_.push_back(running->computed + i);
    sequences_.push_back({slice.first_row, rows, running->computed, running->blocks});
    slices_.push_back(slice);
  }
}

absl::Status CaptureEngine::Step(std::vector<CapturedPiece>& pieces) {
  if (texts_.empty()) return absl::OkStatus();
  StartWaiting();
  Plan();
  TANDEM_CHECK(!slices_.empty());  // every text fits on its own, and the first is always started
  const bool rows_wanted = std::any_of(slices_.begin(), slices_.end(),
                                       [](const Slice& slice) { return slice.running->text.rows; });
  const std::span<const int32_t> taps =
      rows_wanted ? std::span<const int32_t>(layers_) : std::span<const int32_t>();
  model_.Forward({tokens_, positions_, sequences_, logits_rows_, taps}, *cache_, outputs_);
  for (const Slice& slice : slices_) {
    Running& running = *slice.running;
    if (running.text.rows) AppendRows(slice, pieces);
    running.computed += slice.num_rows;
    const size_t before = running.text.tokens.size();
    if (slice.logits_row >= 0) RETURN_IF_ERROR(Sample(slice));
    const bool done = IsDone(running);
    if (running.text.tokens.size() == before && !done) continue;
    CapturedPiece piece;
    piece.id = running.text.id;
    piece.first_position = running.computed;
    piece.tokens.assign(running.text.tokens.begin() + before, running.text.tokens.end());
    piece.done = done;
    pieces.push_back(std::move(piece));
    if (done) free_blocks_.insert(free_blocks_.end(), running.blocks.begin(), running.blocks.end());
  }
  std::erase_if(texts_, [this](const auto& running) { return IsDone(*running); });
  return absl::OkStatus();
}

void CaptureEngine::AppendRows(const Slice& slice, std::vector<CapturedPiece>& pieces) const {
  const int64_t hidden = model_.config().hidden_size;
  const int64_t row_bytes =
      hidden * static_cast<int64_t>(layers_.size()) * speculation::RowTypeBytes(row_type_);
  const auto rows_per_piece = static_cast<int32_t>(std::max<int64_t>(kMaxPieceBytes / row_bytes, 1));
  for (int32_t begin = 0; begin < slice.num_rows; begin += rows_per_piece) {
    CapturedPiece piece;
    piece.id = slice.running->text.id;
    piece.first_position = slice.running->computed + begin;
    piece.num_rows = std::min(rows_per_piece, slice.num_rows - begin);
    piece.rows.reserve(piece.num_rows * row_bytes);
    for (int32_t i = 0; i < piece.num_rows; ++i) {
      const int64_t row = slice.first_row + begin + i;
      for (const std::span<const float> tap : outputs_.taps) {
        AppendValues(tap.subspan(row * hidden, hidden), row_type_, piece.rows);
      }
    }
    pieces.push_back(std::move(piece));
  }
}

absl::Status CaptureEngine::Sample(const Slice& slice) {
  const int64_t vocab = model_.config().vocab_size;
  const auto logits = outputs_.logits.subspan(slice.logits_row * vocab, vocab);
  CaptureText& text = slice.running->text;
  const absl::StatusOr<int32_t> token =
      sampling::SampleCoupled(logits, {&text.sampling, nullptr, {}, text.tokens.size()}, scratch_);
  if (!token.ok()) return Annotate(token.status(), fmt::format("text {}", text.id));
  text.tokens.push_back(*token);
  return absl::OkStatus();
}

bool CaptureEngine::IsDone(const Running& running) const {
  const CaptureText& text = running.text;
  const auto length = static_cast<int32_t>(text.tokens.size());
  if (!running.generates()) return running.computed == length;
  const int32_t generated = length - running.prompt_length;
  if (generated == 0) return false;
  const bool stopped = std::find(text.stop_token_ids.begin(), text.stop_token_ids.end(),
                                 text.tokens.back()) != text.stop_token_ids.end();
  return stopped || generated >= text.max_tokens;
}

}  // namespace tandem::verifier
