// Descriptors on which a loop's thread sleeps itself, so that a message wakes it and no thread in between.
//
//   sources.Insert(key, source);
//   sources.Wait(waiting, timeout);   // what came has been handed over when this returns
#pragma once

#include <poll.h>

#include <iterator>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/wait_set.h"

namespace tandem {

// Messages of one stream. The loop's thread only.
class MessageSource {
 public:
  virtual ~MessageSource() = default;
  virtual int fd() const = 0;
  // Whether a message waits for room to be sent: the descriptor is then to be polled for that, too.
  virtual bool sending() const = 0;
  // The descriptor is ready. Sends what waits, and hands what has come to the stream's listener. False: the
  // source has nothing more to give (the stream ends, and is told why) and must not be polled again.
  virtual bool OnReady() = 0;
};

// Those of one loop. Not thread-safe; OnReady must not change them.
template <typename Key>
class MessageSources {
 public:
  bool empty() const { return sources_.empty(); }
  void Insert(const Key& key, std::shared_ptr<MessageSource> source) {
    sources_.insert_or_assign(key, std::move(source));
  }
  void Clear() { sources_.clear(); }
  // What was there.
  std::shared_ptr<MessageSource> Remove(const Key& key) {
    auto node = sources_.extract(key);
    return node.empty() ? nullptr : std::move(node.mapped());
  }

  // Until somebody rings, a source is ready, or the time is up; then calls those that are.
  void Wait(WaitSet& waiting, absl::Duration timeout) {
    polls_.clear();
    for (const auto& [key, source] : sources_) {
      const int events = source->sending() ? POLLIN | POLLOUT : POLLIN;
      polls_.push_back({source->fd(), static_cast<short>(events), 0});
    }
    waiting.Wait(timeout, polls_);
    auto source = sources_.begin();
    for (const pollfd& poll : polls_) {
      source = poll.revents == 0 || source->second->OnReady() ? std::next(source) : sources_.erase(source);
    }
  }

 private:
  std::map<Key, std::shared_ptr<MessageSource>> sources_;
  std::vector<pollfd> polls_;  // work area of Wait
};

}  // namespace tandem
