// What a row gets depends on nothing but its sequence's tokens: the same bits whatever shares the step, in
// which chunks and order, with which logits rows and taps, on how many threads and on which dispatch target.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "common/kernels/dispatch.h"
#include "common/models/golden_case.h"
#include "common/models/model.h"
#include "common/models/model_driver.h"

namespace tandem::models {
namespace {

using kernels::ActivationType;
using kernels::KvType;
using kernels::WeightType;

constexpr int kMaxStepTokens = 64;
constexpr int kNumBlocks = 64;

// Sequence lengths around the borders of KV blocks (16) and of attention's spans (256).
constexpr int kLengths[] = {1, 15, 33, 80, 275};

struct Reference {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // per position [V]
  std::vector<std::vector<float>> taps;    // per layer from -1 [tokens, H]
};

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

std::vector<int32_t> AllLayers(const Model& model) {
  std::vector<int32_t> layers(model.config().num_layers + 1);
  std::iota(layers.begin(), layers.end(), -1);
  return layers;
}

// Each sequence alone, in steps as large as possible.
std::vector<Reference> MakeReferences(Model& model) {
  std::mt19937 random(1);
  std::vector<Reference> references;
  for (const int length : kLengths) {
    if (length > model.config().max_position) continue;
    Reference& reference = references.emplace_back();
    for (int i = 0; i < length; ++i) {
      reference.tokens.push_back(static_cast<int32_t>(random() % model.config().vocab_size));
    }
    ModelDriver driver(model, kNumBlocks);
    ModelDriver::Sequence sequence;
    ModelDriver::Result result =
        driver.Run(sequence, reference.tokens, kMaxStepTokens, /*with_logits=*/true, AllLayers(model));
    for (const auto& row : result.logits) EXPECT_TRUE(AllFinite(row));
    reference.logits = std::move(result.logits);
    reference.taps = std::move(result.taps);
  }
  return references;
}

// Runs all references at once through random ragged steps and compares every logits row and tap asked for.
class RandomSchedule {
 public:
  RandomSchedule(Model& model, std::span<const Reference> references, unsigned seed)
      : model_(model),
        references_(references),
        random_(seed),
        driver_(model, kNumBlocks),
        sequences_(references.size()) {}

  void Run() {
    while (!Finished() && !::testing::Test::HasFailure()) Step();
  }

 private:
  struct Planned {
    size_t index;     // of the reference
    int32_t first;    // its position
    int32_t genuine;  // rows that follow the reference; the rest are wrong guesses, overwritten later
  };

  int Below(int n) { return static_cast<int>(random_() % n); }

  bool Finished() const {
    for (size_t i = 0; i < references_.size(); ++i) {
      if (sequences_[i].position < static_cast<int32_t>(references_[i].tokens.size())) return false;
    }
    return true;
  }

