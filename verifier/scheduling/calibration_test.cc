#include "verifier/scheduling/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

namespace tandem::verifier {
namespace {

using speculation::AcceptanceMode;
using speculation::InitialCalibration;
using ::testing::ElementsAre;

constexpr int kBlockSize = 5;
constexpr int kBucket = 2;

double Sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

// A drafter whose drafts are accepted by the true logit of each; what its head says of them is another
// matter.
class Simulation {
 public:
  using Head = std::function<float(double true_logit, int position, std::mt19937_64& rng)>;

  explicit Simulation(uint64_t seed = 1) : rng_(seed) {}

  // `rounds` rounds with windows as chosen; counts what was promised and what came true.
  void Run(
      Calibration& calibration, int rounds, const Head& head,
      const std::function<int(std::mt19937_64&)>& window_of = [](std::mt19937_64&) { return kBlockSize; }) {
    promised = real = 0;
    tried.assign(kBlockSize, 0), stood.assign(kBlockSize, 0);
    std::vector<float> logits(kBlockSize);
    std::vector<double> survivals;
    std::normal_distribution<double> spread(0, 1.5);
    std::uniform_real_distribution<double> unit(0, 1);
    for (int round = 0; round < rounds; ++round) {
      int num_good = kBlockSize;
      for (int k = kBlockSize - 1; k >= 0; --k) {
        const double true_logit = 1.2 - 0.1 * k + spread(rng_);
        logits[static_cast<size_t>(k)] = head(true_logit, k, rng_);
        if (unit(rng_) >= Sigmoid(true_logit)) num_good = k;
      }
      const int window = window_of(rng_);
      const int accepted = std::min(window, num_good);
      calibration.Survivals(kBucket, logits, kBlockSize, survivals);
      for (int k = 0; k < window; ++k) promised += survivals[static_cast<size_t>(k)];
      real += accepted;
      for (int k = 0; k < window; ++k)
        ++tried[static_cast<size_t>(k)], stood[static_cast<size_t>(k)] += k < accepted;
      calibration.Observe(kBucket, logits, window, accepted);
    }
    last_logits = logits;
  }
  double Frequency(size_t k) const { return stood[k] / tried[k]; }

  double promised = 0, real = 0;
  std::vector<double> tried, stood;  // by position
  std::vector<float> last_logits;

