// Cuts a byte stream into the data of server-sent events.
#pragma once

#include <string>
#include <string_view>

namespace tandem::cli {

class EventStream {
 public:
  // Calls on_data for each event that `bytes` completes, with its data (lines joined by newlines). Comments
  // and other fields are passed over.
  template <typename F>
  void Push(std::string_view bytes, const F& on_data) {
    buffer_.append(bytes);
    size_t begin = 0;
    for (size_t newline; (newline = buffer_.find('\n', begin)) != std::string::npos; begin = newline + 1) {
      std::string_view line(buffer_.data() + begin, newline - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty()) {
        if (has_data_) on_data(std::string_view(data_));
        data_.clear();
        has_data_ = false;
      } else if (line.starts_with("data:")) {
        line.remove_prefix(5);
        if (line.starts_with(' ')) line.remove_prefix(1);
        if (has_data_) data_ += '\n';
        data_ += line;
        has_data_ = true;
      }
    }
    buffer_.erase(0, begin);
  }

 private:
  std::string buffer_;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace tandem::cli
