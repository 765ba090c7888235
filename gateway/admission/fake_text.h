// For tests: a tokenizer whose ids 0..255 are bytes, and a sink that remembers.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"
#include "gateway/admission/fake_verifier.h"
#include "gateway/admission/generator.h"

namespace tandem::gateway {

class ByteTokenizer : public text::Tokenizer {
 public:
  ByteTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_.emplace_back(1, static_cast<char>(i));
    bytes_.push_back("<eos>");
  }
  using Tokenizer::Encode;
  absl::StatusOr<std::vector<int32_t>> Encode(std::span<const text::Span> spans) const override {
    std::vector<int32_t> ids;
    for (const text::Span& span : spans) {
      for (const char c : span.text) ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string_view TokenBytes(int32_t id) const override { return bytes_[id]; }
  bool IsSpecial(int32_t id) const override { return id == kFakeEos; }
  std::optional<int32_t> FindToken(std::string_view text) const override {
    if (text.size() == 1) return static_cast<unsigned char>(text[0]);
    return std::nullopt;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  std::span<const int32_t> prompt_prefix() const override { return {}; }
  const std::string& hash() const override { return hash_; }

 private:
  std::vector<std::string> bytes_;
  std::string hash_ = "h1";
};

// Checks the order of events as they come. Thread-safe to read.
class RecordingSink : public EventSink {
 public:
  struct Choice {
    std::string text;
    std::vector<int32_t> ids;
    std::vector<DeltaToken> tokens;
    std::vector<TextSpan> drafted_spans;
    std::optional<Finished> finished;
  };

  void OnStarted(const Started& started) override {
    const std::lock_guard lock(mu_);
    if (started_ || ended_) ++disorder_;
    started_ = started;
  }
  void OnDelta(Delta delta) override {
    const std::lock_guard lock(mu_);
    Choice& choice = choices_[delta.choice];
    if (!started_ || ended_ || choice.finished) ++disorder_;
    if (delta.first_index != static_cast<int32_t>(choice.ids.size())) ++disorder_;  // gap or repeat
    for (const DeltaToken& token : delta.tokens) choice.ids.push_back(token.id);
    num_tokens_ += static_cast<int>(delta.tokens.size());
    changed_.notify_all();
    choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    AppendSpans(delta.drafted_spans, choice.text.size(), choice.drafted_spans);
    choice.text += delta.text;
  }
  void OnFinished(const Finished& finished) override {
    const std::lock_guard lock(mu_);
    Choice& choice = choices_[finished.choice];
    if (!started_ || ended_ || choice.finished) ++disorder_;
    if (finished.output_tokens != static_cast<int32_t>(choice.ids.size())) ++disorder_;
    choice.finished = finished;
  }
  void OnAllFinished() override { End(absl::OkStatus()); }
  void OnError(const absl::Status& status) override { End(status); }

  std::optional<absl::Status> end() const {
    const std::lock_guard lock(mu_);
    return ended_;
  }
  bool finished() const { return end() && end()->ok(); }
  std::optional<Started> started() const {
    const std::lock_guard lock(mu_);
    return started_;
  }
  Choice choice(int i) const {
    const std::lock_guard lock(mu_);
    const auto it = choices_.find(i);
    return it == choices_.end() ? Choice() : it->second;
  }
  std::string text(int i = 0) const { return choice(i).text; }
  int disorder() const {
    const std::lock_guard lock(mu_);
    return disorder_;
  }
  // Whether the end came within the time.
  bool WaitForEnd(absl::Duration timeout) const {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [&] { return ended_.has_value(); });
  }
  // Whether so many tokens, of all choices together, or the end came within the time.
  bool WaitForTokens(int count, absl::Duration timeout) const {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                             [&] { return num_tokens_ >= count || ended_.has_value(); });
  }

 private:
  void End(const absl::Status& status) {
    const std::lock_guard lock(mu_);
    if (ended_) ++disorder_;
    ended_ = status;
    changed_.notify_all();
  }

  mutable std::mutex mu_;
  std::optional<Started> started_;
  std::map<int, Choice> choices_;
  std::optional<absl::Status> ended_;
  mutable std::condition_variable changed_;
  int num_tokens_ = 0;
  int disorder_ = 0;
};

// What plain generation gives: the yardstick of every test.
inline std::string ExpectedText(const std::string& prompt, uint64_t seed, int max_tokens,
                                const FakeVerifier::TokenFunction& token = FakeToken) {
  std::vector<int32_t> ids;
  for (const char c : prompt) ids.push_back(static_cast<unsigned char>(c));
  const auto prompt_length = static_cast<int32_t>(ids.size());
  std::string text;
  for (int i = 0; i < max_tokens; ++i) {
    const int32_t id = token(ids, prompt_length, seed);
    if (id == kFakeEos) break;
    ids.push_back(id);
    text += static_cast<char>(id);
  }
  return text;
}

}  // namespace tandem::gateway
