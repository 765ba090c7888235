#include "common/text/jinja_text.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"

namespace tandem::text::jinja {

Text::Text(std::string bytes, bool trusted) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) runs_.push_back({bytes_.size(), trusted});
}

void Text::Append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().trusted == trusted) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), trusted});
  }
}

void Text::AppendPart(const Text& other, size_t begin, size_t end) {
  TANDEM_CHECK(begin <= end && end <= other.size());
  auto run = std::upper_bound(other.runs_.begin(), other.runs_.end(), begin,
                              [](size_t value, const Run& run) { return value < run.end; });
  for (; begin < end; ++run) {
    const size_t stop = std::min(end, run->end);
    Append(std::string_view(other.bytes_).substr(begin, stop - begin), run->trusted);
    begin = stop;
  }
}

Text Text::Part(size_t begin, size_t end) const {
  Text part;
  part.AppendPart(*this, begin, end);
  return part;
}

Text Text::WithBytes(std::string bytes) const {
  TANDEM_CHECK(bytes.size() == size());
  Text text = *this;
  text.bytes_ = std::move(bytes);
  return text;
}

std::vector<Span> Text::Spans() const {
  std::vector<Span> spans;
  size_t begin = 0;
  for (const Run& run : runs_) {
    spans.push_back({bytes_.substr(begin, run.end - begin), run.trusted});
    begin = run.end;
  }
  return spans;
}

}  // namespace tandem::text::jinja
