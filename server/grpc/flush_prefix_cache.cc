#include "server/grpc/flush_prefix_cache.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "server/grpc/request_errors.h"
#include "spdlog/spdlog.h"

namespace tandem::server {
namespace {

using Clock = CallTimers::Clock;

constexpr std::chrono::milliseconds kPeriod{10};

// Whether a flush now would leave nothing behind.
bool IsIdle(const scheduler::SchedulerStats& stats) {
  return stats.running == 0 && stats.waiting == 0 && stats.queued_requests == 0 &&
         std::all_of(stats.blocks_used.begin(), stats.blocks_used.end(),
                     [](int64_t blocks) { return blocks == 0; });
}

// One call, kept alive by the timer or the scheduler's answer that it waits for.
class Flush : public std::enable_shared_from_this<Flush> {
 public:
  using Answer = std::function<void(absl::StatusOr<v1::FlushPrefixCacheResponse>)>;

  Flush(ServiceCore& core, scheduler::Scheduler& scheduler, ActiveCalls::Ticket ticket,
        std::function<bool()> cancelled, Answer answer)
      : core_(core),
        scheduler_(scheduler),
        ticket_(ticket),
        cancelled_(std::move(cancelled)),
        answer_(std::move(answer)) {}

  //   timeout_ms  0: none
  void WaitIdle(int64_t timeout_ms) {
    timeout_ms_ = timeout_ms;
    if (timeout_ms > 0) due_ = Clock::now() + std::chrono::milliseconds(timeout_ms);
    Look();
  }

  void Run() {
    scheduler_.FlushPrefixCache([self = shared_from_this()](int64_t freed) {
      // The scheduler's thread has better things to do than to send messages.
      self->core_.timers().Start(Clock::now(), [self, freed] {
        spdlog::info("prefix cache flushed: freed_blocks={}", freed);
        v1::FlushPrefixCacheResponse response;
        response.set_freed_blocks(static_cast<uint64_t>(freed));
        self->Finish(response);
      });
    });
  }

 private:
  void Look() {
    if (cancelled_()) return Finish(ClientCancelled());
    if (core_.health().phase() == Phase::kDraining) return Finish(Draining());
    const scheduler::SchedulerStats stats = scheduler_.stats();
    if (IsIdle(stats)) return Run();
    const Clock::time_point now = Clock::now();
    if (now >= due_) {
      return Finish(NotIdle(timeout_ms_, stats.running, scheduler::WaitingRequests(stats)));
    }
    core_.timers().Start(now + kPeriod, [self = shared_from_this()] { self->Look(); });
  }

  void Finish(absl::StatusOr<v1::FlushPrefixCacheResponse> answer) {
    core_.calls().End(ticket_);
    answer_(std::move(answer));
  }

  ServiceCore& core_;
  scheduler::Scheduler& scheduler_;
  const ActiveCalls::Ticket ticket_;
  const std::function<bool()> cancelled_;
  const Answer answer_;
  int64_t timeout_ms_ = 0;
  Clock::time_point due_ = Clock::time_point::max();
};

}  // namespace

void FlushPrefixCache(const v1::FlushPrefixCacheRequest& request, ServiceCore& core,
                      std::function<bool()> cancelled,
                      std::function<void(absl::StatusOr<v1::FlushPrefixCacheResponse>)> answer) {
  if (!core.config().admin) return answer(AdminIsOff("FlushPrefixCache"));
  const absl::StatusOr<const LoadedModel*> model = core.Model();
  if (!model.ok()) return answer(model.status());
  const absl::StatusOr<ActiveCalls::Ticket> ticket = core.calls().Begin("");
  if (!ticket.ok()) return answer(ticket.status());
  const auto flush = std::make_shared<Flush>(core, *(*model)->backend.scheduler, *ticket,
                                             std::move(cancelled), std::move(answer));
  if (request.wait_idle()) {
    flush->WaitIdle(request.timeout_ms());
  } else {
    flush->Run();
  }
}

}  // namespace tandem::server
