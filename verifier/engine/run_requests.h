// Runs requests through an engine of their own in tests, with or without drafts, to their end.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "common/base/status.h"
#include "verifier/engine/engine.h"
#include "verifier/engine/fake_gateway.h"

namespace tandem::verifier::testing {

// Outputs of `requests`, which run together. `expected[i]`, where given, feeds drafts of which every third is
// `wrong_token`. `stats` are the engine's at the end.
inline std::vector<std::vector<int32_t>> RunRequests(models::Model& model, ThreadPool& pool,
                                                     const EngineOptions& options,
                                                     const std::vector<Admission>& requests,
                                                     EngineStats& stats,
                                                     const std::vector<std::vector<int32_t>>& expected = {},
                                                     int32_t wrong_token = 65) {
  auto engine = Engine::Create(options, model, pool, Clock::Real());
  TANDEM_CHECK(engine.ok());
  FakeGateway gateway(**engine, 1);
  std::vector<uint64_t> ids;
  for (const Admission& request : requests) ids.push_back(gateway.Submit(request));
  RunToEnd(**engine, {&gateway}, [&] {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!gateway.IsRunning(ids[i])) continue;
      const Admission& now = gateway.request(ids[i]);
      std::vector<int32_t> drafts;
      for (size_t k = now.tokens.size() - now.prompt_length; k < expected[i].size() && drafts.size() < 7;
           ++k) {
        drafts.push_back((k + i) % 3 == 0 ? wrong_token : expected[i][k]);
      }
      (*engine)->ProposeDrafts(1, ids[i], now.epoch, static_cast<int32_t>(now.tokens.size()),
                               now.tokens.back(), drafts);
    }
  });
  std::vector<std::vector<int32_t>> outputs;
  for (const uint64_t id : ids) outputs.push_back(gateway.outcome(id).output);
  stats = (*engine)->stats();
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
  return outputs;
}

}  // namespace tandem::verifier::testing
