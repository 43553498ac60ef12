#include "server/cli/bench_generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/cli/console.h"

namespace tandem::server {
namespace {

double NowUs() { return MonotonicSeconds() * 1e6; }

// Weights that the forwards of one step's drafts read: forward i runs the sequences that want more
// than i guesses.
double DraftBytes(const engine::StepBatch& batch, int forwards,
                  const std::function<double(int)>& step_bytes) {
  double bytes = 0.0;
  for (int i = 0; i < forwards; ++i) {
    const auto slots =
        std::count_if(batch.drafts.begin(), batch.drafts.end(),
                      [i](const engine::DraftRequest& request) { return request.max_tokens > i; });
    bytes += step_bytes(static_cast<int>(slots));
  }
  return bytes;
}

// Whether every row is a sequence's newest token or a guess behind it.
bool OnlyDecodes(const engine::StepBatch& batch) {
  return std::all_of(
      batch.segments.begin(), batch.segments.end(),
      [](const engine::Segment& segment) { return segment.num_rows == segment.num_drafts + 1; });
}

// Where the events of one request are put together.
struct Answer {
  std::vector<int32_t> ids;
  bool ended = false;
  absl::Status status;
  scheduler::DraftCounts drafts;
};

void OnEvent(Answer& answer, const scheduler::TokenEvent& event) {
  if (event.kind == scheduler::TokenEvent::Kind::kTokens) {
    for (const engine::SampledToken& token : event.tokens) answer.ids.push_back(token.id);
  } else if (event.kind == scheduler::TokenEvent::Kind::kFinished) {
    answer.ended = true;
    answer.status = event.status;
    answer.drafts = event.stats.drafts;
  }
}

absl::Status InPrompt(const absl::Status& status, int prompt) {
  return absl::Status(status.code(),
                      absl::StrFormat("prompt %d: %s", prompt + 1, std::string(status.message())));
}

}  // namespace

StepTotals& StepTotals::operator+=(const StepTotals& other) {
  steps += other.steps;
  rows += other.rows;
  draft_steps += other.draft_steps;
  plan_us += other.plan_us;
  target_us += other.target_us;
  draft_us += other.draft_us;
  commit_us += other.commit_us;
  draft_bytes += other.draft_bytes;
  decode_tokens += other.decode_tokens;
  decode_us += other.decode_us;
  return *this;
}

GenerationRun& GenerationRun::operator+=(const GenerationRun& other) {
  seconds += other.seconds;
  tokens += other.tokens;
  scheduler::Add(drafts, other.drafts);
  totals += other.totals;
  return *this;
}

GenerationDriver::GenerationDriver(GenerationEngine engine) : engine_(std::move(engine)) {
  scheduler::SchedulerConfig config = engine_.config;
  config.step_log_size = 1;  // what OnStep is told is looked up after every step
  scheduler_ = std::make_unique<scheduler::Scheduler>(
      config, engine_.limits,
      [this](const engine::StepBatch& batch, engine::StepResult& result) {
        return RunStep(batch, result);
      },
      scheduler::MonotonicNowUs, scheduler::SchedulerObserver{}, engine_.cost);
}

GenerationDriver::~GenerationDriver() = default;

absl::Status GenerationDriver::RunStep(const engine::StepBatch& batch, engine::StepResult& result) {
  step_begin_us_ = NowUs();
  const absl::Status status = engine_.run_step(batch, result);
  step_end_us_ = NowUs();
  if (!status.ok()) return status;
  stepped_ = true;
  ++totals_.steps;
  totals_.rows += static_cast<int64_t>(batch.ids.size());
  totals_.draft_steps += result.draft_steps;
  totals_.draft_us += static_cast<double>(result.draft_us);
  totals_.target_us += step_end_us_ - step_begin_us_ - static_cast<double>(result.draft_us);
  if (OnlyDecodes(batch)) {
    totals_.decode_us += step_end_us_ - step_begin_us_;
    totals_.decode_tokens +=
        std::count_if(result.tokens.begin(), result.tokens.end(),
                      [](const engine::SampledToken& token) { return token.id >= 0; });
  }
  if (engine_.draft_step_bytes) {
    totals_.draft_bytes += DraftBytes(batch, result.draft_steps, engine_.draft_step_bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<GenerationRun> GenerationDriver::Run(std::span<const BenchPrompt> prompts,
                                                    const GenerationTest& test,
                                                    const scheduler::Speculation& speculation,
                                                    const OnStep& on_step) {
  totals_ = {};
  std::vector<Answer> answers(test.prompts.size());
  std::vector<size_t> open;
  size_t next = 0;
  absl::Status status;
  const double begin_s = MonotonicSeconds();
  while (next < answers.size() || !open.empty()) {
    const double turn_us = NowUs();
    while (next < answers.size() && open.size() < static_cast<size_t>(test.streams)) {
      scheduler::Request request;
      request.client_id = "bench";
      request.prompt = prompts[test.prompts[next]].ids;
      request.sampling = engine_.sampling;
      request.sampling.seed = test.first_seed + next;
      request.stop.max_tokens = test.max_tokens;
      request.stop.eos_ids = engine_.eos_ids;
      request.speculation = speculation;
      request.arrival_us = scheduler_->now_us();
      Answer* const answer = &answers[next];
      const absl::StatusOr<scheduler::RequestId> id = scheduler_->Submit(
          std::move(request),
          [answer](const scheduler::TokenEvent& event) { OnEvent(*answer, event); });
      if (!id.ok()) return InPrompt(id.status(), test.prompts[next]);
      open.push_back(next++);
    }
    stepped_ = false;
    scheduler_->RunOnce();
    const double turn_end_us = NowUs();
    if (stepped_) {
      totals_.plan_us += step_begin_us_ - turn_us;
      totals_.commit_us += turn_end_us - step_end_us_;
      if (on_step) {
        for (const scheduler::StepRecord& record : scheduler_->RecentSteps()) on_step(record);
      }
    }
    std::erase_if(open, [&](size_t i) {
      if (answers[i].ended && !answers[i].status.ok() && status.ok()) {
        status = InPrompt(answers[i].status, test.prompts[i]);
      }
      return answers[i].ended;
    });
  }
  GenerationRun run = {.seconds = MonotonicSeconds() - begin_s};
  if (!status.ok()) return status;
  for (Answer& answer : answers) {
    run.tokens += static_cast<int64_t>(answer.ids.size());
    Add(run.drafts, answer.drafts);
    run.answers.push_back(std::move(answer.ids));
  }
  run.totals = totals_;
  return run;
}

}  // namespace tandem::server
