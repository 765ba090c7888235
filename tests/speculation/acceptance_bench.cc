// Accepted lengths at one temperature, by acceptance rule: how much of what rejection accepts the coupled
// choice keeps. Not a test: bin/acceptance_bench --target T --drafter D --prompts FILE.jsonl ...
//
//   coupled       both sides choose with the same noise; a draft stands iff it is the target's token
//   rejection     the classical rule, min(1, p / q)
//   argmax        the drafter proposes its likeliest token, the target draws; a draft stands iff equal
//   unfiltered    coupled, but the drafter leaves top_k, top_p and min_p out (only with one of them)
//
// Whole windows, no policy. tau = tokens of a round, the target's own included. Its standard error takes
// rounds as independent, which those of one text are not quite. Nothing here depends on the machine's speed.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/base/options.h"
#include "common/models/model.h"
#include "drafter/models/load_draft_model.h"
#include "gateway/admission/model_text.h"
#include "tests/speculation/pair.h"

namespace tandem {
namespace {

struct BenchOptions {
  std::string target, drafter;
  std::vector<std::string> prompts, prompt_ids;
  int rounds = 500;
  int max_tokens = 128;
  double temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;
  std::string kv_dtype = "bf16";
  int64_t seed = 1;
  int threads = 2;
  int markov_top_k = 0;
};

struct Category {
  std::string name;
  std::vector<std::vector<int32_t>> prompts;
};

// {"turns": ["user message", ...]} a line; the first turn of each.
absl::StatusOr<Category> ReadTurns(const std::string& path, const std::string& target) {
  std::ifstream file(path);
  if (!file.is_open()) return NotFound("cannot open {}", path);
  ASSIGN_OR_RETURN(const gateway::ModelText text, gateway::LoadModelText(target));
  Category category{std::filesystem::path(path).stem(), {}};
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto turns = json.is_object() ? json.find("turns") : json.end();
    if (turns == json.end() || !turns->is_array() || turns->empty() || !turns->front().is_string()) {
      return InvalidArgument("{}: line {} has no turns", path, category.prompts.size() + 1);
    }
    const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", turns->front()}}};
    ASSIGN_OR_RETURN(auto ids, gateway::EncodeConversation(text, "target", messages, {}));
    category.prompts.push_back(std::move(ids));
  }
  if (category.prompts.empty()) return InvalidArgument("{}: no prompts", path);
  return category;
}

// A JSON array of objects with prompt_ids.
absl::StatusOr<Category> ReadIds(const std::string& path) {
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  Category category{std::filesystem::path(path).stem(), {}};
  if (!json.is_array() || json.empty()) return InvalidArgument("{}: no JSON array of prompts", path);
  for (const auto& entry : json) {
    const auto ids = entry.is_object() ? entry.find("prompt_ids") : entry.end();
    if (ids == entry.end() || !ids->is_array())
      return InvalidArgument("{}: an entry has no prompt_ids", path);
    category.prompts.push_back(ids->get<std::vector<int32_t>>());
  }
  return category;
}

struct Tau {
  double sum = 0, squares = 0;
  int64_t rounds = 0;