 private:
  std::mt19937_64 rng_;
};

const Simulation::Head kGoodHead = [](double z, int, std::mt19937_64&) { return static_cast<float>(z); };
// Over-confident, more so at later positions.
const Simulation::Head kDistortedHead = [](double z, int k, std::mt19937_64&) {
  return static_cast<float>(2.5 * z + 1 + 0.3 * k);
};

std::vector<double> SurvivalsOf(const Calibration& calibration, std::vector<float> logits,
                                int num_drafts = kBlockSize) {
  std::vector<double> survivals;
  calibration.Survivals(kBucket, logits, num_drafts, survivals);
  return survivals;
}

TEST(TemperatureBucket, Edges) {
  EXPECT_EQ(TemperatureBucket(0), 0);
  EXPECT_EQ(TemperatureBucket(1e-6f), 1);
  EXPECT_EQ(TemperatureBucket(0.5f), 1);
  EXPECT_EQ(TemperatureBucket(0.51f), 2);
  EXPECT_EQ(TemperatureBucket(1), 2);
  EXPECT_EQ(TemperatureBucket(1.01f), 3);
  EXPECT_EQ(TemperatureBucket(100), 3);
}

TEST(Calibration, StartsAtIdentity) {
  const Calibration calibration(kBlockSize);
  const auto survivals = SurvivalsOf(calibration, {0, 1, -1, 2, 0});
  double product = 1;
  const double logits[] = {0, 1, -1, 2, 0};
  for (size_t k = 0; k < kBlockSize; ++k) EXPECT_NEAR(survivals[k], product *= Sigmoid(logits[k]), 1e-12);
  EXPECT_TRUE(calibration.Trusted(kBucket));
  EXPECT_EQ(calibration.ExpectedCalibrationError(0), 0);
  EXPECT_THAT(SurvivalsOf(calibration, {}, 0), ElementsAre());
}

TEST(Calibration, StartsFromTheSetOfItsModeAndBucketElseTheNearest) {
  const auto set = [](AcceptanceMode mode, float temperature, float scale) {
    return InitialCalibration{mode, temperature,
                              std::vector<std::pair<float, float>>(kBlockSize, {scale, 0})};
  };
  const float nan = std::nanf("");
  const std::vector<InitialCalibration> sets = {
      set(AcceptanceMode::kCoupled, 0.7f, 0.7f), set(AcceptanceMode::kCoupled, 1, 1.5f),
      set(AcceptanceMode::kCoupled, 0.8f, 0.8f), set(AcceptanceMode::kCoupled, 0.2f, 0.2f),
      set(AcceptanceMode::kRejection, 2, 2),     set(AcceptanceMode::kCoupled, nan, 3),
      set(AcceptanceMode::kCoupled, -1, 4)};
  Calibration calibration(kBlockSize);
  calibration.Start(AcceptanceMode::kCoupled, sets);
  const auto scale_of = [&](int bucket) {
    std::vector<double> survivals;
    calibration.Survivals(bucket, std::vector<float>{1}, 1, survivals);
    return std::log(survivals[0] / (1 - survivals[0]));
  };
  EXPECT_NEAR(scale_of(0), 0.2, 1e-6);  // nearest
  EXPECT_NEAR(scale_of(1), 0.2, 1e-6);  // inside
  EXPECT_NEAR(scale_of(2), 1.5, 1e-6);  // the largest temperature inside
  EXPECT_NEAR(scale_of(3), 1.5, 1e-6);  // nearest
  calibration.Start(AcceptanceMode::kRejection, sets);
  EXPECT_NEAR(scale_of(0), 2, 1e-6);
  calibration.Start(AcceptanceMode::kCoupled, {});
  EXPECT_NEAR(scale_of(0), 1, 1e-6);
}

TEST(Calibration, BringsWhateverADrafterProposesIntoRange) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  Calibration calibration(kBlockSize);
  // A set that is short, too.
  calibration.Start(AcceptanceMode::kCoupled,
                    std::vector<InitialCalibration>{
                        {AcceptanceMode::kCoupled, 1, {{nan, 0}, {1, infinity}, {-5, 0}, {1e30f, -1e30f}}}});
  const auto survivals = SurvivalsOf(calibration, {1, 1, 1, 1, 1});
  EXPECT_NEAR(survivals[0], Sigmoid(1), 1e-9);
  EXPECT_NEAR(survivals[1], Sigmoid(1) * Sigmoid(1), 1e-9);
  EXPECT_NEAR(survivals[2], Sigmoid(1) * Sigmoid(1) * 0.5, 1e-9);  // scale 0
  EXPECT_LE(survivals[4], survivals[3]);
  EXPECT_GE(survivals[4], 0);
}

TEST(Calibration, RecoversAKnownDistortion) {
  Simulation simulation;
  Calibration calibration(kBlockSize);
  simulation.Run(calibration, 4000, kDistortedHead);
  EXPECT_TRUE(calibration.Trusted(kBucket));
  for (const double z : {-1.0, 0.0, 1.0, 2.0}) {
    std::mt19937_64 unused;
    std::vector<float> logits;
    for (int k = 0; k < kBlockSize; ++k) logits.push_back(kDistortedHead(z, k, unused));
    const auto survivals = SurvivalsOf(calibration, logits);
    double product = 1;
    for (size_t k = 0; k < kBlockSize; ++k)
      EXPECT_NEAR(survivals[k], product *= Sigmoid(z), 0.06) << z << " " << k;
  }
  simulation.Run(calibration, 4000, kDistortedHead);
  EXPECT_NEAR(simulation.promised / simulation.real, 1, 0.03);
  for (int k = 0; k < kBlockSize; ++k) EXPECT_LT(calibration.ExpectedCalibrationError(k), 0.05) << k;
}

// Windows of any length, also none: what is not checked must not count as rejected.
TEST(Calibration, LearnsTheSameFromCensoredRounds) {
  Simulation simulation;
  Calibration calibration(kBlockSize);
  const auto any_window = [](std::mt19937_64& rng) { return static_cast<int>(rng() % (kBlockSize + 1)); };
  simulation.Run(calibration, 8000, kDistortedHead, any_window);
  EXPECT_TRUE(calibration.Trusted(kBucket));
  simulation.Run(calibration, 4000, kDistortedHead, any_window);
  EXPECT_NEAR(simulation.promised / simulation.real, 1, 0.03);
  simulation.Run(calibration, 2000, kDistortedHead);
  EXPECT_NEAR(simulation.promised / simulation.real, 1, 0.04);
}

TEST(Calibration, ExpectedSurvivalsAreTheMeanOfWhatWasAccepted) {
  Calibration calibration(kBlockSize);
  std::span<const double> expected = calibration.ExpectedSurvivals(kBucket);
  ASSERT_EQ(expected.size(), static_cast<size_t>(kBlockSize));
  EXPECT_GT(expected[0], 0.5);  // enough to try
  Simulation simulation;
  simulation.Run(calibration, 6000, kDistortedHead);
  simulation.Run(calibration, 4000, kDistortedHead);
  expected = calibration.ExpectedSurvivals(kBucket);
  for (size_t k = 0; k < kBlockSize; ++k) {
    EXPECT_NEAR(expected[k], simulation.Frequency(k), 0.06) << k;
    EXPECT_LE(expected[k], k == 0 ? 1 : expected[k - 1]);
  }
  // Other temperatures know nothing of it.
  EXPECT_EQ(calibration.ExpectedSurvivals(0)[0], Calibration(kBlockSize).ExpectedSurvivals(0)[0]);
}

TEST(Calibration, AGarbageHeadIsReplacedByWhatIsObserved) {
  const std::pair<std::string, Simulation::Head> heads[] = {
      {"random",
       [](double, int, std::mt19937_64& rng) { return static_cast<float>(rng() % 1000) / 100 - 5; }},
      {"contrary", [](double z, int, std::mt19937_64&) { return static_cast<float>(-z); }},
      {"huge", [](double, int, std::mt19937_64&) { return 1e9f; }},
      {"hugely negative", [](double, int, std::mt19937_64&) { return -1e9f; }},
      {"always sure", [](double, int, std::mt19937_64&) { return 3.0f; }},
  };
  for (size_t i = 0; i < 5 * std::size(heads); ++i) {
    const auto& [name, head] = heads[i % std::size(heads)];
    SCOPED_TRACE(name + std::to_string(i));
    Simulation simulation(i);
    Calibration calibration(kBlockSize);
    simulation.Run(calibration, 500, head);
    EXPECT_FALSE(calibration.Trusted(kBucket));
    simulation.Run(calibration, 4000, head);
    EXPECT_FALSE(calibration.Trusted(kBucket));
    const auto survivals = SurvivalsOf(calibration, simulation.last_logits);
    for (size_t k = 0; k < kBlockSize; ++k) EXPECT_NEAR(survivals[k], simulation.Frequency(k), 0.05) << k;
    EXPECT_EQ(survivals, SurvivalsOf(calibration, {}));
    EXPECT_NEAR(simulation.promised / simulation.real, 1, 0.03);
    EXPECT_TRUE(calibration.Trusted(0));  // each bucket for itself

    // And back, once it knows something.
    simulation.Run(calibration, 8000, kGoodHead);
    EXPECT_TRUE(calibration.Trusted(kBucket));
    simulation.Run(calibration, 3000, kGoodHead);
    EXPECT_NEAR(simulation.promised / simulation.real, 1, 0.03);
  }
}

TEST(Calibration, AGoodHeadIsTrustedThroughout) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Simulation simulation(seed);
    Calibration calibration(kBlockSize);
    for (int i = 0; i < 200; ++i) {
      simulation.Run(calibration, 20, kGoodHead);
      ASSERT_TRUE(calibration.Trusted(kBucket)) << seed << " " << i;
    }
  }
}

