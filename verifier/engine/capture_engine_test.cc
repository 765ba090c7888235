#include "verifier/engine/capture_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "verifier/engine/fake_model.h"

namespace tandem::verifier {
namespace {

using speculation::RowType;
using testing::FakeModel;
using ::testing::HasSubstr;

struct Captured {
  std::vector<int32_t> tokens;
  std::string rows;
  bool done = false;
};

std::map<uint64_t, Captured> RunAll(CaptureEngine& engine) {
  std::map<uint64_t, Captured> result;
  while (engine.has_work()) {
    std::vector<CapturedPiece> pieces;
    EXPECT_TRUE(engine.Step(pieces).ok());
    for (const CapturedPiece& piece : pieces) {
      Captured& captured = result[piece.id];
      EXPECT_FALSE(captured.done);
      captured.tokens.insert(captured.tokens.end(), piece.tokens.begin(), piece.tokens.end());
      captured.rows += piece.rows;
      captured.done = piece.done;
    }
  }
  return result;
}

std::unique_ptr<CaptureEngine> NewEngine(FakeModel& model, CaptureOptions options = {}) {
  if (options.kv_bytes == 0) options.kv_bytes = 64 * model.kv_layout().block_bytes;
  auto engine = CaptureEngine::Create(options, model);
  if (!engine.ok()) {
    ADD_FAILURE() << engine.status();
    std::abort();
  }
  EXPECT_TRUE((*engine)->Start({-1, 1}, RowType::kF32).ok());
  return *std::move(engine);
}

std::vector<int32_t> Tokens(int count, int seed) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = (i * 7 + seed * 13) % FakeModel::kVocab;
  return tokens;
}

CaptureText Text(uint64_t id, int length, int max_tokens, bool rows) {
  CaptureText text;
  text.id = id;
  text.tokens = Tokens(length, static_cast<int>(id));
  text.max_tokens = max_tokens;
  text.sampling.seed = id;
  text.rows = rows;
  return text;
}

// The rows that `tokens` have, both layers.
std::string RowsOf(const std::vector<int32_t>& tokens, size_t count) {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    const auto tap = FakeModel::TapOf(std::span(tokens).first(i + 1));
    for (int layer = 0; layer < 2; ++layer)
      bytes.append(reinterpret_cast<const char*>(tap.data()), sizeof tap);
  }
  return bytes;
}

TEST(CaptureEngine, RowsAreThoseOfEveryPosition) {
  FakeModel model(32, 8);
  auto engine = NewEngine(model, {.prefill_chunk = 5});
  for (const int length : {1, 16, 37, 90}) {
    const CaptureText text = Text(length, length, 0, true);
    ASSERT_TRUE(engine->Check(text).ok());
    engine->Add(text);
  }
  const auto captured = RunAll(*engine);
  ASSERT_EQ(captured.size(), 4);
  for (const auto& [id, found] : captured) {
    EXPECT_TRUE(found.done);
    EXPECT_TRUE(found.tokens.empty());
    EXPECT_EQ(found.rows, RowsOf(Tokens(static_cast<int>(id), static_cast<int>(id)), id)) << id;
  }
}

TEST(CaptureEngine, ContinuationsDoNotDependOnWhoSharesTheSteps) {
  FakeModel model(24, 3);
  std::map<uint64_t, Captured> alone;
  for (uint64_t id = 1; id <= 9; ++id) {
    auto engine = NewEngine(model);
    engine->Add(Text(id, 3 + static_cast<int>(id), 20, true));
    alone[id] = RunAll(*engine)[id];
    ASSERT_EQ(alone[id].tokens.size(), 20);
    std::vector<int32_t> whole = Tokens(3 + static_cast<int>(id), static_cast<int>(id));
    whole.insert(whole.end(), alone[id].tokens.begin(), alone[id].tokens.end());
    EXPECT_EQ(alone[id].rows, RowsOf(whole, whole.size() - 1));  // the last token was never read
  }
  // Few blocks: texts wait for each other.
  auto engine =
      NewEngine(model, {.kv_bytes = 5 * model.kv_layout().block_bytes, .max_texts = 9, .prefill_chunk = 4});
  for (uint64_t id = 1; id <= 9; ++id) engine->Add(Text(id, 3 + static_cast<int>(id), 20, true));
  auto together = RunAll(*engine);
  for (uint64_t id = 1; id <= 9; ++id) {
    EXPECT_EQ(together[id].tokens, alone[id].tokens);
    EXPECT_EQ(together[id].rows, alone[id].rows);
  }
}

