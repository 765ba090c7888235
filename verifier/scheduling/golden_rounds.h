// Confidence logits and outcomes of golden files.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "common/formats/safetensors.h"
#include "verifier/scheduling/temperature_scaling.h"

namespace tandem::verifier {

template <typename T>
std::vector<T> GoldenTensor(const formats::SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.tensors().find(name);
  EXPECT_NE(tensor, file.tensors().end()) << name;
  if (tensor == file.tensors().end()) return {};
  constexpr formats::DType kType = std::is_same_v<T, float> ? formats::DType::kF32 : formats::DType::kI32;
  EXPECT_EQ(tensor->second.dtype, kType) << name;
  std::vector<T> values(tensor->second.data.size() / sizeof(T));
  std::memcpy(values.data(), tensor->second.data.data(), values.size() * sizeof(T));
  return values;
}

struct GoldenRounds {
  // "PREFIXconfidence_logits" and so on.
  GoldenRounds(const formats::SafetensorsFile& file, const std::string& prefix)
      : logits(GoldenTensor<float>(file, prefix + "confidence_logits")),
        accepted(GoldenTensor<int32_t>(file, prefix + "accepted")),
        proposal_length(GoldenTensor<int32_t>(file, prefix + "proposal_length")),
        block_size(accepted.empty() ? 0 : logits.size() / accepted.size()) {}

  CalibrationRounds View() const { return {block_size, logits, accepted, proposal_length}; }
  size_t size() const { return accepted.size(); }

  std::vector<float> logits;
  std::vector<int32_t> accepted, proposal_length;
  size_t block_size;
};

// What of the [rounds, block_size] survivals belongs to position k (from 0), with labels.
struct PositionData {
  PositionData(const GoldenRounds& rounds, const std::vector<double>& survivals, size_t k) {
    for (size_t i = 0; i < rounds.size(); ++i) {
      if (rounds.proposal_length[i] <= static_cast<int32_t>(k)) continue;
      predictions.push_back(survivals[i * rounds.block_size + k]);
      labels.push_back(rounds.accepted[i] > static_cast<int32_t>(k));
    }
  }
  std::vector<double> predictions;
  std::vector<uint8_t> labels;
};

}  // namespace tandem::verifier
