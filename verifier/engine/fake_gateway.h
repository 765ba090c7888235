// A gateway for tests: admits requests as far as the share allows, records tokens, re-admits what is
// preempted under the next epoch, acknowledges. Checks on the way what every report promises.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "verifier/engine/engine.h"

namespace tandem::verifier::testing {

struct Outcome {
  std::vector<int32_t> output;
  std::vector<float> logprobs;
  SequenceEnd end = SequenceEnd::kRunning;
  absl::Status error;
  int preemptions = 0;
  int64_t drafted = 0, checked = 0, accepted = 0;
  int32_t cached_length = 0;  // largest of its admissions
};

class FakeGateway {
 public:
  FakeGateway(Engine& engine, StreamId stream) : engine_(engine), stream_(stream) {
    engine_.OpenStream(stream);
  }

  // `id` and `epoch` are the gateway's own.
  uint64_t Submit(Admission request) {
    request.id = ++last_id_;
    request.epoch = 1;
    queue_.push_back(request.id);
    requests_[request.id] = std::move(request);
    return last_id_;
  }
  void Cancel(uint64_t id) { cancelled_.push_back(id); }

  // Sends a plan, if there is anything to say.
  void SendPlan() {
    Plan plan;
    plan.number = ++plan_number_;
    while (!queue_.empty() && static_cast<int32_t>(running_.size()) < share_) {
      const uint64_t id = queue_.front();
      queue_.pop_front();
      plan.admissions.push_back(requests_.at(id));
      running_.insert({id, 0});
    }
    for (const uint64_t id : cancelled_) {
      if (running_.contains(id)) {
        plan.cancellations.push_back({id, requests_.at(id).epoch});
      } else if (const auto waiting = std::ranges::find(queue_, id); waiting != queue_.end()) {
        queue_.erase(waiting);
        outcomes_[id].end = SequenceEnd::kCancelled;
      }
    }
    cancelled_.clear();
    plan.acknowledgements = std::move(acknowledgements_);
    acknowledgements_.clear();
    plan.waiting_sequences = static_cast<int32_t>(queue_.size());
    engine_.ApplyPlan(stream_, std::move(plan));
  }

  void Receive(const Report& report) {
    share_ = report.sequence_share;
    last_report = report;
    for (const SequenceReport& news : report.sequences) {
      Admission& request = requests_.at(news.id);
      ASSERT_EQ(news.epoch, request.epoch);
      ASSERT_EQ(news.first_index, static_cast<int32_t>(request.tokens.size()));
      ASSERT_EQ(news.length, news.first_index + static_cast<int32_t>(news.new_tokens.size()));
      ASSERT_LE(news.accepted, news.checked);
      ASSERT_LE(news.checked, news.drafted);
      ASSERT_LE(news.computed_length, news.length);
      Outcome& outcome = outcomes_[news.id];
      request.tokens.insert(request.tokens.end(), news.new_tokens.begin(), news.new_tokens.end());
      outcome.output.insert(outcome.output.end(), news.new_tokens.begin(), news.new_tokens.end());
      if (request.num_logprobs) {
        ASSERT_EQ(news.logprobs.size(), news.new_tokens.size());
        for (const auto& logprobs : news.logprobs) outcome.logprobs.push_back(logprobs.chosen);
      }
      outcome.cached_length = std::max(outcome.cached_length, news.cached_length);
      acknowledgements_.push_back({news.id, news.epoch, news.length});
      if (news.end == SequenceEnd::kRunning) continue;
      running_.erase(news.id);
      outcome.drafted += news.drafted;
      outcome.checked += news.checked;
      outcome.accepted += news.accepted;
      if (news.end == SequenceEnd::kPreempted) {
        ++outcome.preemptions;
        ++request.epoch;
        queue_.push_front(news.id);
      } else {
        outcome.end = news.end;
        outcome.error = news.error;
      }
    }
  }

  bool Done() const { return queue_.empty() && running_.empty(); }
  size_t running() const { return running_.size(); }
  const Outcome& outcome(uint64_t id) { return outcomes_[id]; }
  const Admission& request(uint64_t id) const { return requests_.at(id); }
  bool IsRunning(uint64_t id) const { return running_.contains(id); }
  StreamId stream() const { return stream_; }
  Report last_report;

 private:
  Engine& engine_;
  const StreamId stream_;
  uint64_t last_id_ = 0, plan_number_ = 0;
  int32_t share_ = 1;
  std::map<uint64_t, Admission> requests_;  // tokens = all recorded so far
  std::deque<uint64_t> queue_;
  std::map<uint64_t, int> running_;
  std::map<uint64_t, Outcome> outcomes_;
  std::vector<uint64_t> cancelled_;
  std::vector<Acknowledgement> acknowledgements_;
};

// Plans, steps and delivers until all gateways are done; `before_step` may propose drafts. A run that takes
// more than `max_steps` has lost a sequence.
inline void RunToEnd(
    Engine& engine, std::vector<FakeGateway*> gateways, const std::function<void()>& before_step = [] {},
    int max_steps = 100000) {
  for (int step = 0; step < max_steps; ++step) {
    bool done = true;
    for (FakeGateway* gateway : gateways) {
      gateway->SendPlan();
      done = done && gateway->Done();
    }
    if (done) return;
    before_step();
    for (auto& [stream, report] : engine.Step()) {
      for (FakeGateway* gateway : gateways) {
        if (gateway->stream() == stream) gateway->Receive(report);
      }
    }
    const EngineStats stats = engine.stats();
    ASSERT_LE(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
  }
  FAIL() << "not done after " << max_steps << " steps";
}

}  // namespace tandem::verifier::testing
