#include "gateway/admission/validate_request.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gateway/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

ModelFacts Model() { return {"smol", {"alias"}, 1000, 128, {"enable_thinking"}}; }

GenerationRequest Good() {
  GenerationRequest request;
  request.model = "smol";
  request.api = "completions";
  request.prompts = {std::string("hello")};
  return request;
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

struct BadCase {
  std::function<void(GenerationRequest&)> spoil;
  std::string param;
  std::string message;  // a part of it
  ErrorReason reason = ErrorReason::kValidation;
};

TEST(ValidateRequestTest, EveryFieldOutOfRangeIsNamedWithRangeAndValue) {
  using R = GenerationRequest;
  const std::vector<BadCase> cases = {
      {[](R& r) { r.model.clear(); }, "model", "model is required"},
      {[](R& r) { r.model = "gpt"; }, "model", "model \"gpt\" does not exist", ErrorReason::kModel},
      {[](R& r) { r.model = "a\nb"; }, "model", "a\\x0ab"},
      {[](R& r) { r.model = std::string(1 << 20, 'a'); }, "model", "1048576 bytes"},
      {[](R& r) { r.prompts.clear(); }, "prompt", "prompt is required"},
      {[](R& r) { r.prompts = {std::string()}; }, "prompt", "must not be empty"},
      {[](R& r) { r.prompts = {std::vector<int64_t>()}; }, "prompt", "must not be empty"},
      {[](R& r) { r.prompts = {std::string("\xff")}; }, "prompt", "UTF-8"},
      {[](R& r) { r.prompts = {std::string(1025, 'a')}; }, "prompt", "1025 bytes, at most 1024",
       ErrorReason::kTooLong},
      {[](R& r) { r.prompts = {std::vector<int64_t>(128, 1)}; }, "prompt", "128 tokens",
       ErrorReason::kTooLong},
      {[](R& r) { r.messages = ordered_json::array(); }, "prompt", "only one of"},
      {[](R& r) { r.max_tokens = 0; }, "max_tokens", "got 0"},
      {[](R& r) { r.max_tokens = -1; }, "max_tokens", "got -1"},
      {[](R& r) { r.max_tokens = kMin; }, "max_tokens", "got -9223372036854775808"},
      {[](R& r) { r.min_tokens = -1; }, "min_tokens", "0..128, got -1"},
      {[](R& r) { r.max_tokens = 5, r.min_tokens = 6; }, "min_tokens", "0..5, got 6"},
      {[](R& r) { r.n = 0; }, "n", "n must be in 1..8, got 0"},
      {[](R& r) { r.n = 9; }, "n", "got 9"},
      {[](R& r) { r.n = 1'000'000'000; }, "n", "got 1000000000"},
      {[](R& r) { r.n = 8, r.prompts.assign(5, std::string("x")); }, "n", "prompts (5) x n (8) exceed 32"},
      {[](R& r) { r.prompts.assign(33, std::string("x")); }, "n", "exceed 32"},
      {[](R& r) { r.temperature = 3.5; }, "temperature", "temperature must be in 0..2, got 3.5"},
      {[](R& r) { r.temperature = -1; }, "temperature", "got -1"},
      {[](R& r) { r.temperature = kNan; }, "temperature", "got nan"},
      {[](R& r) { r.temperature = kInf; }, "temperature", "got inf"},
      {[](R& r) { r.temperature = 1e308; }, "temperature", "got 1e+308"},
      {[](R& r) { r.top_p = 0; }, "top_p", "top_p must be in (0, 1], got 0"},
      {[](R& r) { r.top_p = 1.5; }, "top_p", "got 1.5"},
      {[](R& r) { r.top_p = kNan; }, "top_p", "got nan"},
      {[](R& r) { r.min_p = 2; }, "min_p", "min_p must be in 0..1, got 2"},
      {[](R& r) { r.min_p = kNan; }, "min_p", "got nan"},
      {[](R& r) { r.top_k = -5; }, "top_k", "top_k must be in -1..2147483647, got -5"},
      {[](R& r) { r.top_k = int64_t{1} << 31; }, "top_k", "got 2147483648"},
      {[](R& r) { r.repetition_penalty = 0.05; }, "repetition_penalty", "0.1..10, got 0.05"},
      {[](R& r) { r.repetition_penalty = 11; }, "repetition_penalty", "got 11"},
      {[](R& r) { r.repetition_penalty = kNan; }, "repetition_penalty", "got nan"},
      {[](R& r) { r.frequency_penalty = 3; }, "frequency_penalty", "-2..2, got 3"},
      {[](R& r) { r.frequency_penalty = kNan; }, "frequency_penalty", "got nan"},
      {[](R& r) { r.presence_penalty = -2.5; }, "presence_penalty", "-2..2, got -2.5"},
      {[](R& r) { r.presence_penalty = kInf; }, "presence_penalty", "got inf"},
      {[](R& r) {
         r.logit_bias.assign(100'000, {1, 1.0});
       },
       "logit_bias", "100000 entries, at most 1024"},
      {[](R& r) {
         r.logit_bias = {{-1, 1.0}};
       },
       "logit_bias", "0..999, got -1"},
      {[](R& r) {
         r.logit_bias = {{1000, 1.0}};
       },
       "logit_bias", "got 1000"},
      {[](R& r) {
         r.logit_bias = {{1, 1e9}};
       },
       "logit_bias", "-100..100, got 1000000000"},
      {[](R& r) {
         r.logit_bias = {{1, kNan}};
       },
       "logit_bias", "got nan"},
      {[](R& r) {
         r.logit_bias = {{1, 1.0}, {1, 2.0}};
       },
       "logit_bias", "token 1 twice"},
      {[](R& r) { r.stop.assign(5, "x"); }, "stop", "5 entries, at most 4"},
      {[](R& r) { r.stop = {""}; }, "stop", "1..256 bytes, got 0"},
      {[](R& r) { r.stop = {std::string(100'000, 'x')}; }, "stop", "got 100000"},
      {[](R& r) { r.stop = {"\xc3"}; }, "stop", "valid UTF-8"},
      {[](R& r) { r.stop_token_ids.assign(17, 1); }, "stop_token_ids", "17 entries, at most 16"},
      {[](R& r) { r.stop_token_ids = {1000}; }, "stop_token_ids", "0..999, got 1000"},
      {[](R& r) { r.stop_token_ids = {-1}; }, "stop_token_ids", "got -1"},
      {[](R& r) { r.num_logprobs = -2; }, "logprobs", "0..5, got -2"},
      {[](R& r) { r.num_logprobs = 6; }, "logprobs", "got 6"},
      {[](R& r) { r.api = "chat", r.num_logprobs = 1'000'000; }, "top_logprobs", "0..20, got 1000000"},
      {[](R& r) { r.api = "grpc", r.num_logprobs = 21; }, "num_logprobs", "got 21"},
      {[](R& r) { r.priority = 5; }, "priority", "-4..4, got 5"},
      {[](R& r) { r.priority = -5; }, "priority", "got -5"},
      {[](R& r) { r.tpot_target_ms = -1; }, "tpot_target_ms", "0..60000, got -1"},
      {[](R& r) { r.tpot_target_ms = 60001; }, "tpot_target_ms", "got 60001"},
      {[](R& r) { r.tpot_target_ms = kNan; }, "tpot_target_ms", "got nan"},
      {[](R& r) { r.echo = true, r.num_logprobs = 0; }, "echo", "logprobs", ErrorReason::kUnsupported},
      {[](R& r) { r.chat_template_kwargs["x\ny"] = true; }, "chat_template_kwargs", "x\\x0ay",
       ErrorReason::kUnsupported},
  };
  for (const BadCase& c : cases) {
    GenerationRequest request = Good();
    c.spoil(request);
    const auto checked = CheckRequest(request, Model());
    ASSERT_FALSE(checked.ok()) << c.param << ": " << c.message;
    EXPECT_THAT(std::string(checked.status().message()), HasSubstr(c.message));
    EXPECT_EQ(ParamOf(checked.status()), c.param) << c.message;
    EXPECT_EQ(ReasonOf(checked.status()), c.reason) << c.message;
    EXPECT_LT(checked.status().message().size(), 1024u);
  }
}

TEST(ValidateRequestTest, BoundsThemselvesAreAcceptedAndDefaultsFilledIn) {
  const auto plain = CheckRequest(Good(), Model());
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->sampling.temperature, 1);
  EXPECT_EQ(plain->n, 1);
  EXPECT_EQ(plain->tpot_target_ms, 0);
  EXPECT_FALSE(plain->has_seed);

  GenerationRequest request = Good();
  request.model = "default";
  request.n = 8;
  request.prompts.assign(4, std::string("x"));
  request.temperature = 2;
  request.top_p = 1e-300;  // stays positive as float
  request.min_p = 1;
  request.top_k = -1;
  request.repetition_penalty = 0.1;
  request.frequency_penalty = -2;
  request.presence_penalty = 2;
  request.logit_bias = {{999, -100.0}, {0, 100.0}};
  request.stop.assign(4, std::string(256, 'x'));
  request.stop_token_ids.assign(16, 999);
  request.num_logprobs = 5;
  request.priority = -4;
  request.tpot_target_ms = 60000;
  request.seed = ~uint64_t{0};
  request.max_tokens = kMax;
  request.chat_template_kwargs["enable_thinking"] = false;
  const auto full = CheckRequest(request, Model());
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_GT(full->sampling.top_p, 0);
  EXPECT_EQ(full->sampling.top_k, 0);
  EXPECT_EQ(full->sampling.seed, ~uint64_t{0});
  EXPECT_TRUE(sampling::ValidateSamplingParams(full->sampling, 1000).ok());
  request.repetition_penalty = 10;
  request.temperature = 1e-40;
  const auto other = CheckRequest(request, Model());
  ASSERT_TRUE(other.ok());
  EXPECT_TRUE(other->sampling.greedy());
  EXPECT_TRUE(sampling::ValidateSamplingParams(other->sampling, 1000).ok());
}

TEST(ValidateRequestTest, OutputBudgetFollowsContextRequestAndDefault) {
  CheckedRequest request;
  EXPECT_EQ(OutputBudget(request, 100, 128).value(), 28);
  request.default_max_tokens = 16;
  EXPECT_EQ(OutputBudget(request, 100, 128).value(), 16);
  EXPECT_EQ(OutputBudget(request, 120, 128).value(), 8);
  request.max_tokens = 28;
  EXPECT_EQ(OutputBudget(request, 100, 128).value(), 28);
  EXPECT_EQ(OutputBudget(request, 101, 128).status().message(),
            "prompt (101 tokens) + max_tokens (28) exceed the context of 128");
  EXPECT_EQ(ReasonOf(OutputBudget(request, 128, 128).status()), ErrorReason::kTooLong);
  request.max_tokens.reset();
  EXPECT_EQ(ReasonOf(OutputBudget(request, 128, 128).status()), ErrorReason::kTooLong);
  EXPECT_FALSE(OutputBudget(request, 0, 128).ok());
  request.min_tokens = 10;
  EXPECT_EQ(ParamOf(OutputBudget(request, 120, 128).status()), "min_tokens");
}

TEST(ValidateRequestTest, MessagesAreNormalisedAndBadOnesNamedByEntry) {
  const auto good = CheckMessages(ordered_json::parse(
      R"([{"role":"developer","content":"be kind","name":"x"},
          {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])"));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->dump(), R"([{"role":"system","content":"be kind"},{"role":"user","content":"a\nb"}])");

  const std::vector<std::pair<std::string, std::string>> bad = {
      {R"({})", "messages"},
      {R"([])", "messages"},
      {R"(["hi"])", "messages[0]"},
      {R"([{"content":"x"}])", "messages[0].role"},
      {R"([{"role":7,"content":"x"}])", "messages[0].role"},
      {R"([{"role":"user","content":"x"},{"role":"wizard","content":"x"}])", "messages[1].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":null}])", "messages[0].content"},
      {R"([{"role":"user","content":7}])", "messages[0].content"},
      {R"([{"role":"user","content":[]}])", "messages[0].content"},
      {R"([{"role":"user","content":["x"]}])", "messages[0].content[0]"},
      {R"([{"role":"user","content":[{"text":"x"}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"image_url"}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
  };
  for (const auto& [json, param] : bad) {
    const auto checked = CheckMessages(ordered_json::parse(json));
    ASSERT_FALSE(checked.ok()) << json;
    EXPECT_EQ(ParamOf(checked.status()), param) << json << ": " << checked.status();
  }
  ordered_json many = ordered_json::array();
  for (int i = 0; i < 1025; ++i) many.push_back({{"role", "user"}, {"content", "x"}});
  EXPECT_THAT(std::string(CheckMessages(many).status().message()), HasSubstr("1025 entries, at most 1024"));
}

TEST(ValidateRequestTest, RequestIdsAndTraceContextAreTakenOnlyWellFormed) {
  EXPECT_TRUE(IsRequestId("a-B_9.x"));
  EXPECT_TRUE(IsRequestId(std::string(128, 'a')));
  for (const std::string& bad :
       {std::string(), std::string(129, 'a'), std::string("a b"), std::string("\n"), std::string("é")}) {
    EXPECT_FALSE(IsRequestId(bad)) << bad;
  }
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_TRUE(IsTraceparent(good));
  EXPECT_FALSE(IsTraceparent(good + "0"));
  EXPECT_FALSE(IsTraceparent("00-" + std::string(32, '0') + good.substr(35)));
  EXPECT_FALSE(IsTraceparent("00-0AF7" + good.substr(7)));
  EXPECT_FALSE(IsTraceparent("01" + good.substr(2)));
  EXPECT_FALSE(IsTraceparent(std::string(55, '-')));
  EXPECT_TRUE(IsTracestate("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"));
  EXPECT_TRUE(IsTracestate(std::string(512, 'a')));
  for (const std::string& bad : {std::string(513, 'a'), std::string("a=\n"), std::string("a=é")}) {
    EXPECT_FALSE(IsTracestate(bad)) << bad;
  }
}

}  // namespace
}  // namespace tandem::gateway