  void Add(double length) {
    sum += length;
    squares += length * length;
    ++rounds;
  }
  double mean() const { return sum / static_cast<double>(rounds); }
  double error() const {
    const auto n = static_cast<double>(rounds);
    return std::sqrt(std::max(squares / n - mean() * mean(), 0.0) / n);
  }
};

struct Rule {
  const char* name;
  speculation::AcceptanceMode mode;
  bool argmax = false, unfiltered = false;
};
constexpr int kTogether = 16;  // sequences; prompts in turn, from the start again if need be

constexpr Rule kRules[] = {
    {.name = "coupled", .mode = speculation::AcceptanceMode::kCoupled},
    {.name = "rejection", .mode = speculation::AcceptanceMode::kRejection},
    {.name = "argmax", .mode = speculation::AcceptanceMode::kCoupled, .argmax = true},
    {.name = "unfiltered", .mode = speculation::AcceptanceMode::kCoupled, .unfiltered = true}};

absl::StatusOr<Tau> Measure(const BenchOptions& options, const Rule& rule, const Category& category,
                            models::Model& model, drafter::DraftModel& draft_model, ThreadPool& pool) {
  verifier::EngineOptions engine_options;
  engine_options.max_sequences = kTogether;
  engine_options.max_draft_tokens = draft_model.info().block_size;
  engine_options.speculation.num_drafters = 1;
  engine_options.speculation.policy = {.kind = verifier::PolicyKind::kFixed,
                                       .fixed_window = engine_options.max_draft_tokens};
  engine_options.speculation.acceptance = rule.mode;
  ASSIGN_OR_RETURN(auto engine, verifier::Engine::Create(engine_options, model, pool, Clock::Real()));
  ASSIGN_OR_RETURN(auto draft_engine, drafter::DraftEngine::Create({}, draft_model));
  testing::PairLink link(*draft_engine, 0);
  link.on_feed = [&rule](speculation::Feed& feed) {
    for (auto& sequence : feed.sequences) {
      if (!sequence.sampling) continue;
      if (rule.argmax) sequence.sampling->temperature = 0;
      if (rule.unfiltered) {
        const speculation::DraftSampling plain = {.seed = sequence.sampling->seed,
                                                  .temperature = sequence.sampling->temperature};
        sequence.sampling = plain;
      }
    }
  };
  RETURN_IF_ERROR(engine->OpenDrafter(0, link.Open(engine->options().speculation)));
  Tau tau;
  uint64_t number = 0;
  for (int pass = 0; tau.rounds < options.rounds; ++pass) {
    verifier::testing::FakeGateway gateway(*engine, pass + 1);
    for (int i = 0; i < kTogether; ++i) {
      const auto& prompt = category.prompts[number % category.prompts.size()];
      verifier::Admission request;
      request.tokens = prompt;
      request.prompt_length = static_cast<int32_t>(prompt.size());
      request.max_tokens = std::min(options.max_tokens, engine->max_model_len() - request.prompt_length);
      if (request.max_tokens < 2) return InvalidArgument("{}: a prompt fills the context", category.name);
      request.stop_token_ids = model.config().eos_token_ids;
      request.sampling.temperature = static_cast<float>(options.temperature);
      request.sampling.top_k = options.top_k;
      request.sampling.top_p = static_cast<float>(options.top_p);
      request.sampling.min_p = static_cast<float>(options.min_p);
      request.sampling.seed = static_cast<uint64_t>(options.seed) * 1000003 + number++;
      gateway.Submit(std::move(request));
    }
    const int64_t before = tau.rounds;
    const auto count = [&] {
      for (const int length : engine->last_step().accepted_lengths) tau.Add(length);
    };
    testing::RunPair(*engine, Clock::Real(), {&gateway}, {&link}, count);
    count();
    engine->CloseStream(pass + 1);
    if (tau.rounds == before) return Internal("{}: no round had drafts", category.name);
  }
  return tau;
}

absl::Status Run(const BenchOptions& options) {
  std::vector<Category> categories;
  for (const std::string& path : options.prompts) {
    ASSIGN_OR_RETURN(Category category, ReadTurns(path, options.target));
    categories.push_back(std::move(category));
  }
  for (const std::string& path : options.prompt_ids) {
    ASSIGN_OR_RETURN(Category category, ReadIds(path));
    categories.push_back(std::move(category));
  }
  if (categories.empty()) return InvalidArgument("--prompts or --prompt-ids is required");
  ThreadPool pool(options.threads);
  ASSIGN_OR_RETURN(const auto checkpoint, formats::Checkpoint::Open(options.target));
  ASSIGN_OR_RETURN(const auto model, models::LoadModel(*checkpoint, {}, pool));
  drafter::DraftModelOptions draft_options;
  draft_options.path = options.drafter;
  draft_options.target = checkpoint.get();
  draft_options.markov_top_k = options.markov_top_k;
  draft_options.kv_type = *kernels::ParseKvType(options.kv_dtype);
  ASSIGN_OR_RETURN(const auto draft_model, drafter::LoadDraftModel(draft_options, pool));

  std::printf(
      "temperature %g, top_k %d, top_p %g, min_p %g, KV of the drafter %s, windows of %d, at least %d rounds "
      "each; tau with standard error\n",
      options.temperature, options.top_k, options.top_p, options.min_p, options.kv_dtype.c_str(),
      draft_model->info().block_size, options.rounds);
  const bool filters = options.top_k > 0 || options.top_p < 1 || options.min_p > 0;
  const auto rules = std::span(kRules).first(std::size(kRules) - (filters ? 0 : 1));
  std::printf("%-18s", "");
  for (const Rule& rule : rules) std::printf(" %16s", rule.name);
  std::printf("   coupled / rejection (S3)\n");
  for (const Category& category : categories) {
    std::printf("%-18s", category.name.c_str());
    Tau taus[std::size(kRules)];
    for (size_t i = 0; i < rules.size(); ++i) {
      ASSIGN_OR_RETURN(taus[i], Measure(options, kRules[i], category, *model, *draft_model, pool));
      std::printf("  %6.3f +- %5.3f", taus[i].mean(), taus[i].error());
      std::fflush(stdout);
    }
    const double ratio = taus[0].mean() / taus[1].mean();
    const double relative = std::hypot(taus[0].error() / taus[0].mean(), taus[1].error() / taus[1].mean());
    std::printf("   %5.3f +- %5.3f\n", ratio, ratio * relative);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  BenchOptions options;
  OptionParser parser("acceptance_bench", "Accepted lengths by acceptance rule.");
  parser.AddString("target", &options.target, "The target: a Hugging Face directory or a .gguf file");
  parser.AddString("drafter", &options.drafter, "Directory of its draft checkpoint");
  parser.AddStringList("prompts", &options.prompts, "JSONL of {\"turns\": [...]}, a category each");
  parser.AddStringList("prompt-ids", &options.prompt_ids, "JSON array of {\"prompt_ids\": [...]}");
  parser.AddInteger("rounds", &options.rounds, 1, 1 << 30, "Rounds of each category and rule at least");
  parser.AddInteger("max-tokens", &options.max_tokens, 2, 1 << 20, "Of each answer");
  parser.AddNumber("temperature", &options.temperature, 0, 2, "Of target and drafter");
  parser.AddInteger("top-k", &options.top_k, 0, INT32_MAX, "Of target and drafter; 0: off");
  parser.AddNumber("top-p", &options.top_p, 0.001, 1, "Of target and drafter; 1: off");
  parser.AddNumber("min-p", &options.min_p, 0, 1, "Of target and drafter; 0: off");
  parser.AddChoice("kv-dtype", &options.kv_dtype, {"f32", "bf16", "int8"}, "As of tandem-drafter");
  parser.AddInteger("seed", &options.seed, 0, int64_t{1} << 40, "Of all draws");
  parser.AddInteger("threads", &options.threads, 1, 1024, "");
  parser.AddInteger("markov-top-k", &options.markov_top_k, 0, 1 << 20, "As of tandem-drafter");
  if (const std::optional<int> code = parser.Parse(argc, argv)) return *code;
  if (const absl::Status status = Run(options); !status.ok()) {
    std::fprintf(stderr, "acceptance_bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::Main(argc, argv); }
