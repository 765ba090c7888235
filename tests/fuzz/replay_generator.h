// A Generator without verifiers or threads: checks, renders and tokenises as the gateway's core does, then
// answers with the prompt's own last tokens, all before Start returns.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/admission/generator.h"
#include "gateway/admission/model_text.h"
#include "gateway/admission/validate_request.h"

namespace tandem::fuzz {

class ReplayGenerator : public gateway::Generator {
 public:
  ReplayGenerator();

  absl::StatusOr<std::unique_ptr<gateway::Generation>> Start(gateway::GenerationRequest request,
                                                             gateway::EventSink& sink) override;
  absl::StatusOr<std::vector<int32_t>> Tokenize(const gateway::TokenizeRequest& request) override;
  absl::StatusOr<std::string> Detokenize(const std::string& model, const char* param,
                                         const std::vector<int64_t>& ids) override;
  gateway::ModelInfo model_info() const override;
  bool ready() const override { return true; }

 private:
  struct Prompt {
    std::vector<int32_t> ids;
    std::string echo;
  };
  absl::StatusOr<std::vector<Prompt>> EncodePrompts(const gateway::GenerationRequest& request,
                                                    const gateway::CheckedRequest& checked) const;
  absl::StatusOr<std::vector<int32_t>> EncodeMessages(const nlohmann::ordered_json& messages,
                                                      const std::map<std::string, bool>& flags) const;
  void Play(const gateway::CheckedRequest& checked, const std::vector<Prompt>& prompts,
            gateway::EventSink& sink) const;
  std::string TextOf(const std::vector<int32_t>& ids) const;

  gateway::ModelText model_;
  gateway::ModelFacts facts_;
};

// What every answer to a client's mistake must be: no fault of ours, an error object that is JSON, bounded.
void CheckClientError(const absl::Status& status);

}  // namespace tandem::fuzz
