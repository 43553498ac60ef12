#include "bench/load_run.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace tandem::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kResourceExhausted = 8;  // of gRPC
constexpr int kUnavailable = 14;

constexpr int64_t kProgressUs = 200'000;
// So many calls in a row that nobody answered, and the server counts as gone.
constexpr int kMaxUnavailable = 20;
// Sent before what has ended meanwhile is looked at, when this program can not keep up.
constexpr int kMaxStarts = 256;
// grpc-surface 2.13, for a server that does not say how long to wait.
constexpr int64_t kFirstBackoffUs = 100'000;
constexpr int64_t kMaxBackoffUs = 2'000'000;

int64_t ClockUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch())
      .count();
}

// Of this process so far.
double CpuSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

}  // namespace

struct LoadRun::Call {
  RequestRecord record;  // the sink's until on_end, then the driver's
  CancelCall cancel;     // the driver's
  std::optional<int64_t> retry_delay_us;
};

// What sinks touch. They may outlive the run by the moment their last call returns.
struct LoadRun::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<CallPtr> ended;  // guarded by mutex
  bool stop = false;           // guarded by mutex
  std::atomic<int64_t> tokens = 0;
};

LoadRun::LoadRun(const LoadSpec& spec, std::function<PlannedRequest(int)> plan, StartCall start)
    : spec_(spec),
      plan_(std::move(plan)),
      start_(std::move(start)),
      arrivals_(spec.arrivals, spec.arrival_seed),
      shared_(std::make_shared<Shared>()) {}

LoadRun::~LoadRun() = default;

int64_t LoadRun::Now() const { return ClockUs() - begin_us_; }

bool LoadRun::MoreToSend(int64_t now_us) const {
  if (stopped_ || result_.server_lost) return false;
  if (spec_.requests > 0) return next_index_ < spec_.requests;
  const int64_t next_us = spec_.concurrency > 0 ? now_us : next_arrival_us_;
  return next_us < spec_.duration_us;
}

// When there is something to do although no call ends.
int64_t LoadRun::WakeAt(int64_t now_us) const {
  int64_t wake_us = now_us + kProgressUs;
  if (spec_.concurrency == 0 && MoreToSend(now_us)) wake_us = std::min(wake_us, next_arrival_us_);
  if (!retries_.empty()) wake_us = std::min(wake_us, retries_.top().time_us);
  return wake_us;
}

void LoadRun::Start(const CallPtr& call) {
  const std::shared_ptr<Shared> shared = shared_;
  const int64_t begin_us = begin_us_;
  CallSink sink;
  sink.on_tokens = [call, shared, begin_us](int tokens) {
    call->record.messages.push_back({.time_us = ClockUs() - begin_us, .tokens = tokens});
    call->record.output_tokens += tokens;
    shared->tokens.fetch_add(tokens, std::memory_order_relaxed);
  };
  sink.on_end = [call, shared, begin_us](CallEnd end) {
    RequestRecord& record = call->record;
    record.end_us = ClockUs() - begin_us;
    record.code = end.code;
    record.reason = std::move(end.reason);
    record.message = std::move(end.message);
    record.prompt_tokens = end.prompt_tokens;
    record.cached_prompt_tokens = end.cached_prompt_tokens;
    if (record.messages.empty()) record.output_tokens = end.output_tokens;
    call->retry_delay_us = end.retry_delay_us;
    const std::lock_guard lock(shared->mutex);
    shared->ended.push_back(call);
    shared->changed.notify_one();
  };
  active_[call->record.index] = call;
  call->cancel = start_(plan_(call->record.index), std::move(sink));
}

