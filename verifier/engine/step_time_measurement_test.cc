#include "verifier/engine/step_time_measurement.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>

#include "common/base/clock.h"
#include "verifier/engine/fake_model.h"

namespace tandem::verifier {
namespace {

// Steps take what `seconds` says of their rows.
class TimedModel : public testing::FakeModel {
 public:
  explicit TimedModel(FakeClock& clock) : clock_(clock) {}

  void Forward(const models::Batch& batch, kernels::KvCache& cache, models::Outputs& outputs) override {
    FakeModel::Forward(batch, cache, outputs);
    ++num_steps;
    clock_.Advance(absl::Seconds(seconds(static_cast<int>(batch.tokens.size()))));
  }

  std::function<double(int)> seconds = [](int rows) { return 0.002 + 0.0005 * rows; };
  int num_steps = 0;

 private:
  FakeClock& clock_;
};

class StepTimeMeasurementTest : public ::testing::Test {
 protected:
  StepTimeMeasurementTest() {
    std::string name = (std::filesystem::temp_directory_path() / "step_times_test.XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  ~StepTimeMeasurementTest() override { std::filesystem::remove_all(directory_); }

  // Seconds of a step of so many rows.
  double LoadOrMeasure(int rows) {
    model_.num_steps = 0;
    const auto model = LoadOrMeasureStepTime(model_, *cache_, pool_, clock_, absl::Seconds(1),
                                             (directory_ / "times.json").string());
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? model->Predict({.num_decode_rows = rows}) : 0;
  }

  FakeClock clock_;
  ThreadPool pool_{1};
  TimedModel model_{clock_};
  std::unique_ptr<kernels::KvCache> cache_ = *kernels::KvCache::Create(model_.kv_layout(), 2);
  std::filesystem::path directory_;
};

TEST_F(StepTimeMeasurementTest, MeasuresOnceWhileStepsTakeWhatTheyTook) {
  EXPECT_NEAR(LoadOrMeasure(16), 0.010, 1e-6);
  const int to_measure = model_.num_steps;
  model_.seconds = [](int rows) { return 1.2 * (0.002 + 0.0005 * rows); };
  EXPECT_NEAR(LoadOrMeasure(16), 0.010, 1e-6);
  EXPECT_LT(model_.num_steps, to_measure);
}

TEST_F(StepTimeMeasurementTest, MeasuresAnewWhereStepsHaveBecomeFaster) {
  LoadOrMeasure(1);
  model_.seconds = [](int rows) { return 0.001 + 0.0001 * rows; };
  EXPECT_NEAR(LoadOrMeasure(16), 0.0026, 1e-6);
  EXPECT_NEAR(LoadOrMeasure(16), 0.0026, 1e-6);  // what was kept is replaced
}

// A step of one row may take what it took, and further rows may not.
TEST_F(StepTimeMeasurementTest, MeasuresAnewWhereFurtherRowsHaveBecomeCheaper) {
  LoadOrMeasure(1);
  model_.seconds = [](int rows) { return 0.0025 + 0.00001 * (rows - 1); };
  EXPECT_NEAR(LoadOrMeasure(16), 0.00265, 1e-6);
}

TEST_F(StepTimeMeasurementTest, MeasuresAnewWhereTheMachineHasBecomeSlower) {
  LoadOrMeasure(1);
  model_.seconds = [](int rows) { return 0.004 + 0.001 * rows; };
  EXPECT_NEAR(LoadOrMeasure(16), 0.020, 1e-6);
}

}  // namespace
}  // namespace tandem::verifier
