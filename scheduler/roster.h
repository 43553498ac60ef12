// Who is here: all open requests, who waits, who is seated, who holds which blocks, and how each of
// them ends. Every transition of a request's life happens in one of these functions.
//
// In        messages, plans and finished steps, from the loop (scheduler.cc).
// Out       plain states for planning; TokenEvents through the sinks.
// Not here  when things happen (scheduler.cc), who runs next (plan_step.h).
// Threads   scheduler thread only.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "engine/step.h"
#include "kvcache/block_pool.h"
#include "scheduler/config.h"
#include "scheduler/inbox.h"
#include "scheduler/plan_step.h"
#include "scheduler/sequence.h"
#include "scheduler/stats.h"
#include "scheduler/step_batch.h"

namespace tandem::scheduler {

class Roster {
 public:
  // `queue` was raised by the inbox for every request that arrives here; it is lowered here.
  Roster(const SchedulerConfig& config, const ModelLimits& limits, QueueCounts& queue);

  void Arrive(SubmitMessage message);
  void Cancel(RequestId id, CancelCause cause, int64_t now_us);
  void StopChoice(RequestId id, int choice, int64_t now_us);
  // Ends requests whose deadline, queue timeout or time limit has come, in this precedence.
  void ExpireDue(int64_t now_us);
  void CancelAll(CancelCause cause, int64_t now_us);
  // Each request gets a status of its own: one that several threads share is counted inside the
  // packaged absl, where ThreadSanitizer cannot follow.
  void FailAll(absl::Status (*make_status)(), int64_t now_us);

  // What PlanStep needs of everybody who may take part.
  PlanInput Snapshot(const CostModel& cost) const;
  // Preempts, seats, gives blocks, and tells requests whose first row is about to run.
  //   input    what `plan` was made from, of the roster as it is now
  //   returns  who runs with how many rows: plan.decode, then plan.prefill, less those whose
  //   request
  //            failed because it was preempted too often
  std::vector<SeatRows> Apply(const PlanInput& input, const StepPlan& plan, int64_t now_us);
  // Takes the result of a step: rows are in the cache now, tokens go out, choices end, blocks that
  // left the window are released.
  //   result   one token per sample of `batch`, ids inside the vocabulary where finite
  void Commit(const std::vector<SeatRows>& seats, const engine::StepBatch& batch,
              engine::StepResult result, int64_t step, int64_t now_us);
  // Frees the memory of ended requests. Until then pointers into them stay valid.
  void ForgetEnded() { ended_.clear(); }

  bool empty() const { return requests_.empty(); }
  // Adds what the roster knows: seats, blocks, totals.
  void FillStats(SchedulerStats& stats) const;

 private:
  struct ByRank {
    bool operator()(const Sequence* a, const Sequence* b) const { return a->rank < b->rank; }
  };

  RequestState* Find(RequestId id);
  void Seat(Sequence& sequence);
  void Preempt(Sequence& sequence, int64_t now_us);
  void Start(RequestState& state, int64_t now_us);
  void LeaveQueue(RequestState& state);  // not counted as queued any more
  void ReleaseBlocks(Sequence& sequence);
  void CountRows(const Sequence& sequence, int rows);
  void AppendToken(Sequence& sequence, engine::SampledToken token, int64_t now_us);
  // Ends one choice; the last one ends the request with OK.
  void FinishChoice(Sequence& sequence, FinishReason reason, int32_t stop_id, int64_t now_us);
  void FinishOpenChoices(RequestState& state, FinishReason reason, int64_t now_us);
  // Ends what is still open without kChoiceFinished.
  void FinishRequest(RequestState& state, absl::Status status, int64_t now_us);
  void Vacate(Sequence& sequence);  // out of seat or queue, blocks freed

  const SchedulerConfig config_;
  const ModelLimits limits_;
  const int max_known_;
  QueueCounts& queue_;
  std::array<kvcache::BlockPool, engine::kNumKvGroups> pools_;
  std::map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::vector<std::unique_ptr<RequestState>> ended_;
  std::set<Sequence*, ByRank> seated_;
  std::set<Sequence*, ByRank> waiting_;
  SchedulerStats totals_;  // the *_total fields
};

}  // namespace tandem::scheduler
