#include "cli/local_drafter_link.h"

#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/speculation/hello_fit.h"

namespace tandem::cli {
namespace {

using verifier::DrafterLink;

class LocalDrafterLink final : public DrafterLink {
 public:
  LocalDrafterLink(drafter::DraftLoop& loop, drafter::DrafterIdentity identity)
      : loop_(loop), identity_(std::move(identity)) {
    identity_.shared_memory = false;  // rows come with the feeds, as in one address space they can
    if (identity_.model.projection.width > 0)
      projection_ = std::make_shared<const speculation::Projection>(identity_.model.projection);
  }
  ~LocalDrafterLink() override { Close(); }

  void Connect(const speculation::VerifierHello& hello, Listener& listener) override {
    Forget();  // a stream that has ended by itself
    speculation::DrafterHello answer = drafter::AnswerHello(identity_, hello);
    if (const absl::Status fit = speculation::CheckHellos(hello, answer).status; !fit.ok())
      return listener.OnClosed(fit);
    const auto ended = std::make_shared<std::atomic<bool>>(false);
    const auto number = std::make_shared<uint64_t>(0);  // of the draft loop's thread
    const drafter::StreamId id = loop_.OpenStream(
        {.row_type = hello.row_type, .mode = {hello.acceptance, hello.top_m}, .rows = nullptr},
        {.on_batch =
             [&listener, number](speculation::DraftBatch batch) {
               batch.number = ++*number;
               listener.OnDrafts(std::move(batch));
             },
         .on_error =
             [&listener, ended](absl::Status why) {
               if (!ended->exchange(true)) listener.OnClosed(std::move(why));
             }});
    {
      absl::MutexLock lock(&mu_);
      stream_.emplace(Stream{id, &listener, ended, 0, {}});
    }
    listener.OnOpen(std::move(answer), projection_, speculation::RowTransport::kInline, nullptr);
  }

  void PutRow(int64_t, std::span<const std::byte> row) override {
    absl::MutexLock lock(&mu_);
    if (stream_) stream_->rows.insert(stream_->rows.end(), row.begin(), row.end());
  }

  void SendFeed(speculation::Feed feed) override {
    absl::MutexLock lock(&mu_);
    if (!stream_) return;
    feed.number = ++stream_->num_feeds;
    feed.rows = std::exchange(stream_->rows, {});
    loop_.PostFeed(stream_->id, std::move(feed));
  }

  void Close() override {
    if (const std::optional<Stream> stream = Forget(); stream && !stream->ended->exchange(true))
      stream->listener->OnClosed(absl::CancelledError("the verifier closed it"));
  }

  const std::string& name() const override { return name_; }

 private:
  struct Stream {
    drafter::StreamId id;
    Listener* listener;
    std::shared_ptr<std::atomic<bool>> ended;  // OnClosed has been said
    uint64_t num_feeds;
    std::vector<std::byte> rows;  // of the next feed
  };

  // Without the lock the draft loop is told, since that waits for its sink.
  std::optional<Stream> Forget() {
    std::optional<Stream> stream;
    {
      absl::MutexLock lock(&mu_);
      stream = std::exchange(stream_, std::nullopt);
    }
    if (stream) loop_.CloseStream(stream->id);
    return stream;
  }

  drafter::DraftLoop& loop_;
  drafter::DrafterIdentity identity_;
  std::shared_ptr<const speculation::Projection> projection_;  // null: no rows
  const std::string name_ = "in this process";
  absl::Mutex mu_;
  std::optional<Stream> stream_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

std::unique_ptr<DrafterLink> NewLocalDrafterLink(drafter::DraftLoop& loop,
                                                 const drafter::DrafterIdentity& identity) {
  return std::make_unique<LocalDrafterLink>(loop, identity);
}

}  // namespace tandem::cli
