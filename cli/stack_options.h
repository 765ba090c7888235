// What a user says about a model and its drafter, as the supervisor takes it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/supervisor.h"

namespace tandem::cli {

inline constexpr char kDrafterHelp[] =
    "a drafter's name or path, ngram, random or none; auto: the model's own, if it has one";

// Model and drafter filled in, the model pulled if it is a name and missing; ports are the defaults'.
// `drafter` is as kDrafterHelp has it. `settings` are --set's PROCESS.FLAG=VALUE; they replace what a single
// machine with a person in front of it gets: no delay before draining, since nobody polls readiness, and logs
// as text, warnings only. kInvalidArgument names a bad setting.
absl::StatusOr<Supervisor::Options> StackOptions(const std::string& model, const std::string& drafter,
                                                 const std::vector<std::string>& settings);

}  // namespace tandem::cli
