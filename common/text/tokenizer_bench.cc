// Encoding speed in bytes of text per second: bin/tokenizer_bench
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdio>
#include <map>

#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/gzip.h"

namespace tandem::text {
namespace {

using testing::DataDir;
using testing::GoldenDir;

constexpr const char* kTokenizers[] = {"smollm2", "qwen3", "gemma3"};

const Tokenizer& LoadTokenizer(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
  std::unique_ptr<Tokenizer>& tokenizer = loaded[name];
  if (tokenizer == nullptr) {
    const auto beside = GoldenDir() / "tokenizers" / (name + ".tokenizer.json.gz");
    const auto path =
        std::filesystem::exists(beside) ? beside : DataDir() / "tokenizers" / name / "tokenizer.json.gz";
    auto made = Tokenizer::FromJson(testing::ReadGzip(path));
    if (!made.ok()) {
      std::fprintf(stderr, "%s: %s\n", path.c_str(), made.status().ToString().c_str());
      std::exit(1);
    }
    tokenizer = *std::move(made);
  }
  return *tokenizer;
}

// All texts of the golden file: many scripts, much of it odd.
std::string GoldenTexts(const std::string& name) {
  std::string all;
  const auto golden = nlohmann::json::parse(testing::ReadFile(GoldenDir() / "tokenizers" / (name + ".json")));
  for (const auto& item : golden.at("texts")) all += item.at("text").get<std::string>() + "\n";
  return all;
}

std::string SourceFile(const char* path) {
  return testing::ReadFile(std::filesystem::path(TANDEM_SOURCE_DIR) / path);
}

void Encode(benchmark::State& state, const std::string& name, const std::string& text) {
  const Tokenizer& tokenizer = LoadTokenizer(name);
  size_t num_ids = 0;
  for (auto _ : state) {
    const auto ids = tokenizer.Encode(text, false);
    num_ids = ids.value().size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] = static_cast<double>(text.size()) / static_cast<double>(num_ids);
}

void RegisterAll() {
  for (const char* name : kTokenizers) {
    const auto add = [&](const char* kind, const std::string& text) {
      benchmark::RegisterBenchmark(fmt::format("{}/{}", name, kind).c_str(), Encode, std::string(name), text);
    };
    add("english", SourceFile("docs/api.md") + SourceFile("docs/architecture.md"));
    add("code", SourceFile("common/text/jinja_parser.cc"));
    add("all_scripts", GoldenTexts(name));
  }
}

}  // namespace
}  // namespace tandem::text

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  tandem::text::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
