#include "cli/stack_options.h"

#include <filesystem>
#include <iostream>

#include "cli/pull.h"
#include "common/base/model_store.h"
#include "common/base/status.h"

namespace tandem::cli {

absl::StatusOr<Supervisor::Options> StackOptions(const std::string& model, const std::string& drafter,
                                                 const std::vector<std::string>& settings) {
  Supervisor::Options options;
  options.flags = {{"verifier", "drain-delay", "0s"},
                   {"gateway", "drain-delay", "0s"},
                   {"gateway", "grpc-reflection", "true"}};
  for (const char* process : {"drafter", "verifier", "gateway"}) {
    options.flags.push_back({process, "log-format", "text"});
    options.flags.push_back({process, "log-level", "warning"});
  }
  for (const std::string& setting : settings) {
    ASSIGN_OR_RETURN(const ProcessFlag flag, ParseProcessFlag(setting));
    std::erase_if(options.flags, [&](const ProcessFlag& known) {
      return known.process == flag.process && known.flag == flag.flag;
    });
    options.flags.push_back(flag);
  }
  ASSIGN_OR_RETURN(options.model, ResolveOrPull(model, std::cerr));
  const NamedModel* const named = FindNamedModel(model);
  options.model_name = named != nullptr ? model : std::filesystem::path(options.model).stem().string();
  if (drafter == "auto") {
    options.drafter = named == nullptr ? "" : named->drafter;
  } else if (drafter != "none") {
    options.drafter = drafter;
  }
  return options;
}

}  // namespace tandem::cli
