#include "server/grpc/stats_stream.h"

#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "server/grpc/close_call.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/stats_messages.h"
#include "tandem/v1/info.pb.h"

namespace tandem::server {
namespace {

constexpr char kMethod[] = "WatchStats";

class StatsStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit StatsStream(ServiceCore& core) : core_(core) {}

  void Begin(const grpc::ByteBuffer& request) {
    absl::Status good = Prepare(request);
    if (!good.ok()) return End(std::move(good));
    next_ = CallTimers::Clock::now();
    Tick();
  }

  void OnCancel() override { End(ClientCancelled()); }

  void OnDone() override {
    if (watch_.has_value()) core_.calls().EndWatch(*watch_);
    std::unique_lock lock(mutex_);
    const std::optional<CallTimers::Id> timer = timer_;
    lock.unlock();
    if (timer.has_value()) core_.timers().Cancel(*timer);
    delete this;
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    writing_ = false;
    if (!ok && !end_.has_value()) end_ = ClientCancelled();
    Continue(std::move(lock));
  }

 private:
  absl::Status Prepare(const grpc::ByteBuffer& bytes) {
    const auto request = ParseMessage<v1::WatchStatsRequest>(bytes);
    if (!request.ok()) return request.status();
    const absl::StatusOr<int64_t> interval_ms = WatchIntervalMs(*request);
    if (!interval_ms.ok()) return interval_ms.status();
    if (const auto model = core_.Model(); !model.ok()) return model.status();
    interval_ = std::chrono::milliseconds(*interval_ms);
    const auto watch = core_.calls().BeginWatch([this] { End(Draining()); });
    if (!watch.ok()) return watch.status();
    watch_ = *watch;
    return absl::OkStatus();
  }

  // A message is due. One that the client has not taken when the next is due is not doubled.
  void Tick() {
    std::unique_lock lock(mutex_);
    if (end_.has_value()) return;
    due_ = true;
    next_ += interval_;
    timer_ = core_.timers().Start(next_, [this] { Tick(); });
    Continue(std::move(lock));
  }

  void End(absl::Status status) {
    std::unique_lock lock(mutex_);
    if (end_.has_value()) return;
    end_ = std::move(status);
    Continue(std::move(lock));
  }

  // Writes what is due, or finishes, unless a write is under way. Takes the lock along because gRPC
  // may call back, and finishing may delete *this.
  void Continue(std::unique_lock<std::mutex> lock) {
    if (writing_ || finished_) return;
    if (end_.has_value()) {
      finished_ = true;
      const absl::Status status = *end_;
      lock.unlock();
      Finish(CloseCall(core_, kMethod, status));  // the last access to *this
    } else if (due_) {
      due_ = false;
      writing_ = true;
      current_ = SerializeMessage(*EngineStatsNow(core_));  // there is a model, or no watch began
      lock.unlock();
      StartWrite(&current_);
    }
  }

  ServiceCore& core_;
  std::chrono::milliseconds interval_ = {};
  std::optional<ActiveCalls::Ticket> watch_;

  std::mutex mutex_;  // all below
  CallTimers::Clock::time_point next_;
  std::optional<CallTimers::Id> timer_;
  grpc::ByteBuffer current_;  // being written
  bool writing_ = false;
  bool due_ = false;
  bool finished_ = false;
  std::optional<absl::Status> end_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartWatchStats(ServiceCore& core,
                                                            const grpc::ByteBuffer& request) {
  auto* reactor = new StatsStream(core);  // deletes itself in OnDone
  reactor->Begin(request);
  return reactor;
}

}  // namespace tandem::server
