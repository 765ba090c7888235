// Temperature scaling and the evaluator's measures against tests/golden/drafters/tables/calibration.*, and
// the online calibration on the outcomes of a real drafter (trained_pair/rejection_rounds.safetensors).
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tests/support/golden.h"
#include "verifier/scheduling/calibration.h"
#include "verifier/scheduling/calibration_metrics.h"
#include "verifier/scheduling/golden_rounds.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;

class CalibrationGoldenTest : public ::testing::Test {
 protected:
  static std::unique_ptr<formats::SafetensorsFile> Open(const std::string& name) {
    auto file = formats::SafetensorsFile::Open((testing::GoldenDir() / "drafters" / name).string());
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
};

TEST_F(CalibrationGoldenTest, TemperaturesSurvivalsAndMeasuresOfEveryCase) {
  const auto path = testing::GoldenDir() / "drafters/tables/calibration.json";
  const json expected = json::parse(testing::ReadFile(path), nullptr, /*allow_exceptions=*/false);
  ASSERT_FALSE(expected.is_discarded()) << "cannot read " << path;
  const auto file = Open("tables/calibration.safetensors");
  ASSERT_NE(file, nullptr);
  ASSERT_FALSE(expected["cases"].empty());
  for (size_t c = 0; c < expected["cases"].size(); ++c) {
    SCOPED_TRACE(c);
    const json& want = expected["cases"][c];
    const std::string prefix = std::to_string(c) + ".";
    const GoldenRounds rounds(*file, prefix);
    ASSERT_EQ(rounds.size(), want["rounds"].get<size_t>());
    ASSERT_EQ(rounds.block_size, expected["block_size"].get<size_t>());
    const std::vector<double> temperatures = SequentialTemperatureScaling(rounds.View());
    const std::vector<double> identity(rounds.block_size, 1.0);
    const std::vector<double> raw = ScaledSurvivals(rounds.View(), identity);
    const std::vector<double> scaled = ScaledSurvivals(rounds.View(), temperatures);
    for (size_t k = 0; k < rounds.block_size; ++k) {
      SCOPED_TRACE(k);
      EXPECT_NEAR(temperatures[k], want["temperatures"][k].get<double>(), 1e-12);
      const PositionData raw_data(rounds, raw, k), scaled_data(rounds, scaled, k);
      EXPECT_NEAR(ExpectedCalibrationErrorOf(raw_data.predictions, raw_data.labels),
                  want["ece_raw"][k].get<double>(), 1e-12);
      EXPECT_NEAR(ExpectedCalibrationErrorOf(scaled_data.predictions, scaled_data.labels),
                  want["ece_calibrated"][k].get<double>(), 1e-12);
      // The evaluator stores some of its sums in f32.
      const json& metrics = want["metrics_raw"][k];
      EXPECT_NEAR(ExpectedCalibrationErrorOf(raw_data.predictions, raw_data.labels),
                  metrics["ece"].get<double>(), 1e-6);
      EXPECT_NEAR(BrierScore(raw_data.predictions, raw_data.labels), metrics["brier"].get<double>(), 1e-6);
      const std::optional<double> auroc = Auroc(raw_data.predictions, raw_data.labels);
      if (auroc.has_value()) {
        EXPECT_NEAR(*auroc, metrics["auc"].get<double>(), 1e-6);
      } else {  // only positives, or only negatives: undefined
        EXPECT_FALSE(metrics["auc"].is_number() && std::isfinite(metrics["auc"].get<double>()));
      }
    }
    const std::vector<float> survival = GoldenTensor<float>(*file, prefix + "calibrated_survival");
    ASSERT_EQ(survival.size(), scaled.size());
    for (size_t i = 0; i < scaled.size(); ++i) ASSERT_NEAR(scaled[i], survival[i], 1e-6) << i;
  }
}

// The tables' heads are far off; learnt online, in one pass, they come close to the offline fit.
TEST_F(CalibrationGoldenTest, OnlineFitBringsTheErrorOfLongTablesDown) {
  const auto file = Open("tables/calibration.safetensors");
  ASSERT_NE(file, nullptr);
  int num_long = 0;
  for (size_t c = 0; file->tensors().contains(std::to_string(c) + ".confidence_logits"); ++c) {
    SCOPED_TRACE(c);
    const GoldenRounds rounds(*file, std::to_string(c) + ".");
    if (rounds.size() < 1000) continue;
    ++num_long;
    Calibration calibration(static_cast<int>(rounds.block_size));
    const auto logits_of = [&](size_t i) {
      return std::span(rounds.logits).subspan(i * rounds.block_size, rounds.block_size);
    };
    for (size_t i = 0; i < rounds.size(); ++i) {
      calibration.Observe(0, logits_of(i), rounds.proposal_length[i], rounds.accepted[i]);
    }
    EXPECT_TRUE(calibration.Trusted(0));
    std::vector<double> learnt, survivals;
    for (size_t i = 0; i < rounds.size(); ++i) {
      calibration.Survivals(0, logits_of(i), static_cast<int>(rounds.block_size), survivals);
      learnt.insert(learnt.end(), survivals.begin(), survivals.end());
    }
    const std::vector<double> offline =
        ScaledSurvivals(rounds.View(), SequentialTemperatureScaling(rounds.View()));
    for (size_t k = 0; k < rounds.block_size; ++k) {
      const PositionData learnt_data(rounds, learnt, k), offline_data(rounds, offline, k);
      EXPECT_LT(ExpectedCalibrationErrorOf(learnt_data.predictions, learnt_data.labels),
                ExpectedCalibrationErrorOf(offline_data.predictions, offline_data.labels) + 0.02)
          << k;
    }
  }
  EXPECT_GT(num_long, 0);
}

// What the scheduler is promised by a calibration that learns as it goes, from identity, and what comes true.
TEST_F(CalibrationGoldenTest, PromisesOfARealDrafterComeTrueWithinThreePercent) {
  const auto file = Open("trained_pair/rejection_rounds.safetensors");
  ASSERT_NE(file, nullptr);
  const GoldenRounds rounds(*file, "");
  const int bucket = TemperatureBucket(1);
  Calibration calibration(static_cast<int>(rounds.block_size));
  double promised = 0, accepted = 0, squares = 0;
  std::vector<double> survivals;
  const auto logits_of = [&](size_t i) {
    return std::span(rounds.logits).subspan(i * rounds.block_size, rounds.block_size);
  };
  std::vector<double> served(rounds.logits.size());  // as promised before the outcome
  for (size_t i = 0; i < rounds.size(); ++i) {
    calibration.Survivals(bucket, logits_of(i), static_cast<int>(rounds.block_size), survivals);
    std::copy(survivals.begin(), survivals.end(),
              served.begin() + static_cast<std::ptrdiff_t>(i * rounds.block_size));
    const int window = rounds.proposal_length[i];
    if (i >= rounds.size() / 4) {  // the first quarter is for learning
      const double sum = std::accumulate(survivals.begin(), survivals.begin() + window, 0.0);
      promised += sum;
      accepted += rounds.accepted[i];
      squares += (sum - rounds.accepted[i]) * (sum - rounds.accepted[i]);
    }
    calibration.Observe(bucket, logits_of(i), window, rounds.accepted[i]);
  }
  ASSERT_GT(accepted, 1000);
  // Three percent, and two standard errors of so few rounds (1.5 % each with 1100 of them).
  EXPECT_NEAR(promised / accepted, 1, 0.03 + 2 * std::sqrt(squares) / accepted);
  EXPECT_TRUE(calibration.Trusted(bucket));
  RecordProperty("promised_over_accepted", std::to_string(promised / accepted));

  // Errors by position: as the head says, as served while learning, and as served in the end.
  const std::vector<double> raw = ScaledSurvivals(rounds.View(), std::vector<double>(rounds.block_size, 1.0));
  std::vector<double> learnt(rounds.logits.size());
  for (size_t i = 0; i < rounds.size(); ++i) {
    calibration.Survivals(bucket, logits_of(i), static_cast<int>(rounds.block_size), survivals);
    std::copy(survivals.begin(), survivals.end(),
              learnt.begin() + static_cast<std::ptrdiff_t>(i * rounds.block_size));
  }
  double raw_error = 0, served_error = 0, learnt_error = 0;
  for (size_t k = 0; k < rounds.block_size; ++k) {
    const PositionData raw_data(rounds, raw, k), served_data(rounds, served, k),
        learnt_data(rounds, learnt, k);
    raw_error += ExpectedCalibrationErrorOf(raw_data.predictions, raw_data.labels);
    served_error += ExpectedCalibrationErrorOf(served_data.predictions, served_data.labels);
    learnt_error += ExpectedCalibrationErrorOf(learnt_data.predictions, learnt_data.labels);
    // What it says of itself is what was served (forgetting hardly matters over so few rounds).
    EXPECT_NEAR(calibration.ExpectedCalibrationError(static_cast<int>(k)),
                ExpectedCalibrationErrorOf(served_data.predictions, served_data.labels), 0.02);
  }
  const auto n = static_cast<double>(rounds.block_size);
  RecordProperty("mean_ece_raw", std::to_string(raw_error / n));
  RecordProperty("mean_ece_learnt", std::to_string(learnt_error / n));
  EXPECT_LT(served_error, 1.1 * raw_error);  // learning included
  EXPECT_LT(learnt_error, raw_error);
}

}  // namespace
}  // namespace tandem::verifier