  void Step() {
    std::vector<size_t> order(references_.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    const int max_chunk = 1 + Below(40);
    int budget = kMaxStepTokens;
    std::vector<ModelDriver::Piece> pieces;
    std::vector<Planned> plan;
    for (const size_t index : order) {
      const auto& tokens = references_[index].tokens;
      const int32_t first = sequences_[index].position;
      const int left = static_cast<int>(tokens.size()) - first;
      if (left == 0 || budget == 0 || Below(4) == 0) continue;
      const int genuine = std::min({left, budget, 1 + Below(max_chunk)});
      budget -= genuine;
      ModelDriver::Piece piece = {&sequences_[index], {}, {}};
      piece.tokens.assign(tokens.begin() + first, tokens.begin() + first + genuine);
      const int wrong = std::min({left - genuine, budget, Below(3) == 0 ? Below(8) : 0});
      budget -= wrong;
      for (int i = 0; i < wrong; ++i) piece.tokens.push_back(Below(model_.config().vocab_size));
      for (int i = 0; i < genuine + wrong; ++i) {
        if (Below(2) == 0) piece.logits_at.push_back(i);
      }
      pieces.push_back(std::move(piece));
      plan.push_back({index, first, genuine});
    }
    if (pieces.empty()) return;
    std::vector<int32_t> taps;
    for (const int32_t layer : AllLayers(model_)) {
      if (Below(3) == 0) taps.push_back(layer);
    }
    const auto results = driver_.Step(pieces, taps);
    for (size_t i = 0; i < plan.size(); ++i) {
      Compare(pieces[i], plan[i], taps, results[i]);
      sequences_[plan[i].index].position = plan[i].first + plan[i].genuine;
    }
  }

  void Compare(const ModelDriver::Piece& piece, const Planned& planned, const std::vector<int32_t>& taps,
               const ModelDriver::Result& result) {
    const Reference& reference = references_[planned.index];
    for (size_t i = 0; i < piece.logits_at.size(); ++i) {
      if (piece.logits_at[i] >= planned.genuine) continue;
      const int position = planned.first + piece.logits_at[i];
      EXPECT_TRUE(SameBits(result.logits[i], reference.logits[position]))
          << "logits of sequence " << planned.index << " at position " << position;
    }
    const size_t hidden = model_.config().hidden_size, size = planned.genuine * hidden;
    for (size_t i = 0; i < taps.size(); ++i) {
      const std::span<const float> expected = reference.taps[taps[i] + 1];
      EXPECT_TRUE(
          SameBits(std::span(result.taps[i]).first(size), expected.subspan(planned.first * hidden, size)))
          << "layer " << taps[i] << " of sequence " << planned.index << " from position " << planned.first;
    }
  }

  Model& model_;
  const std::span<const Reference> references_;
  std::mt19937 random_;
  ModelDriver driver_;
  std::vector<ModelDriver::Sequence> sequences_;
};

struct Numerics {
  std::optional<WeightType> weight_type;
  ActivationType activation_type;
  KvType kv_type;
};

// Both numbers of threads on every target. The target SCALAR is some hundred times slower than the others and
// gets the shorter sequences only.
void ExpectInvariant(const formats::Checkpoint& checkpoint, const Numerics& numerics, int num_schedules) {
  std::vector<Reference> references;
  unsigned seed = 1;
  for (const std::string& target : kernels::AvailableTargets()) {
    ASSERT_TRUE(kernels::SelectTarget(target).ok());
    for (const int num_threads : {1, 2}) {
      ThreadPool pool(num_threads);
      auto model = LoadModel(checkpoint,
                             {.weight_type = numerics.weight_type,
                              .activation_type = numerics.activation_type,
                              .kv_type = numerics.kv_type,
                              .max_step_tokens = kMaxStepTokens,
                              .max_taps = kMaxTaps},
                             pool);
      ASSERT_TRUE(model.ok()) << model.status();
      if (references.empty()) references = MakeReferences(**model);
      ASSERT_FALSE(references.empty());
      for (int i = 0; i < num_schedules && !::testing::Test::HasFailure(); ++i) {
        SCOPED_TRACE(::testing::Message() << (*model)->NumericsId() << " on " << target << ", " << num_threads
                                          << " threads, schedule " << seed);
        const size_t num_sequences =
            target == "SCALAR" ? std::min<size_t>(3, references.size()) : references.size();
        RandomSchedule(**model, std::span(references).first(num_sequences), seed++).Run();
      }
    }
  }
}

class BatchInvariance : public ::testing::Test {
 protected:
  // The best target, for the tests that follow.
  ~BatchInvariance() override {
    EXPECT_TRUE(kernels::SelectTarget(kernels::AvailableTargets().front()).ok());
  }
};

TEST_F(BatchInvariance, HoldsForEveryGoldenModelInF32AndWithInt8Activations) {
  int num_models = 0;
  for (const GoldenCase& c : AllCases()) {
    SCOPED_TRACE(c.name);
    const auto checkpoint = OpenCase(c);
    if (checkpoint == nullptr) continue;
    ++num_models;
    ExpectInvariant(*checkpoint, {{}, ActivationType::kF32, KvType::kF32}, 1);
    ExpectInvariant(*checkpoint, {{}, ActivationType::kInt8, KvType::kBF16}, 1);
  }
  EXPECT_GT(num_models, 0);
}

TEST_F(BatchInvariance, HoldsForEveryWeightAndActivationTypeOnTheTrainedTarget) {
  const auto checkpoint = formats::Checkpoint::Open(testing::GoldenDir() / "drafters/trained_pair/target");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const WeightType weights :
       {WeightType::kF32, WeightType::kBF16, WeightType::kInt8, WeightType::kInt4}) {
    for (const ActivationType activations :
         {ActivationType::kF32, ActivationType::kBF16, ActivationType::kInt8}) {
      ExpectInvariant(**checkpoint, {weights, activations, KvType::kBF16}, 1);
    }
  }
  ExpectInvariant(**checkpoint, {WeightType::kInt4, ActivationType::kInt8, KvType::kBF16}, 6);
  ExpectInvariant(**checkpoint, {WeightType::kF32, ActivationType::kF32, KvType::kF32}, 6);
}

}  // namespace
}  // namespace tandem::models
