#include "common/base/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/option_file.h"
#include "common/base/status.h"

namespace tandem {
namespace {

constexpr int kBadUsage = 2, kStartFault = 1;
constexpr int64_t kMaxConfigBytes = 1 << 20;

std::string EnvironmentName(const std::string& name) {
  std::string result = "TANDEM_" + absl::AsciiStrToUpper(name);
  std::replace(result.begin(), result.end(), '-', '_');
  return result;
}

// Control characters would break the promise of one line.
std::string OneLine(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return absl::ascii_iscntrl(c); }, ' ');
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

template <typename T, typename Show>
absl::Status SetInRange(const absl::StatusOr<T>& value, T min, T max, const Show& show, T* target) {
  if (!value.ok()) return value.status();
  if (*value < min || *value > max) {
    return InvalidArgument("must be in {}..{}, got {}", show(min), show(max), show(*value));
  }
  *target = *value;
  return absl::OkStatus();
}

std::string ShowInteger(int64_t v) { return fmt::format("{}", v); }
std::string ShowNumber(double v) { return fmt::format("{}", v); }
std::string ShowDuration(absl::Duration v) { return absl::FormatDuration(v); }

std::string ShowBytes(int64_t bytes) {
  constexpr const char* kNames[] = {"TiB", "GiB", "MiB", "KiB"};
  for (int i = 0; i < 4; ++i) {
    const int64_t unit = int64_t{1} << (40 - 10 * i);
    if (bytes >= unit && bytes % unit == 0) return fmt::format("{}{}", bytes / unit, kNames[i]);
  }
  return fmt::format("{}", bytes);
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("cannot open configuration file {}: {}", path, std::strerror(errno));
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (file.bad()) return Internal("cannot read configuration file {}", path);
  if (static_cast<int64_t>(text.size()) > kMaxConfigBytes) {
    return InvalidArgument("configuration file {} exceeds {} bytes", path, kMaxConfigBytes);
  }
  return text;
}

}  // namespace

struct OptionParser::Option {
  enum class Kind { kValue, kFlag, kList, kPositional };
  std::string name{};
  std::string type{};  // shown in --help
  std::string help{};
  std::string default_text{};
  Kind kind = Kind::kValue;
  bool required = false;
  // Once per value, in order; `first` tells lists to drop their default.
  std::function<absl::Status(const std::string& value, bool first)> set{};
  // An empty array in the file.
  std::function<void()> clear{};

  std::string flag_text{};  // of kFlag, as the command line has it; empty if absent
  Values from_command_line{};
  bool is_set = false;
};

OptionParser::OptionParser(std::string program, std::string description)
    : OptionParser(std::move(program), std::move(description),
                   [](const char* name) { return std::getenv(name); }) {}

OptionParser::OptionParser(std::string program, std::string description, Environment environment)
    : program_(std::move(program)),
      description_(std::move(description)),
      environment_(std::move(environment)) {}

OptionParser::~OptionParser() = default;

void OptionParser::Add(Option option) {
  for (const auto& other : options_) TANDEM_CHECK(other->name != option.name);
  options_.push_back(std::make_unique<Option>(std::move(option)));
}

void OptionParser::AddString(const std::string& name, std::string* target, const std::string& help) {
  Add({.name = name,
       .type = "TEXT",
       .help = help,
       .default_text = *target,
       .set = [target](const std::string& value, bool) {
         *target = value;
         return absl::OkStatus();
       }});
}

void OptionParser::AddChoice(const std::string& name, std::string* target, std::vector<std::string> choices,
                             const std::string& help) {
  Add({.name = name,
       .type = absl::StrJoin(choices, "|"),
       .help = help,
       .default_text = *target,
       .set = [target, choices](const std::string& value, bool) -> absl::Status {
         if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
           return InvalidArgument("expected one of {}, got '{}'", absl::StrJoin(choices, ", "), value);
         }
         *target = value;
         return absl::OkStatus();
       }});
}

void OptionParser::AddInteger(const std::string& name, int64_t* target, int64_t min, int64_t max,
                              const std::string& help) {
  Add({.name = name,
       .type = "N",
       .help = help,
       .default_text = ShowInteger(*target),
       .set = [=](const std::string& value, bool) {
         return SetInRange(ParseInteger(value), min, max, ShowInteger, target);
       }});
}

void OptionParser::AddInteger(const std::string& name, int* target, int min, int max,
                              const std::string& help) {
  Add({.name = name,
       .type = "N",
       .help = help,
       .default_text = ShowInteger(*target),
       .set = [=](const std::string& value, bool) {
         int64_t wide = 0;
         RETURN_IF_ERROR(SetInRange<int64_t>(ParseInteger(value), min, max, ShowInteger, &wide));
         *target = static_cast<int>(wide);
         return absl::OkStatus();
       }});
}

