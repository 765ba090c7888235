// A string that remembers, stretch by stretch, who wrote it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/tokenizer.h"

namespace tandem::text::jinja {

class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool trusted);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  void Append(std::string_view bytes, bool trusted);
  void Append(const Text& other) { AppendPart(other, 0, other.size()); }
  // Appends other's bytes [begin, end), each with its own trust.
  void AppendPart(const Text& other, size_t begin, size_t end);
  Text Part(size_t begin, size_t end) const;
  // The same runs over other bytes; requires bytes.size() == size().
  Text WithBytes(std::string bytes) const;

  std::vector<Span> Spans() const;

 private:
  struct Run {
    size_t end;
    bool trusted;
  };
  std::string bytes_;
  std::vector<Run> runs_;  // ends rise to size(); neighbours differ in trust
};

}  // namespace tandem::text::jinja
