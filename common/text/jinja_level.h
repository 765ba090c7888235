// Counts how deep a recursion is, for its limit; shared by the parsers and the evaluator.
#pragma once

namespace tandem::text::jinja {

class Level {
 public:
  explicit Level(int* depth) : depth_(depth) { ++*depth_; }
  ~Level() { --*depth_; }
  Level(const Level&) = delete;

 private:
  int* depth_;
};

}  // namespace tandem::text::jinja