TEST(Calibration, TakesLogitsThatAreNoNumbersAsNone) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  Simulation simulation;
  Calibration calibration(kBlockSize);
  simulation.Run(calibration, 2000, kGoodHead);
  const auto observed = SurvivalsOf(calibration, {});
  for (const float bad : {nan, infinity, -infinity}) {
    EXPECT_EQ(SurvivalsOf(calibration, {1, 1, bad, 1, 1}), observed);
    EXPECT_EQ(SurvivalsOf(calibration, {1, 1, 1}), observed);  // too few
  }
  // Neither fit nor trust changes; outcomes count all the same.
  const auto before = SurvivalsOf(calibration, {1, 0, 1, 0, 1});
  for (int i = 0; i < 3000; ++i)
    calibration.Observe(kBucket, std::vector<float>{nan, 1, 1, 1, -infinity}, kBlockSize, 0);
  EXPECT_EQ(SurvivalsOf(calibration, {1, 0, 1, 0, 1}), before);
  EXPECT_TRUE(calibration.Trusted(kBucket));
  EXPECT_LT(SurvivalsOf(calibration, {})[0], 0.1);
}

TEST(Calibration, WithoutLogitsServesWhatIsObserved) {
  Simulation simulation;
  Calibration calibration(kBlockSize);
  for (int i = 0; i < 3000; ++i) calibration.Observe(kBucket, {}, kBlockSize, i % 4);  // 0, 1, 2, 3, 0, ...
  const auto survivals = SurvivalsOf(calibration, {});
  const double expected[] = {0.75, 0.5, 0.25, 0, 0};
  for (size_t k = 0; k < kBlockSize; ++k) {
    EXPECT_NEAR(survivals[k], expected[k], 0.01) << k;
    EXPECT_EQ(calibration.ExpectedSurvivals(kBucket)[k], survivals[k]);
  }
  EXPECT_TRUE(calibration.Trusted(kBucket));  // there is no head to distrust
}

