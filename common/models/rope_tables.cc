#include "common/models/rope_tables.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numbers>

#include "common/base/status.h"

namespace tandem::models {
namespace {

constexpr int64_t kPositionsPerTile = 256;

double ScaleAsLlama3(double inverse_frequency, const formats::RopeConfig::Llama3& rule) {
  const double context = static_cast<double>(rule.original_context);
  const double wavelength = 2 * std::numbers::pi / inverse_frequency;
  if (wavelength <= context / rule.high_freq_factor) return inverse_frequency;
  if (wavelength > context / rule.low_freq_factor) return inverse_frequency / rule.factor;
  const double smooth =
      (context / wavelength - rule.low_freq_factor) / (rule.high_freq_factor - rule.low_freq_factor);
  return (1 - smooth) * inverse_frequency / rule.factor + smooth * inverse_frequency;
}

}  // namespace

std::vector<float> InverseFrequencies(const formats::RopeConfig& rope, int64_t head_dim) {
  std::vector<float> result(head_dim / 2, 0.0f);
  const auto turning =
      static_cast<int64_t>(std::floor(rope.rotated_share * static_cast<double>(head_dim) / 2));
  for (int64_t j = 0; j < std::min(turning, head_dim / 2); ++j) {
    double f = std::pow(rope.theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
    if (rope.llama3.has_value()) f = ScaleAsLlama3(f, *rope.llama3);
    if (!rope.inverse_frequency_divisors.empty()) f /= rope.inverse_frequency_divisors[j];
    result[j] = static_cast<float>(f / rope.linear_factor);
  }
  return result;
}

absl::StatusOr<RopeTables> RopeTables::Create(const formats::RopeConfig& rope, int64_t head_dim,
                                              int64_t max_positions, ThreadPool& pool) {
  const int64_t pairs = head_dim / 2;
  const int64_t bytes = max_positions * head_dim * static_cast<int64_t>(sizeof(float));
  if (bytes > kMaxBytes) {
    return ResourceExhausted("rotary tables for {} positions take {} bytes, the limit is {}", max_positions,
                             bytes, kMaxBytes);
  }
  RopeTables tables;
  try {
    tables.cos.resize(max_positions * pairs);
    tables.sin.resize(max_positions * pairs);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for rotary tables of {} positions, {} bytes", max_positions, bytes);
  }
  const std::vector<float> inverse_frequencies = InverseFrequencies(rope, head_dim);
  const int num_tiles = static_cast<int>((max_positions + kPositionsPerTile - 1) / kPositionsPerTile);
  pool.ForEachTile(num_tiles, [&](int tile) {
    const int64_t end = std::min(max_positions, (tile + 1) * kPositionsPerTile);
    for (int64_t position = tile * kPositionsPerTile; position < end; ++position) {
      for (int64_t j = 0; j < pairs; ++j) {
        const float angle = static_cast<float>(position) * inverse_frequencies[j];
        tables.cos[position * pairs + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
        tables.sin[position * pairs + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  });
  return tables;
}

}  // namespace tandem::models