// Returns whether more is due already.
bool LoadRun::StartDue(int64_t now_us) {
  while (!retries_.empty() && retries_.top().time_us <= now_us) {
    const CallPtr call = retries_.top().call;
    retries_.pop();
    Start(call);
  }
  for (int started = 0; started < kMaxStarts && MoreToSend(now_us); ++started) {
    int64_t due_us = now_us;
    if (spec_.concurrency > 0) {
      const size_t busy = active_.size() + retries_.size();
      if (busy >= static_cast<size_t>(spec_.concurrency)) return false;
    } else {
      due_us = next_arrival_us_;
      if (due_us > now_us) return false;
      next_arrival_us_ = arrivals_.Next();
    }
    auto call = std::make_shared<Call>();
    call->record.index = next_index_++;
    call->record.due_us = due_us;
    call->record.sent_us = Now();
    ++progress_.started;
    Start(call);
    now_us = Now();
  }
  return MoreToSend(now_us);
}

// An ended call: to be sent again, or to be kept.
void LoadRun::Settle(const CallPtr& call, int64_t now_us) {
  RequestRecord& record = call->record;
  active_.erase(record.index);
  call->cancel = nullptr;  // it may hold the sink, which holds the call
  if (stopped_) {
    if (record.ok()) {
      result_.requests.push_back(std::move(record));
    } else {
      ++result_.unfinished;
    }
    return;
  }
  const bool refused =
      (record.code == kResourceExhausted || record.code == kUnavailable) && record.messages.empty();
  if (refused && record.retries < spec_.retries) {
    const int64_t backoff_us =
        std::min(kMaxBackoffUs, kFirstBackoffUs << std::min(record.retries, 20));
    ++record.retries;
    retries_.push({.time_us = now_us + call->retry_delay_us.value_or(backoff_us), .call = call});
    return;
  }
  unavailable_in_a_row_ = record.code == kUnavailable ? unavailable_in_a_row_ + 1 : 0;
  if (unavailable_in_a_row_ >= std::max(kMaxUnavailable, spec_.concurrency)) {
    result_.server_lost = true;
  }
  ++progress_.ended;
  if (!record.ok()) ++progress_.failed;
  result_.requests.push_back(std::move(record));
}

void LoadRun::CancelAll() {
  stopped_ = true;
  result_.interrupted = true;
  result_.unfinished += static_cast<int>(retries_.size());
  retries_ = {};
  for (const auto& [index, call] : active_) call->cancel();
}

RunResult LoadRun::Run(const std::function<void(const LoadProgress&)>& progress) {
  begin_us_ = ClockUs();
  const double cpu_begin_s = CpuSeconds();
  result_.concurrency = spec_.concurrency;
  result_.rate = spec_.concurrency > 0 ? 0.0 : spec_.arrivals.rate;
  if (spec_.concurrency == 0) next_arrival_us_ = arrivals_.Next();
  int64_t told_us = 0;
  for (;;) {
    int64_t now_us = Now();
    const bool more_due = StartDue(now_us);
    now_us = Now();
    if (active_.empty() && retries_.empty() && !MoreToSend(now_us)) break;
    if (now_us - told_us >= kProgressUs) {
      told_us = now_us;
      progress_.tokens = shared_->tokens.load(std::memory_order_relaxed);
      progress_.elapsed_s = static_cast<double>(now_us) / 1e6;
      progress(progress_);
    }
    std::vector<CallPtr> ended;
    bool stop = false;
    {
      std::unique_lock lock(shared_->mutex);
      const auto until =
          Clock::time_point(std::chrono::microseconds(begin_us_ + (more_due ? 0 : WakeAt(now_us))));
      shared_->changed.wait_until(
          lock, until, [&] { return !shared_->ended.empty() || (shared_->stop && !stopped_); });
      ended.swap(shared_->ended);
      stop = shared_->stop && !stopped_;
    }
    now_us = Now();
    for (const CallPtr& call : ended) Settle(call, now_us);
    if (stop) CancelAll();
  }
  std::sort(result_.requests.begin(), result_.requests.end(),
            [](const RequestRecord& a, const RequestRecord& b) { return a.index < b.index; });
  result_.cpu_s = CpuSeconds() - cpu_begin_s;
  return std::move(result_);
}

void LoadRun::Stop() {
  const std::lock_guard lock(shared_->mutex);
  shared_->stop = true;
  shared_->changed.notify_one();
}

}  // namespace tandem::bench