TEST(CaptureEngine, EndsAtTheFirstStopToken) {
  FakeModel model;
  auto engine = NewEngine(model);
  engine->Add(Text(1, 4, 30, false));
  const std::vector<int32_t> whole = RunAll(*engine)[1].tokens;
  CaptureText text = Text(1, 4, 30, false);
  text.stop_token_ids = {whole[6], whole[9]};
  engine->Add(text);
  const std::vector<int32_t> stopped = RunAll(*engine)[1].tokens;
  const auto first =
      std::find_first_of(whole.begin(), whole.end(), text.stop_token_ids.begin(), text.stop_token_ids.end());
  EXPECT_EQ(stopped, std::vector<int32_t>(whole.begin(), first + 1));
}

TEST(CaptureEngine, HalvesRowsInBF16AndCutsLargePieces) {
  FakeModel model;
  auto engine = NewEngine(model);
  ASSERT_TRUE(engine->Start({0}, RowType::kBF16).ok());
  engine->Add(Text(1, 20, 0, true));
  EXPECT_EQ(RunAll(*engine)[1].rows.size(), 20 * FakeModel::kHidden * 2);
}

TEST(CaptureEngine, NamesWhatIsWrong) {
  FakeModel model;
  auto engine = NewEngine(model, {.kv_bytes = 8 * model.kv_layout().block_bytes, .max_texts = 2});
  EXPECT_EQ(engine->max_text_length(), 128);
  const auto error = [&](const std::function<void(CaptureText&)>& change) {
    CaptureText text = Text(1, 4, 4, true);
    change(text);
    return std::string(engine->Check(text).message());
  };
  EXPECT_EQ(error([](CaptureText&) {}), "");
  EXPECT_THAT(error([](CaptureText& t) { t.tokens.clear(); }),
              HasSubstr("text.token_ids' count must be in 1..128"));
  EXPECT_THAT(error([](CaptureText& t) { t.tokens.resize(129); }), HasSubstr("got 129"));
  EXPECT_THAT(error([](CaptureText& t) { t.tokens[2] = -1; }),
              HasSubstr("text.token_ids[2] must be in 0..39, got -1"));
  EXPECT_THAT(error([](CaptureText& t) { t.tokens[3] = 40; }), HasSubstr("text.token_ids[3]"));
  EXPECT_THAT(error([](CaptureText& t) { t.max_tokens = 125; }),
              HasSubstr("text.max_tokens must be in 0..124"));
  EXPECT_THAT(error([](CaptureText& t) { t.max_tokens = -1; }), HasSubstr("text.max_tokens"));
  EXPECT_THAT(error([](CaptureText& t) { t.stop_token_ids = {40}; }), HasSubstr("text.stop_token_ids[0]"));
  EXPECT_THAT(error([](CaptureText& t) { t.stop_token_ids.resize(65); }),
              HasSubstr("text.stop_token_ids' count"));
  EXPECT_THAT(error([](CaptureText& t) { t.sampling.temperature = -1; }), HasSubstr("temperature"));
  engine->Add(Text(1, 4, 4, true));
  EXPECT_THAT(error([](CaptureText&) {}), HasSubstr("text.id 1"));
  engine->Add(Text(2, 4, 4, true));
  EXPECT_EQ(engine->Check(Text(3, 4, 4, true)).code(), absl::StatusCode::kResourceExhausted);
  // A new stream finds nothing of the old one, and all its memory.
  EXPECT_TRUE(engine->Start({0, 1}, RowType::kF32).ok());
  EXPECT_FALSE(engine->has_work());
  for (const auto& layers :
       std::vector<std::vector<int32_t>>{{}, {-2}, {2}, {1, 1}, {1, 0}, std::vector<int32_t>(17, 0)}) {
    EXPECT_THAT(std::string(engine->Start(layers, RowType::kF32).message()), HasSubstr("hello.layers"));
  }
}

TEST(CaptureEngine, LogitsThatAreNoNumbersAreTold) {
  FakeModel model;
  model.poison_token = 5;
  auto engine = NewEngine(model);
  CaptureText text = Text(1, 4, 4, false);
  text.tokens = {1, 5, 2};
  engine->Add(text);
  std::vector<CapturedPiece> pieces;
  EXPECT_EQ(engine->Step(pieces).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::verifier