void OptionParser::AddNumber(const std::string& name, double* target, double min, double max,
                             const std::string& help) {
  Add({.name = name,
       .type = "X",
       .help = help,
       .default_text = ShowNumber(*target),
       .set = [=](const std::string& value, bool) {
         return SetInRange(ParseNumber(value), min, max, ShowNumber, target);
       }});
}

void OptionParser::AddBytes(const std::string& name, int64_t* target, int64_t min, int64_t max,
                            const std::string& help) {
  Add({.name = name,
       .type = "SIZE",
       .help = help,
       .default_text = ShowBytes(*target),
       .set = [=](const std::string& value, bool) {
         return SetInRange(ParseBytes(value), min, max, ShowBytes, target);
       }});
}

void OptionParser::AddDuration(const std::string& name, absl::Duration* target, absl::Duration min,
                               absl::Duration max, const std::string& help) {
  Add({.name = name,
       .type = "TIME",
       .help = help,
       .default_text = ShowDuration(*target),
       .set = [=](const std::string& value, bool) {
         return SetInRange(ParseDuration(value), min, max, ShowDuration, target);
       }});
}

void OptionParser::AddAddress(const std::string& name, Address* target, const std::string& help) {
  const bool has_default = target->is_unix() || !target->host.empty();
  Add({.name = name,
       .type = "ADDR",
       .help = help,
       .default_text = has_default ? target->ToString() : "",
       .set = [target](const std::string& value, bool) {
         ASSIGN_OR_RETURN(*target, ParseAddress(value));
         return absl::OkStatus();
       }});
}

void OptionParser::AddSwitch(const std::string& name, bool* target, const std::string& help) {
  Add({.name = name,
       .type = "on|off",
       .help = help,
       .default_text = *target ? "on" : "off",
       .set = [target](const std::string& value, bool) {
         ASSIGN_OR_RETURN(*target, ParseSwitch(value));
         return absl::OkStatus();
       }});
}

void OptionParser::AddFlag(const std::string& name, bool* target, const std::string& help) {
  Add({.name = name,
       .help = help,
       .kind = Option::Kind::kFlag,
       .set = [target](const std::string& value, bool) {
         ASSIGN_OR_RETURN(*target, ParseSwitch(value));
         return absl::OkStatus();
       }});
}

void OptionParser::AddStringList(const std::string& name, std::vector<std::string>* target,
                                 const std::string& help) {
  Add({.name = name,
       .type = "TEXT",
       .help = help,
       .default_text = absl::StrJoin(*target, ","),
       .kind = Option::Kind::kList,
       .set =
           [target](const std::string& value, bool first) {
             if (first) target->clear();
             target->push_back(value);
             return absl::OkStatus();
           },
       .clear = [target] { target->clear(); }});
}

void OptionParser::AddAddressList(const std::string& name, std::vector<Address>* target,
                                  const std::string& help) {
  const auto show = [](std::string* out, const Address& address) { out->append(address.ToString()); };
  Add({.name = name,
       .type = "ADDR",
       .help = help,
       .default_text = absl::StrJoin(*target, ",", show),
       .kind = Option::Kind::kList,
       .set =
           [target](const std::string& value, bool first) {
             ASSIGN_OR_RETURN(Address address, ParseAddress(value));
             if (first) target->clear();
             target->push_back(std::move(address));
             return absl::OkStatus();
           },
       .clear = [target] { target->clear(); }});
}

void OptionParser::AddPositional(const std::string& name, std::string* target, bool required,
                                 const std::string& help) {
  Add({.name = name,
       .type = "TEXT",
       .help = help,
       .default_text = *target,
       .kind = Option::Kind::kPositional,
       .required = required,
       .set = [target](const std::string& value, bool) {
         *target = value;
         return absl::OkStatus();
       }});
}

std::optional<int> OptionParser::Parse(int argc, const char* const* argv) {
  return Parse(argc, argv, std::cout, std::cerr);
}

