// Answers prompts through the scheduler, a fixed number at a time, and says what it took.
//
// The same path as a server's: admission, plan, draft lengths, step, commit; only without network
// and text. Everything runs on the caller's thread, one turn of the scheduler after the other.
//
// Not here  which runs are held against each other (bench_compare.h), reports.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_log.h"

namespace tandem::server {

struct BenchPrompt {
  std::string task;  // its class
  std::vector<int32_t> ids;
};

struct GenerationTest {
  std::string task;          // for reports: the class of its prompts, or "all"
  int streams = 1;           // answered at the same time; the next begins when one has ended
  int max_tokens = 0;        // of an answer
  std::vector<int> prompts;  // which are answered, in order
  uint64_t first_seed = 0;   // answer i is drawn with first_seed + i
};

// What runs the steps, and what stands around them.
struct GenerationEngine {
  engine::RunStep run_step;
  scheduler::SchedulerConfig config;
  scheduler::ModelLimits limits;
  scheduler::CostModel cost;  // from warm-up
  // Bytes of weights that one forward of the drafter reads for so many sequences; null without one.
  std::function<double(int slots)> draft_step_bytes;
  engine::SamplingParams sampling;  // of every answer, but for the seed
  std::vector<int32_t> eos_ids;     // empty: answers have exactly max_tokens
};

// Where the time of some steps went. Everything but `steps` is a sum.
struct StepTotals {
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t draft_steps = 0;  // forwards of the drafter
  double plan_us = 0;       // from the beginning of a turn to the engine's
  double target_us = 0;     // the engine, without drafting
  double draft_us = 0;
  double commit_us = 0;    // from the engine's end to the end of the turn
  double draft_bytes = 0;  // weights that the drafter's forwards read; 0 where it is not known
  // Of the steps that ran no prompt: what they drew, and how long the engine took.
  int64_t decode_tokens = 0;
  double decode_us = 0;

  double all_us() const { return plan_us + target_us + draft_us + commit_us; }
  StepTotals& operator+=(const StepTotals& other);
};

struct GenerationRun {
  double seconds = 0.0;  // prompts included
  int64_t tokens = 0;    // generated
  scheduler::DraftCounts drafts;
  StepTotals totals;
  std::vector<std::vector<int32_t>> answers;  // by request

  double tokens_per_s() const { return static_cast<double>(tokens) / seconds; }
  GenerationRun& operator+=(const GenerationRun& other);  // but the answers
};

// Holds a scheduler, so that what it has learnt of costs and of acceptance stays from run to run.
class GenerationDriver {
 public:
  // Told of every step that ran, between two steps and outside of their times.
  using OnStep = std::function<void(const scheduler::StepRecord& record)>;

  explicit GenerationDriver(GenerationEngine engine);
  ~GenerationDriver();
  GenerationDriver(const GenerationDriver&) = delete;
  GenerationDriver& operator=(const GenerationDriver&) = delete;

  //   errors  what the scheduler refused, or what ended an answer, with the prompt's number; no
  //           other run may follow
  absl::StatusOr<GenerationRun> Run(std::span<const BenchPrompt> prompts,
                                    const GenerationTest& test,
                                    const scheduler::Speculation& speculation,
                                    const OnStep& on_step = nullptr);

 private:
  absl::Status RunStep(const engine::StepBatch& batch, engine::StepResult& result);

  const GenerationEngine engine_;
  std::unique_ptr<scheduler::Scheduler> scheduler_;
  // Of the turn under way.
  bool stepped_ = false;
  double step_begin_us_ = 0;
  double step_end_us_ = 0;
  StepTotals totals_;
};

}  // namespace tandem::server