// Any stream of logits and outcomes: survivals stay probabilities that do not rise.
TEST(Calibration, StaysInRangeWhateverComes) {
  std::mt19937_64 rng(4);
  Calibration calibration(kBlockSize);
  std::vector<double> survivals;
  for (int round = 0; round < 20000; ++round) {
    const int bucket = static_cast<int>(rng() % kNumTemperatureBuckets);
    std::vector<float> logits(rng() % (kBlockSize + 3));
    for (float& z : logits) {
      const uint32_t bits = static_cast<uint32_t>(rng());  // any float
      static_assert(sizeof bits == sizeof z);
      std::memcpy(&z, &bits, sizeof z);
      if (rng() % 2 == 0) z = static_cast<float>(rng() % 100) / 10 - 5;
    }
    const int num_drafts = static_cast<int>(rng() % (kBlockSize + 1));
    calibration.Survivals(bucket, logits, num_drafts, survivals);
    ASSERT_EQ(survivals.size(), static_cast<size_t>(num_drafts));
    double previous = 1;
    for (const double survival : survivals) {
      ASSERT_GE(survival, 0);
      ASSERT_LE(survival, previous);
      previous = survival;
    }
    const int accepted =
        num_drafts == 0 ? 0 : static_cast<int>(rng() % (static_cast<uint64_t>(num_drafts) + 1));
    calibration.Observe(bucket, logits, num_drafts, accepted);
    previous = 1;
    for (const double survival : calibration.ExpectedSurvivals(bucket)) {
      ASSERT_GE(survival, 0);
      ASSERT_LE(survival, previous);
      previous = survival;
    }
  }
}

}  // namespace
}  // namespace tandem::verifier
