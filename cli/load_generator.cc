#include "cli/load_generator.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "cli/chat_session.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace tandem::cli {
namespace {

constexpr int kMaxOpenLoopThreads = 512;

absl::Duration ProcessCpu() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

RequestResult SendOne(const LoadOptions& options, int number) {
  ChatOptions chat;
  chat.model = options.model;
  chat.temperature = options.temperature;
  chat.seed = static_cast<int64_t>(options.seed + static_cast<uint64_t>(number));
  chat.max_tokens = options.max_tokens;
  ChatSession session(options.http, chat);
  const std::vector<std::string>& turns =
      options.prompts[static_cast<size_t>(number) % options.prompts.size()];
  RequestResult result;
  const auto answer = session.Ask(turns.front(), [](std::string_view, bool) { return true; });
  result.status = answer.status();
  if (answer.ok()) {
    result.first_text = answer->first_text;
    result.total = answer->total;
    result.prompt_tokens = answer->prompt_tokens;
    result.output_tokens = answer->output_tokens;
  }
  return result;
}

// Each thread takes the next request as soon as its last one ended.
void RunClosedLoop(const LoadOptions& options, std::vector<RequestResult>& results) {
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min(options.concurrency, options.num_requests); ++i) {
    threads.emplace_back([&] {
      for (int number; (number = next.fetch_add(1)) < options.num_requests;) {
        results[static_cast<size_t>(number)] = SendOne(options, number);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Arrivals with exponential gaps; a request that finds all threads busy waits, and says for how long.
void RunOpenLoop(const LoadOptions& options, std::vector<RequestResult>& results) {
  std::mt19937_64 random(options.seed);
  std::exponential_distribution<double> gap(options.rate);
  std::vector<absl::Time> arrivals;
  absl::Time at = absl::Now();
  for (int i = 0; i < options.num_requests; ++i) {
    at += absl::Seconds(gap(random));
    arrivals.push_back(at);
  }
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min(options.num_requests, kMaxOpenLoopThreads); ++i) {
    threads.emplace_back([&] {
      for (int number; (number = next.fetch_add(1)) < options.num_requests;) {
        const absl::Time arrival = arrivals[static_cast<size_t>(number)];
        absl::SleepFor(arrival - absl::Now());
        const absl::Duration late = absl::Now() - arrival;
        RequestResult& result = results[static_cast<size_t>(number)];
        result = SendOne(options, number);
        result.queued = late;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

LoadResult RunLoad(const LoadOptions& options) {
  LoadResult result;
  result.requests.resize(static_cast<size_t>(options.num_requests));
  const absl::Duration cpu = ProcessCpu();
  const absl::Time begin = absl::Now();
  if (options.rate > 0) {
    RunOpenLoop(options, result.requests);
  } else {
    RunClosedLoop(options, result.requests);
  }
  result.wall = absl::Now() - begin;
  result.generator_cpu = ProcessCpu() - cpu;
  return result;
}

absl::StatusOr<std::vector<std::vector<std::string>>> ReadPrompts(const std::string& path) {
  std::ifstream file(path);
  if (!file) return NotFound("cannot open {}", path);
  std::vector<std::vector<std::string>> prompts;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.empty()) continue;
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("turns") || !json["turns"].is_array() || json["turns"].empty()) {
      return InvalidArgument("{}:{}: expected {{\"turns\": [\"...\"]}}", path, number);
    }
    std::vector<std::string> turns;
    for (const auto& turn : json["turns"]) {
      if (!turn.is_string()) return InvalidArgument("{}:{}: a turn that is no string", path, number);
      turns.push_back(turn.get<std::string>());
    }
    prompts.push_back(std::move(turns));
  }
  if (prompts.empty()) return InvalidArgument("{}: no prompts", path);
  return prompts;
}

std::vector<std::vector<std::string>> SamplePrompts(std::vector<std::vector<std::string>> prompts,
                                                    size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < std::min(count, prompts.size()); ++i) {
    std::swap(prompts[i], prompts[i + random() % (prompts.size() - i)]);
  }
  if (prompts.size() > count) prompts.resize(count);
  return prompts;
}

std::vector<std::vector<std::string>> BuiltInPrompts() {
  return {
      {"Explain in a few sentences why the sky is blue."},
      {"Write a Python function that returns the n-th Fibonacci number."},
      {"A train travels 60 km in 45 minutes. What is its average speed in km/h? Show the steps."},
      {"Write a short story about a lighthouse keeper and a lost whale."},
      {"List the planets of the solar system with one fact about each."},
      {"Translate into French: Good morning, how are you today?"},
      {"What are the advantages and disadvantages of remote work?"},
      {"Write an email to a colleague asking to move a meeting to Thursday."},
  };
}

double Percentile(std::vector<double>& values, double fraction) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(values.size())));
  return values[std::clamp<size_t>(rank, 1, values.size()) - 1];
}

}  // namespace tandem::cli