std::optional<int> OptionParser::Parse(int argc, const char* const* argv, std::ostream& out,
                                       std::ostream& err) {
  CLI::App app(description_, program_);
  app.set_version_flag("--version", program_ + " " TANDEM_VERSION, "Print the version and exit");
  app.set_help_flag("--help,-h", "Print this help and exit");
  app.add_option("--config", config_path_, "Read options from FILE (TOML: name = value) [TANDEM_CONFIG]")
      ->type_name("FILE");
  app.add_flag("--check-config", check_config_, "Check options and files, then exit");
  app.footer(
      "Each option is also read from the environment, as TANDEM_<NAME>, and from the configuration file.\n"
      "A flag wins over the environment, the environment over the file.");
  for (auto& option : options_) {
    const bool show_default = !option->default_text.empty() && option->kind != Option::Kind::kPositional;
    const std::string help =
        show_default ? fmt::format("{} [{}]", option->help, option->default_text) : option->help;
    switch (option->kind) {
      case Option::Kind::kFlag:
        // "--name" arrives as "true", "--name=off" as it stands.
        app.add_flag("--" + option->name, option->flag_text, help)
            ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        break;
      case Option::Kind::kPositional:
        app.add_option(option->name, option->from_command_line, help)
            ->required(option->required)
            ->expected(1)
            ->type_name("");
        break;
      default:
        app.add_option("--" + option->name, option->from_command_line, help)
            ->expected(1)
            ->allow_extra_args(false)
            ->type_name(option->type)
            ->multi_option_policy(option->kind == Option::Kind::kList ? CLI::MultiOptionPolicy::TakeAll
                                                                      : CLI::MultiOptionPolicy::TakeLast);
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    out << app.help();
    return 0;
  } catch (const CLI::CallForVersion&) {
    out << app.version() << '\n';
    return 0;
  } catch (const std::exception& e) {
    err << program_ << ": " << OneLine(e.what()) << " (try --help)\n";
    return kBadUsage;
  }
  for (auto& option : options_) {
    if (!option->flag_text.empty()) option->from_command_line = {option->flag_text};
  }
  if (const absl::Status status = ApplyAll(); !status.ok()) {
    err << program_ << ": " << OneLine(std::string(status.message())) << '\n';
    return kBadUsage;
  }
  return std::nullopt;
}

absl::Status OptionParser::ApplyAll() {
  if (const char* path = environment_("TANDEM_CONFIG"); config_path_.empty() && path != nullptr)
    config_path_ = path;
  std::map<std::string, Values> in_file;
  if (!config_path_.empty()) RETURN_IF_ERROR(ReadFile(config_path_, in_file));

  for (auto& option : options_) {
    if (!option->from_command_line.empty()) {
      const bool positional = option->kind == Option::Kind::kPositional;
      RETURN_IF_ERROR(Apply(*option, option->from_command_line, (positional ? "" : "--") + option->name));
      continue;
    }
    if (option->kind == Option::Kind::kPositional) continue;
    const std::string variable = EnvironmentName(option->name);
    if (const char* value = environment_(variable.c_str()); value != nullptr && *value != '\0') {
      const bool list = option->kind == Option::Kind::kList;
      RETURN_IF_ERROR(Apply(*option, list ? Values(absl::StrSplit(value, ',')) : Values{value}, variable));
    } else if (const auto entry = in_file.find(option->name); entry != in_file.end()) {
      RETURN_IF_ERROR(Apply(*option, entry->second, fmt::format("{}: {}", config_path_, option->name)));
    }
  }
  return absl::OkStatus();
}

absl::Status OptionParser::ReadFile(const std::string& path, std::map<std::string, Values>& values) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  absl::StatusOr<std::vector<OptionFileEntry>> entries = ParseOptionFile(text);
  if (!entries.ok()) return Annotate(entries.status(), path);
  for (OptionFileEntry& entry : *entries) {
    const auto option = std::find_if(options_.begin(), options_.end(), [&](const auto& o) {
      return o->name == entry.name && o->kind != Option::Kind::kPositional;
    });
    if (option == options_.end()) {
      return InvalidArgument("{}: line {}: unknown option '{}'", path, entry.line, entry.name);
    }
    if (entry.is_array && (*option)->kind != Option::Kind::kList) {
      return InvalidArgument("{}: line {}: {} takes one value, not an array", path, entry.line, entry.name);
    }
    values[entry.name] = std::move(entry.values);
  }
  return absl::OkStatus();
}

absl::Status OptionParser::Apply(Option& option, const Values& values, const std::string& where) {
  option.is_set = true;
  if (values.empty()) option.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    RETURN_IF_ERROR(Annotate(option.set(values[i], i == 0), where));
  }
  return absl::OkStatus();
}

bool OptionParser::IsSet(const std::string& name) const {
  return std::any_of(options_.begin(), options_.end(),
                     [&](const auto& option) { return option->name == name && option->is_set; });
}

int ReportStartFault(const std::string& program, const absl::Status& status) {
  std::cerr << program << ": " << OneLine(std::string(status.message())) << std::endl;
  return kStartFault;
}

}  // namespace tandem
