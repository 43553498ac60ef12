// Sends the requests of one run and keeps what came back.
//
// In        which requests (plan), when (LoadSpec), how to send one (StartCall).
// Out       a RunResult.
// Not here  gRPC (grpc_client.h); figures (summary.h).
// Threads   Run uses the caller's thread, which alone starts calls. The sink of a call is for any
//           thread, one at a time. Stop from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <vector>

#include "bench/arrivals.h"
#include "bench/records.h"
#include "bench/workload.h"

namespace tandem::bench {

struct CallEnd {
  int code = 0;  // of gRPC
  std::string reason;
  std::string message;
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;  // of them
  int output_tokens = 0;
  std::optional<int64_t> retry_delay_us;  // what the server asked for
};

struct CallSink {
  std::function<void(int tokens)> on_tokens;  // a message with so many, 1 and up
  std::function<void(CallEnd end)> on_end;    // last, exactly once
};
// Idempotent, without effect after the end; the call still ends through its sink.
using CancelCall = std::function<void()>;
// Sends one request; must not block. The sink may be called before it returns.
using StartCall = std::function<CancelCall(const PlannedRequest&, CallSink)>;

struct LoadSpec {
  int concurrency = 0;        // closed loop: calls at a time, the next when one ends. 0: open loop
  ArrivalSpec arrivals;       // open loop
  uint64_t arrival_seed = 0;  // open loop
  int requests = 0;           // 0: as many as begin within the duration
  int64_t duration_us = 0;    // 0: until all `requests` are sent
  int retries = 0;            // of a request that was refused as QUEUE_FULL and the like
};

struct LoadProgress {
  int started = 0;
  int ended = 0;
  int failed = 0;
  int64_t tokens = 0;
  double elapsed_s = 0.0;
};

class LoadRun {
 public:
  LoadRun(const LoadSpec& spec, std::function<PlannedRequest(int index)> plan, StartCall start);
  ~LoadRun();

  // Until every call has ended. `progress` is called about five times a second.
  RunResult Run(const std::function<void(const LoadProgress&)>& progress);

  // Ends the run: nothing more is sent, and what is under way is cancelled and forgotten.
  void Stop();

 private:
  struct Call;
  using CallPtr = std::shared_ptr<Call>;
  struct Retry {
    int64_t time_us;
    CallPtr call;
    bool operator<(const Retry& other) const { return time_us > other.time_us; }  // earliest on top
  };

  int64_t Now() const;
  bool MoreToSend(int64_t now_us) const;
  int64_t WakeAt(int64_t now_us) const;
  bool StartDue(int64_t now_us);
  void Start(const CallPtr& call);
  void Settle(const CallPtr& call, int64_t now_us);
  void CancelAll();

  const LoadSpec spec_;
  const std::function<PlannedRequest(int)> plan_;
  const StartCall start_;
  Arrivals arrivals_;
  int64_t begin_us_ = 0;

  // The rest belongs to the thread of Run, but for what `shared_` guards.
  std::map<int, CallPtr> active_;  // by index
  std::priority_queue<Retry> retries_;
  int next_index_ = 0;
  int64_t next_arrival_us_ = 0;
  int unavailable_in_a_row_ = 0;
  bool stopped_ = false;
  LoadProgress progress_;
  RunResult result_;

  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace tandem::bench
