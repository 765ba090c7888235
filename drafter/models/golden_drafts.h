// Golden drafter cases, found by walking.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/models/golden_case.h"
#include "common/models/row_projection.h"
#include "drafter/models/load_draft_model.h"
#include "drafter/models/token_drawer.h"

namespace tandem::drafter {

struct DraftCase {
  std::string name;
  std::filesystem::path directory, drafter, target;
};

inline void PrintTo(const DraftCase& c, std::ostream* os) { *os << c.name; }

inline std::vector<DraftCase> DraftCases() {
  namespace fs = std::filesystem;
  const fs::path root = testing::GoldenDir() / "drafters";
  std::vector<fs::path> directories = {root / "trained_pair"};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "cases", error)) directories.push_back(entry.path());
  std::sort(directories.begin(), directories.end());
  std::vector<DraftCase> cases;
  for (const fs::path& directory : directories) {
    const auto facts = nlohmann::json::parse(testing::ReadFile(directory / "facts.json"), nullptr, false);
    const std::string named = facts.is_object() ? facts.value("target", "") : "";
    const fs::path target = fs::exists(root / named) && !named.empty() ? root / named : directory / named;
    for (const char* const drafter : {"drafter", "drafter_f32"}) {
      if (!fs::exists(directory / drafter)) continue;
      cases.push_back({directory.filename().string() + (drafter == std::string("drafter") ? "" : "_f32"),
                       directory, directory / drafter, target});
    }
  }
  return cases;
}

// Its options for results as exact as f32 gives them.
inline DraftModelOptions ExactOptions(const std::filesystem::path& drafter) {
  DraftModelOptions options;
  options.path = drafter;
  options.activation_type = kernels::ActivationType::kF32;
  options.kv_type = kernels::KvType::kF32;
  options.max_context_rows = 64;
  options.max_blocks = 8;
  return options;
}

// Null after a failure.
inline std::unique_ptr<DraftModel> LoadCase(const DraftCase& c, ThreadPool& pool) {
  auto model = LoadDraftModel(ExactOptions(c.drafter), pool);
  if (model.ok()) return *std::move(model);
  ADD_FAILURE() << model.status();
  return nullptr;
}

inline ::testing::AssertionResult AllNear(std::span<const float> actual, std::span<const float> expected,
                                          float absolute, float relative) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " values, expected " << expected.size();
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    const float bound = absolute + relative * std::abs(expected[i]);
    if (!(std::abs(actual[i] - expected[i]) <= bound)) {
      return ::testing::AssertionFailure()
             << "element " << i << ": " << actual[i] << ", expected " << expected[i] << " +- " << bound;
    }
  }
  return ::testing::AssertionSuccess();
}

// rows = the verifier's projection of features [n, taps * H].
inline std::vector<float> Project(const DraftModelInfo& info, std::span<const float> features,
                                  ThreadPool& pool) {
  const size_t taps = info.projection.taps.size(), hidden = info.hidden_size;
  const size_t n = features.size() / (taps * hidden);
  const auto max_rows = static_cast<int32_t>(std::max<size_t>(n, 1));
  auto projection = models::RowProjection::Create(info.projection, info.hidden_size, max_rows, pool);
  if (!projection.ok()) {
    ADD_FAILURE() << projection.status();
    return {};
  }
  std::vector<std::span<const float>> parts(taps);
  for (size_t t = 0; t < n; ++t) {
    for (size_t i = 0; i < taps; ++i) parts[i] = features.subspan((t * taps + i) * hidden, hidden);
    (*projection)->Add(parts, 0);
  }
  std::vector<float> rows(n * info.projection.width);
  (*projection)->Project(rows);
  return rows;
}

// softmax(z / T) in double, one-hot at temperature 0.
inline std::vector<double> Softmax(std::span<const float> z, double temperature) {
  std::vector<double> p(z.size());
  const auto best = std::max_element(z.begin(), z.end());
  if (temperature < 1e-5) {
    p[best - z.begin()] = 1;
    return p;
  }
  double total = 0;
  for (size_t v = 0; v < z.size(); ++v)
    total += p[v] = std::exp((double{z[v]} - double{*best}) / temperature);
  for (double& value : p) value /= total;
  return p;
}

// The first index whose cumulative probability exceeds u.
inline int32_t Choose(std::span<const double> p, double u) {
  double total = 0, sum = 0;
  for (const double value : p) total += value;
  for (size_t v = 0; v < p.size(); ++v) {
    sum += p[v];
    if (sum / total > u) return static_cast<int32_t>(v);
  }
  return static_cast<int32_t>(p.size()) - 1;
}

// Draws from softmax(z / T) with given uniforms, in order, and keeps the rows and laws; for one request at a
// time. At temperature 0 no uniforms are used. After a stop token nothing counts any more if `ends_at_stop`.
class RecordedDrawer : public TokenDrawer {
 public:
  RecordedDrawer(double temperature, std::vector<double> uniforms, std::vector<int32_t> stops = {})
      : temperature_(temperature), uniforms_(std::move(uniforms)), stops_(std::move(stops)) {}

  int32_t Draw(const DraftRequest&, int32_t, const DraftLogits& logits, DrawScratch&,
               std::vector<speculation::TokenProbability>*) const override {
    if (stopped_) return 0;
    EXPECT_TRUE(logits.ids.empty());
    rows_.insert(rows_.end(), logits.values.begin(), logits.values.end());
    laws_.push_back(Softmax(logits.values, temperature_));
    const double u = temperature_ < 1e-5 ? 0.5 : uniforms_.at(used_++);
    const int32_t token = Choose(laws_.back(), u);
    drawn_.push_back(token);
    stopped_ = std::find(stops_.begin(), stops_.end(), token) != stops_.end();
    return token;
  }

  const std::vector<float>& rows() const { return rows_; }
  const std::vector<std::vector<double>>& laws() const { return laws_; }
  const std::vector<int32_t>& drawn() const { return drawn_; }
  size_t used() const { return used_; }

 private:
  const double temperature_;
  const std::vector<double> uniforms_;
  const std::vector<int32_t> stops_;  // that end the proposal
  mutable std::vector<float> rows_;
  mutable std::vector<std::vector<double>> laws_;
  mutable std::vector<int32_t> drawn_;
  mutable size_t used_ = 0;
  mutable bool stopped_ = false;
};

}  // namespace tandem::drafter
