// Who is here: all open requests, who waits, who is seated, who holds which blocks, and how each of
// them ends. Every transition of a request's life happens in one of these functions.
//
// In        messages, plans and finished steps, from the loop (scheduler.cc).
// Out       plain states for planning; TokenEvents through the sinks.
// Not here  when things happen (scheduler.cc), who runs next (plan_step.h).
// Threads   scheduler thread only.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "engine/step.h"
#include "kvcache/block_pool.h"
#include "scheduler/config.h"
#include "scheduler/inbox.h"
#include "scheduler/plan_step.h"
#include "scheduler/prefix_reuse.h"
#include "scheduler/segment_result.h"
#include "scheduler/sequence.h"
#include "scheduler/stats.h"
#include "scheduler/step_batch.h"
#include "scheduler/waiting_line.h"

namespace tandem::scheduler {

// Everybody who may take part in a step.
struct Lineup {
  PlanInput input;
  std::vector<Sequence*> sequences;  // by SeqRows::seq
};

class Roster {
 public:
  // `waiting_sequences` was raised by the inbox for every sequence that arrives here; it is kept
  // here from then on.
  Roster(const SchedulerConfig& config, const ModelLimits& limits,
         std::atomic<int64_t>& waiting_sequences);

  void Arrive(SubmitMessage message);
  // False: no such request is open.
  bool Cancel(RequestId id, CancelCause cause, int64_t now_us);
  void StopChoice(RequestId id, int choice, FinishReason reason, int64_t now_us);
  void Pause(RequestId id, int64_t now_us);
  void Resume(RequestId id, int64_t now_us);
  std::optional<RequestView> Describe(RequestId id, const ServiceRate& rate, int64_t now_us) const;
  // Ends requests whose deadline, queue timeout or time limit has come, in this precedence.
  void ExpireDue(int64_t now_us);
  // When ExpireDue has something to do next.
  int64_t next_due_us() const { return due_.empty() ? kNever : due_.begin()->first; }
  void CancelAll(CancelCause cause, int64_t now_us);
  // Each request gets a status of its own: one that several threads share is counted inside the
  // packaged absl, where ThreadSanitizer cannot follow.
  void FailAll(absl::Status (*make_status)(), int64_t now_us);

  // Looks for rows that can be reused, too.
  //   step  number of the step that is planned
  Lineup MakeLineup(const CostModel& cost, int64_t step);
  // Seats, hands over blocks that are reused, preempts, gives blocks, tells requests whose first
  // row is about to run, and ends those that would have to wait but do not want to
  // (Request::reject_if_queued).
  //   plan     made from lineup.input, of the roster as it is now
  //   returns  who runs with how many rows: plan.decode, then plan.prefill, without requests that
  //            failed because they were preempted too often
  std::vector<SeatRows> Apply(const Lineup& lineup, const StepPlan& plan, int64_t now_us);
  // Takes the result of a step: rows of known tokens and of guesses that held are in the cache now,
  // the others are as if they had never run; tokens go out, choices end; blocks that left the
  // window or hold no such row are released, those that are full can be found by others from now
  // on; fresh guesses are kept for the next step.
  //   result   that CheckResult accepts
  //   returns  guesses that held
  int Commit(const std::vector<SeatRows>& seats, const engine::StepBatch& batch,
             engine::StepResult result, int64_t step, int64_t now_us);
  // Forgets what is cached; returns the number of blocks.
  int64_t FlushPrefixCache();
  // Frees the memory of ended requests. Until then pointers into them stay valid.
  void ForgetEnded() { ended_.clear(); }

  // Whether there is a request that is not paused.
  bool can_run() const { return static_cast<int>(requests_.size()) > num_paused_; }
  // Adds what the roster knows: seats, blocks, totals.
  void FillStats(SchedulerStats& stats) const;

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  RequestState* Find(RequestId id);
  void SetDue(RequestState& state);  // after what it depends on has changed
  void Queue(Sequence& sequence);    // into the queue, out of a seat or new
  void Unqueue(Sequence& sequence);
  void Seat(Sequence& sequence);
  void Unseat(Sequence& sequence);  // blocks freed
  void Vacate(Sequence& sequence);  // for good
  // By a plan. `counted`: towards max_preemptions.
  void Preempt(Sequence& sequence, bool counted, int64_t now_us);
  void Start(RequestState& state, int64_t now_us);
  void EndPause(RequestState& state, int64_t now_us);
  SeqState StateOf(const Sequence& sequence) const;
  void OfferReuse(Lineup& lineup);
  // Guesses that could be of use once the sequence has so many more tokens.
  int DraftRoom(const Sequence& sequence, int more_tokens) const;
  // Blocks that a copy reads, by group. Held until Apply is done.
  using CopySource = std::array<int32_t, engine::kNumKvGroups>;
  static constexpr CopySource kNoSource = {-1, -1};
  CopySource HoldCopySource(const Lineup& lineup, const Reuse& reuse);
  std::vector<engine::BlockCopy> CopiesFrom(const CopySource& source,
                                            const Sequence& sequence) const;
  void ReleaseCopySource(const CopySource& source);
  void TakeReuse(Sequence& sequence, const Reuse& reuse);
  // False: there were too few free blocks; it may have grown in one group.
  bool GrowTables(Sequence& sequence, int tokens);
  // Commit for one seat, in this order: tokens, rows, what became of guesses.
  int CommitSeat(const SeatRows& seat, SegmentResult result, int64_t step, int64_t now_us);
  void CommitRows(Sequence& sequence, int rows, bool publish);
  void CommitDraft(const SeatRows& seat, DraftCounts round, const engine::Draft* fresh,
                   bool goes_on);
  void DiscardDraft(Sequence& sequence);
  void Count(Sequence& sequence, const DraftCounts& counts);
  // Ends one choice; the last one ends the request with OK.
  void FinishChoice(Sequence& sequence, FinishReason reason, int32_t stop_id, int64_t now_us);
  void FinishOpenChoices(RequestState& state, FinishReason reason, int64_t now_us);
  // Ends what is still open without kChoiceFinished.
  void FinishRequest(RequestState& state, absl::Status status, int64_t now_us);

  const SchedulerConfig config_;
  const ModelLimits limits_;
  const int max_known_;
  std::atomic<int64_t>& waiting_sequences_;
  KvPools pools_;
  PrefixReuse prefix_reuse_;
  std::map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::vector<std::unique_ptr<RequestState>> ended_;
  std::set<Sequence*, ByRank> seated_;
  WaitingLine line_;                             // unpaused sequences without a seat
  std::set<std::pair<int64_t, RequestId>> due_;  // RequestState::due_us of those that have one
  std::vector<RequestId> impatient_;             // reject_if_queued, no plan made yet
  int num_paused_ = 0;                           // requests
  int64_t num_preempted_ = 0;                    // sequences without a seat that have run
  DraftPrior draft_prior_;
  SchedulerStats totals_;  // the *_total fields, and `drafts`
};

}  // namespace tandem::scheduler
