#include "common/kernels/gemm.h"

#include "common/base/status.h"
#include "common/kernels/cpu/reference.h"
#include "common/kernels/half.h"

namespace tandem::kernels {

Activations::Activations(int max_tokens, int max_cols, ActivationType type) : type_(type) {
  const size_t size = static_cast<size_t>(max_tokens) * max_cols;
  if (type == ActivationType::kBF16) rounded_.resize(size);
  if (type == ActivationType::kInt8) {
    q_.resize(size);
    scales_.resize(size / kBlockColumns);
    sums_.resize(size / kBlockColumns);
    quant_sums_.resize(size / kBlockColumns);
  }
}

void Activations::Load(std::span<const float> x, int tokens, int cols, ThreadPool& pool) {
  const size_t size = static_cast<size_t>(tokens) * cols;
  TANDEM_CHECK(x.size() >= size);
  tokens_ = tokens;
  cols_ = cols;
  f32_ = x.data();
  if (type_ == ActivationType::kBF16) {
    TANDEM_CHECK(size <= rounded_.size());
    pool.ForEachTile(tokens, [&](int t) {
      const size_t begin = static_cast<size_t>(t) * cols;
      for (size_t i = begin; i < begin + cols; ++i) rounded_[i] = FloatFromBF16(BF16FromFloat(x[i]));
    });
    f32_ = rounded_.data();
  }
  if (type_ != ActivationType::kInt8 || cols % kBlockColumns != 0) return;
  TANDEM_CHECK(size <= q_.size());
  const int blocks = cols / kBlockColumns;
  pool.ForEachTile(tokens, [&](int t) {
    for (int b = 0; b < blocks; ++b) {
      const size_t at = static_cast<size_t>(t) * blocks + b;
      const std::span<int8_t> q = std::span(q_).subspan(at * kBlockColumns, kBlockColumns);
      scales_[at] = QuantiseReference(x.subspan(at * kBlockColumns, kBlockColumns), q);
      quant_sums_[at] = 0;
      for (const int8_t v : q) quant_sums_[at] += v;
      sums_[at] = scales_[at] * static_cast<float>(quant_sums_[at]);
    }
  });
}

void Gemm(const Activations& x, const Matrix& w, float* y, int64_t stride, ThreadPool& pool) {
  const GemmOutput output = {&w, y, stride};
  GemmMany(x, {&output, 1}, pool);
}

void GemmMany(const Activations& x, std::span<const GemmOutput> outputs, ThreadPool& pool) {
  pool.ForEachTile(static_cast<int>(outputs.size()),
                   [&](int i) { GemmReference(x, *outputs[i].w, outputs[i].y, outputs[i].stride); });
}

}  // namespace tandem::kernels
