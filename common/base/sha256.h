// SHA-256 of strings and files, as lower-case hex.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace tandem {

// Update any number of times, then Finish once.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  void Update(std::span<const std::byte> data);
  void Update(const std::string& text);
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// kNotFound or kUnavailable with the path if it cannot be read.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

}  // namespace tandem
