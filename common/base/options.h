// The options of one process, from four places: flag > environment TANDEM_<NAME> > --config FILE > default.
//
//   struct Options { Address listen{"127.0.0.1", 8011}; int64_t kv_bytes = 0; } o;
//   OptionParser parser("tandem-verifier", "Holds the model and extends sequences.");
//   parser.AddAddress("listen", &o.listen, "gRPC address");
//   parser.AddBytes("kv-bytes", &o.kv_bytes, 0, kMaxBytes, "memory of the KV pool; 0: a quarter of free
//   memory"); if (std::optional<int> code = parser.Parse(argc, argv)) return *code;
//   ... load files ...
//   if (parser.check_config()) return 0;
//
// Every parser has --help, --version, --config FILE and --check-config. The environment name of --kv-bytes is
// TANDEM_KV_BYTES, its name in the file kv-bytes. Targets keep their value as default unless a place sets
// them; a value is checked wherever it comes from, and the error names that place. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"

namespace tandem {

class OptionParser {
 public:
  // Stands in for std::getenv in tests: the variable's value, or nullptr.
  using Environment = std::function<const char*(const char* name)>;

  OptionParser(std::string program, std::string description);
  OptionParser(std::string program, std::string description, Environment environment);
  ~OptionParser();

  // Names without dashes. Targets must outlive Parse and hold the default, which --help shows.
  void AddString(const std::string& name, std::string* target, const std::string& help);
  void AddChoice(const std::string& name, std::string* target, std::vector<std::string> choices,
                 const std::string& help);
  void AddInteger(const std::string& name, int64_t* target, int64_t min, int64_t max,
                  const std::string& help);
  void AddInteger(const std::string& name, int* target, int min, int max, const std::string& help);
  void AddNumber(const std::string& name, double* target, double min, double max, const std::string& help);
  void AddBytes(const std::string& name, int64_t* target, int64_t min, int64_t max, const std::string& help);
  void AddDuration(const std::string& name, absl::Duration* target, absl::Duration min, absl::Duration max,
                   const std::string& help);
  void AddAddress(const std::string& name, Address* target, const std::string& help);
  // --name on|off
  void AddSwitch(const std::string& name, bool* target, const std::string& help);
  // --name alone sets true; environment and file say on or off.
  void AddFlag(const std::string& name, bool* target, const std::string& help);
  // May be repeated; the environment separates by commas, the file has an array. Replaces the default as a
  // whole.
  void AddStringList(const std::string& name, std::vector<std::string>* target, const std::string& help);
  // May be repeated, as AddStringList; each an address.
  void AddAddressList(const std::string& name, std::vector<Address>* target, const std::string& help);
  // An argument without a name; required ones first. Only on the command line.
  void AddPositional(const std::string& name, std::string* target, bool required, const std::string& help);

  // The code to exit with at once, or none to go on: 0 after --help and --version (on `out`), 2 after bad
  // usage, with one line on `err`.
  std::optional<int> Parse(int argc, const char* const* argv);
  std::optional<int> Parse(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

  // Stop once all files have been read and checked: exit 0.
  bool check_config() const { return check_config_; }
  // Whether any place set the option.
  bool IsSet(const std::string& name) const;

 private:
  struct Option;
  using Values = std::vector<std::string>;

  void Add(Option option);
  absl::Status ApplyAll();
  absl::Status ReadFile(const std::string& path, std::map<std::string, Values>& values);
  absl::Status Apply(Option& option, const Values& values, const std::string& where);

  std::string program_, description_;
  Environment environment_;
  std::vector<std::unique_ptr<Option>> options_;
  std::string config_path_;
  bool check_config_ = false;
};

// For main: prints "program: message" as one line on stderr and returns 1, the exit code of a fault at start.
int ReportStartFault(const std::string& program, const absl::Status& status);

}  // namespace tandem
