// Random traffic against a simulated clock and device, with drafts of every quality (mtp.md 5.3,
// T15) and prompts that have much in common (turboquant.md 3.7, mtp.md T23): whatever happens,
// outputs are what each request alone, without drafts and without others' rows would give, every
// request ends once, blocks add up at every step, and nothing leaks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "scheduler/plan_step.h"
#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "scheduler/step_log.h"
#include "tests/scheduler/recorder.h"
#include "tests/scheduler/sim_device.h"

namespace tandem::scheduler {
namespace {

// TANDEM_FULL=1 in the environment runs twenty times as many.
int64_t StepsInTotal() {
  const char* full = std::getenv("TANDEM_FULL");
  return full != nullptr && std::string_view(full) != "0" ? 2'000'000 : 100'000;
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int In(int min, int max) { return min + static_cast<int>(engine_() % (max - min + 1)); }
  bool OneIn(int n) { return In(1, n) == 1; }

 private:
  std::mt19937_64 engine_;
};

struct World {
  SchedulerConfig config;
  ModelLimits limits;
  bool roomy = false;                       // the pools hold several of the longest sequences
  int broken_position = -1;                 // logits there are not finite
  int broken_row = -1;                      // K and V there are not finite
  std::vector<std::vector<int32_t>> texts;  // that prompts begin with
  int64_t engine_fails_at_step = -1;
  int drain_at_turn = -1;  // new reservations are refused from then on
  double right = 0;        // of the guesses at the first place; less at later ones
  double right_later = 0;  // at each further place, times this
};

World RandomWorld(Random& random) {
  World world;
  world.config.max_slots = random.In(1, 12);
  world.config.min_chunk_rows = random.In(1, 8);
  world.config.max_step_rows = world.config.max_slots + random.In(8, 40);
  world.config.max_queued_requests = random.In(2, 20);
  world.config.step_target_us = random.In(1000, 6000);
  world.config.priority_point_us = random.In(0, 3000);
  world.config.max_preemptions = random.OneIn(3) ? random.In(0, 3) : 1 << 20;
  world.config.tenant_turn_us = random.OneIn(3) ? 0 : random.In(1, 20'000);
  if (random.OneIn(3)) world.config.max_queued_tokens = random.In(1, 400);
  if (random.OneIn(3)) world.config.max_queued_bytes = random.In(1, 2000);
  if (random.OneIn(3)) world.config.max_queued_per_tenant = random.In(1, 8);
  world.config.reject_hopeless = random.OneIn(2);
  world.limits.vocab_size = 60;
  world.limits.block_tokens = 1 << random.In(1, 3);
  world.limits.window = random.In(2, 24);
  world.limits.max_context = random.In(16, 120);
  const int longest = world.limits.max_context / world.limits.block_tokens + 1;
  world.roomy = random.OneIn(3);
  const int kind = random.In(0, 3);  // both groups, twice as often as one alone
  if (kind != 1)
    world.limits.num_blocks[engine::kFull] = random.In(2, longest * (world.roomy ? 8 : 2));
  if (kind != 2) {
    world.limits.num_blocks[engine::kSliding] =
        random.In(2, SlidingBlocksHeld(world.limits) * (world.roomy ? 8 : 2));
  }
  if (random.OneIn(6)) world.broken_position = random.In(1, world.limits.max_context);
  if (random.OneIn(10)) world.engine_fails_at_step = random.In(1, 300);
  if (random.OneIn(4)) world.drain_at_turn = random.In(100, 400);
  world.config.max_draft_tokens = random.OneIn(5) ? 0 : random.In(1, random.OneIn(4) ? 16 : 4);
  world.config.step_log_size = random.In(1, 3);
  if (random.OneIn(6)) world.config.max_draft_tokens = kMaxDraftTokens;
  world.config.prefix_cache = !random.OneIn(8);
  world.config.prefix_cache_per_tenant = random.OneIn(4);
  if (random.OneIn(12)) world.broken_row = random.In(0, world.limits.max_context);
  world.texts.resize(random.In(1, 4));
  for (std::vector<int32_t>& text : world.texts) {
    // Some have a beginning in common.
    text.assign(world.texts[0].begin(),
                world.texts[0].begin() + random.In(0, static_cast<int>(world.texts[0].size())));
    while (static_cast<int>(text.size()) < world.limits.max_context + 3) {
      text.push_back(random.In(0, world.limits.vocab_size - 1));
    }
  }
  const double rates[] = {0.0, 0.5, 0.8, 0.95, 1.0, 1.0};
  world.right = rates[random.In(0, 5)];
  world.right_later = rates[random.In(1, 5)];
  return world;
}

// Sometimes right, wrong, random, of all lengths, none, or not finite.
engine::Draft RandomDraft(Random& random, const World& world, const GuessQuery& query) {
  engine::Draft draft;
  if (random.OneIn(30)) return draft;
  draft.ids = RightGuesses(query);
  double right = world.right;
  for (int32_t& id : draft.ids) {
    if (random.In(0, 999) >= 1000 * right) id = random.In(0, query.vocab_size - 1);
    right *= world.right_later;
  }
  if (random.OneIn(10)) draft.ids.resize(random.In(0, static_cast<int>(draft.ids.size())));
  draft.finite = !random.OneIn(40);
  return draft;
}

Request RandomRequest(Random& random, const World& world, int64_t now_us) {
  Request request;
  const int max_known = MaxSequenceTokens(world.limits);
  // Mostly prompts that leave room to grow, or blocks would never run out.
  int longest_prompt = random.OneIn(3) ? max_known - 1 : max_known / 6;
  if (random.OneIn(20)) longest_prompt = world.limits.max_context + 3;
  const int prompt_tokens = random.In(1, std::max(1, longest_prompt));
  const auto& text = world.texts[random.In(0, static_cast<int>(world.texts.size()) - 1)];
  const int common = random.OneIn(3) ? random.In(0, prompt_tokens) : prompt_tokens;
  request.prompt.assign(text.begin(), text.begin() + common);
  while (static_cast<int>(request.prompt.size()) < prompt_tokens) {
    request.prompt.push_back(random.In(0, world.limits.vocab_size - 1));
  }
  request.prefix_cache = {.read = !random.OneIn(8),
                          .write = !random.OneIn(8),
                          .salt = std::string(random.OneIn(6) ? 1 : 0, 's')};
  request.stop.max_tokens = random.OneIn(10) ? 0 : random.In(1, 120);
  request.stop.min_tokens = random.OneIn(3) ? random.In(0, request.stop.max_tokens) : 0;
  if (random.OneIn(3)) request.stop.eos_ids = {1};
  if (random.OneIn(3)) request.stop.stop_ids = {random.In(0, 4), 7};
  request.stop.time_limit_us = random.OneIn(12) ? random.In(1, 100'000) : 0;
  request.prompt_logprobs.enabled = request.stop.max_tokens == 0 || random.OneIn(5);
  request.logprobs.enabled = random.OneIn(4);
  request.sampling.repetition_penalty = random.OneIn(4) ? 1.1f : 1.0f;
  request.sampling.seed = random.In(0, 3);
  const Speculation::Mode modes[] = {Speculation::Mode::kOff, Speculation::Mode::kAuto,
                                     Speculation::Mode::kFixed, Speculation::Mode::kFixed};
  request.speculation = {.mode = modes[random.In(0, 3)], .max_draft_tokens = random.In(0, 18)};
  request.n = random.OneIn(5) ? random.In(2, 4) : 1;
  request.priority = random.OneIn(3) ? random.In(-100, 100) : 0;
  request.tenant = std::string(random.In(0, 3), 't');
  request.reject_if_queued = random.OneIn(10);
  request.arrival_us = now_us;
  if (random.OneIn(12)) request.deadline_us = now_us + random.In(0, 150'000);
  if (random.OneIn(12)) request.queue_timeout_us = now_us + random.In(0, 50'000);
  return request;
}

// A request in flight, with what was done to it from outside.
struct Flight {
  explicit Flight(const Request& request) : recorder(request) {}
  RequestId id = 0;
  Recorder recorder;
  bool cancelled = false;
  bool paused = false;
  bool stop_sent = false;
};

// A row that is not finite ends a request where plain decoding would have come to it.
std::string CheckNumericFailure(const Recorder& got, const World& world) {
  if (world.broken_row >= 0) return "";  // nothing of a step counts that has such a row
  if (world.broken_position < 0) return "not broken";
  const Request& request = got.request;
  const auto prompt_tokens = static_cast<int>(request.prompt.size());
  const bool in_prompt = world.broken_position < prompt_tokens;
  if (in_prompt) return request.prompt_logprobs.enabled && got.tokens == 0 ? "" : "not scored";
  if (request.n > 1) return "";
  return got.tokens == world.broken_position - prompt_tokens ? "" : "at a wrong token";
}

// Whether the request may have ended like that.
std::string CheckEnd(const Flight& flight, const World& world) {
  const Recorder& got = flight.recorder;
  const Request& request = got.request;
  const std::string reason = GetReason(got.status).reason;
  switch (got.status.code()) {
    case absl::StatusCode::kOk:
      for (const ChoiceRecord& choice : got.choices) {
        const bool by_text =
            choice.reason == FinishReason::kStopString || choice.reason == FinishReason::kToolCalls;
        if (by_text && !flight.stop_sent) return "nobody stopped it";
        if (choice.reason == FinishReason::kAborted && !flight.cancelled) return "aborted";
        if (choice.reason == FinishReason::kTimeLimit &&
            (request.stop.time_limit_us == 0 || got.stats.total_us < request.stop.time_limit_us)) {
          return "time limit";
        }
      }
      return "";
    case absl::StatusCode::kDeadlineExceeded:
      if (reason == "DEADLINE") {
        return request.arrival_us + got.stats.total_us >= request.deadline_us ? "" : "too early";
      }
      return reason == "QUEUE_TIMEOUT" && got.started == 0 && got.tokens == 0 &&
                     request.arrival_us + got.stats.total_us >= request.queue_timeout_us
                 ? ""
                 : "queue timeout";
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
      return flight.cancelled ? "" : "nobody cancelled it";
    case absl::StatusCode::kUnavailable:
      return flight.cancelled && reason == "SHUTTING_DOWN" ? "" : "not shut down";
    case absl::StatusCode::kResourceExhausted:
      if (reason == "QUEUE_FULL") {
        return request.reject_if_queued && got.started == 0 ? "" : "refused late";
      }
      return reason == "KV_EXHAUSTED" && got.stats.preemptions > world.config.max_preemptions
                 ? ""
                 : "exhausted";
    case absl::StatusCode::kInternal:
      if (reason == "NUMERIC_FAILURE") return CheckNumericFailure(got, world);
      return reason == "ENGINE_FAILURE" && world.engine_fails_at_step >= 0 ? "" : "did not fail";
    default:
      return "unexpected";
  }
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed),
        world_(RandomWorld(random_)),
        device_(world_.config, world_.limits),
        scheduler_(world_.config, world_.limits, device_.AsRunStep(),
                   [this] { return device_.now_us; },
                   {.on_step = [this](const StepTiming& timing) { timing_ = timing; },
                    .on_freed =
                        [this](CancelCause, int64_t us) {
                          EXPECT_GE(us, 0);
                          ++freed_;
                        }}) {
    device_.prompt_row_us = random_.In(10, 400);
    device_.decode_row_us = random_.In(10, 400);
    device_.draft_step_us = random_.In(1, 300);
    device_.broken = [this](int64_t position) { return position == world_.broken_position; };
    if (world_.broken_row >= 0) {
      device_.broken_rows = [this](int64_t position) { return position == world_.broken_row; };
    }
    device_.guess = [this](const GuessQuery& query) { return RandomDraft(random_, world_, query); };
  }

  // Random traffic for some turns, then until everything has ended.
  void Run(int turns) {
    ASSERT_TRUE(Validate(world_.config, world_.limits).ok());
    const int load = random_.In(1, 8);  // one new request in so many turns, on average
    for (int turn = 0; turn < turns; ++turn) {
      if (random_.OneIn(load)) SubmitOne();
      if (random_.OneIn(10)) CancelOne();
      if (random_.OneIn(10)) StopOneChoice();
      if (random_.OneIn(5)) PauseOrResumeOne();
      if (random_.OneIn(10)) AskAboutOne();
      if (random_.OneIn(60)) FlushCache();
      if (turn == world_.drain_at_turn) scheduler_.BeginDrain();
      if (random_.OneIn(20)) device_.now_us += random_.In(0, 20'000);
      Turn();
      if (HasFailure()) return;
    }
    for (const auto& flight : flights_) {
      if (flight->paused) Resume(*flight);
    }
    reservations_.clear();
    // Nobody starves: every step runs at least one row, so the rows still to run, and those that
    // preemption repeats, bound the steps.
    int64_t bound = 1;
    for (const auto& flight : flights_) {
      const Recorder& recorder = flight->recorder;
      bound += recorder.request.n * int64_t{MaxSequenceTokens(world_.limits)} *
               (recorder.finished > 0 ? 0 : 20);
    }
    while (!AllFinished()) {
      ASSERT_GT(bound--, 0) << "requests do not end";
      Turn();
      if (HasFailure()) return;
    }
    CheckAll();
  }

  int64_t steps() const { return device_.steps; }
  int64_t copied_blocks() const { return device_.copied_blocks; }
  SchedulerStats stats() const { return scheduler_.stats(); }

 private:
  bool HasFailure() const { return testing::Test::HasFailure(); }

  // Sometimes the place in the queue is taken long before, and with a wrong estimate.
  Reservation SomeReservation(const Request& request) {
    if (random_.OneIn(2)) {
      absl::StatusOr<Reservation> reservation =
          scheduler_.Reserve({.tenant = request.tenant,
                              .prompt_tokens = random_.In(0, 200),
                              .bytes = random_.In(0, 500),
                              .deadline_us = request.deadline_us});
      if (reservation.ok()) reservations_.push_back(*std::move(reservation));
    }
    if (reservations_.empty() || random_.OneIn(3)) return {};
    const int at = random_.In(0, static_cast<int>(reservations_.size()) - 1);
    Reservation reservation = std::move(reservations_[at]);
    reservations_.erase(reservations_.begin() + at);
    if (random_.OneIn(10)) return {};  // its client went away
    return reservation;
  }

  void SubmitOne() {
    Request random_request = RandomRequest(random_, world_, device_.now_us);
    if (random_.OneIn(6)) GoOn(random_request);
    auto flight = std::make_unique<Flight>(random_request);
    const Request& request = flight->recorder.request;
    Reservation reservation = SomeReservation(request);
    const bool reserved = reservation.held();
    const absl::StatusOr<RequestId> id =
        scheduler_.Submit(request, flight->recorder.Sink(), std::move(reservation));
    if (!id.ok()) {
      EXPECT_EQ(CheckRefusal(request, reserved, id.status()), "") << id.status();
      EXPECT_EQ(flight->recorder.started, 0);
      return;
    }
    flight->id = *id;
    flight->recorder.steps = &device_.steps;
    flights_.push_back(std::move(flight));
  }

  // Whether Submit may refuse the request like that.
  std::string CheckRefusal(const Request& request, bool reserved, const absl::Status& status) {
    const std::string reason = GetReason(status).reason;
    const SchedulerStats stats = scheduler_.stats();
    if (static_cast<int>(request.prompt.size()) >= MaxSequenceTokens(world_.limits)) {
      return reason == "PROMPT_TOO_LONG" || reason == "EXCEEDS_KV_CAPACITY" ? "" : "not too long";
    }
    if (reason == "ENGINE_DOWN") return stats.engine_down ? "" : "the engine runs";
    if (reason == "DRAINING") return stats.draining && !reserved ? "" : "not draining";
    if (reason == "QUEUE_FULL" || reason == "TENANT_LIMIT") {
      return !reserved && stats.queued_requests > 0 ? "" : "it had a place";
    }
    if (reason == "DEADLINE") return device_.now_us >= request.deadline_us ? "" : "too early";
    return reason == "DEADLINE_UNATTAINABLE" && world_.config.reject_hopeless &&
                   stats.prompt_tokens_per_s > 0
               ? ""
               : "unexpected";
  }

  Flight* AnyFlight() {
    if (flights_.empty()) return nullptr;
    // Mostly a recent one: the old ones have ended, which must be harmless too.
    const int size = static_cast<int>(flights_.size());
    return flights_[random_.In(std::max(0, size - 12), size - 1)].get();
  }

  void CancelOne() {
    Flight* flight = AnyFlight();
    if (flight == nullptr) return;
    const CancelCause causes[] = {CancelCause::kClientGone, CancelCause::kAborted,
                                  CancelCause::kDrain, CancelCause::kSlowConsumer};
    scheduler_.Cancel(flight->id, causes[random_.In(0, 3)]);
    flight->cancelled = true;
  }

  void Resume(Flight& flight) {
    scheduler_.Resume(flight.id);
    flight.paused = false;
  }

  void PauseOrResumeOne() {
    Flight* flight = AnyFlight();
    if (flight == nullptr) return;
    if (random_.OneIn(2)) {
      Resume(*flight);
    } else {
      scheduler_.Pause(flight->id);
      flight->paused = true;
    }
  }

  // What is told fits what the client was sent until then.
  void AskAboutOne() {
    Flight* flight = AnyFlight();
    if (flight == nullptr) return;
    ++asked_;
    scheduler_.Describe(flight->id, [this, flight](std::optional<RequestView> view) {
      ++answered_;
      const Recorder& recorder = flight->recorder;
      EXPECT_EQ(view.has_value(), recorder.finished == 0);
      if (!view.has_value()) return;
      EXPECT_EQ(view->prompt_tokens, static_cast<int>(recorder.request.prompt.size()));
      EXPECT_EQ(view->completion_tokens, recorder.tokens);
      EXPECT_GE(view->queue_position, 0);
      EXPECT_LT(view->queue_position, static_cast<int>(flights_.size()));
      EXPECT_GE(view->eta_first_token_s, 0);
      using State = RequestView::State;
      EXPECT_TRUE(view->state != State::kQueued || recorder.started == 0);
      EXPECT_TRUE(view->state != State::kPreempted || recorder.started == 1);
      EXPECT_TRUE(view->state != State::kDecode || recorder.tokens > 0);
      EXPECT_TRUE(recorder.tokens == 0 || view->eta_first_token_s == 0);
    });
  }

  void FlushCache() {
    ++asked_;
    scheduler_.FlushPrefixCache([this](int64_t freed) {
      ++answered_;
      EXPECT_GE(freed, 0);
    });
  }

  // A conversation goes on: what was sent becomes part of the prompt.
  void GoOn(Request& request) {
    const Flight* flight = AnyFlight();
    if (flight == nullptr) return;
    const Recorder& before = flight->recorder;
    request.prompt = before.request.prompt;
    const std::vector<int32_t>& sent = before.choices[0].ids;
    request.prompt.insert(request.prompt.end(), sent.begin(), sent.end());
    const auto longest = static_cast<size_t>(MaxSequenceTokens(world_.limits) - 1);
    if (request.prompt.size() > longest) request.prompt.resize(longest);
  }

  void StopOneChoice() {
    Flight* flight = AnyFlight();
    if (flight == nullptr) return;
    const FinishReason reason =
        random_.OneIn(2) ? FinishReason::kStopString : FinishReason::kToolCalls;
    scheduler_.StopChoice(flight->id, random_.In(-1, flight->recorder.request.n), reason);
    flight->stop_sent = true;
  }

  void Turn() {
    const int64_t now_us = device_.now_us;
    const bool any_can_run = AnyCanRun();
    if (device_.steps + 1 == world_.engine_fails_at_step) {
      device_.next_status = absl::InternalError("lost");
    }
    const bool ran = scheduler_.RunOnce();
    ASSERT_TRUE(device_.errors.empty()) << absl::StrJoin(device_.errors, "\n");
    for (const auto& flight : flights_) {
      const Recorder& recorder = flight->recorder;
      // Deadlines and limits are kept at the boundary where they are first seen.
      if (recorder.finished == 0 && now_us >= recorder.request.deadline_us) {
        ADD_FAILURE() << "a deadline was missed";
      }
    }
    if (ran && !scheduler_.stats().engine_down) CheckStep();
    EXPECT_EQ(answered_, asked_);
    EXPECT_TRUE(any_can_run || !ran) << "a paused request runs";
    if (!ran && AnyCanRun()) {
      // Only possible when everybody who was to run failed for being preempted too often.
      EXPECT_LT(world_.config.max_preemptions, 4) << "requests wait but nothing runs";
    }
  }

  // The last step: what was between it and the one before, and that it can be replayed.
  void CheckStep() {
    const std::vector<StepRecord> records = scheduler_.RecentSteps();
    const StepRecord& record = records.back();
    EXPECT_TRUE(PlanStep(record.input) == record.plan) << "step " << record.step;
    const ModelLimits& limits = world_.limits;
    std::array<int64_t, engine::kNumKvGroups> held = {};
    for (const SeqState& state : record.input.seated) {
      const int blocks = (state.kv_tokens + limits.block_tokens - 1) / limits.block_tokens;
      const int below = std::max(0, state.kv_tokens - limits.window) / limits.block_tokens;
      // What was taken over at a block's end holds nothing for a drafter yet.
      const int taken_below =
          std::max(0, state.kv_tokens - limits.window + 1) / limits.block_tokens;
      for (int g = 0; g < engine::kNumKvGroups; ++g) {
        const bool exists = limits.num_blocks[g] > 0;
        EXPECT_EQ(state.blocks[g].table, exists ? blocks : 0);
        const int all = !exists ? 0 : blocks - (g == engine::kSliding ? below : 0);
        if (!exists || g != engine::kSliding || state.blocks[g].held != blocks - taken_below ||
            state.kv_tokens % limits.block_tokens != 0) {
          EXPECT_EQ(state.blocks[g].held, all);
        }
        held[g] += state.blocks[g].held;
      }
      EXPECT_TRUE(state.drafts == 0 || state.decoding());
    }
    for (const SharedBlocks& shared : record.input.shared) {
      const auto holders = static_cast<int64_t>(shared.holders.size());
      EXPECT_GT(shared.blocks, 0);
      EXPECT_TRUE(holders > 1 || !shared.takers.empty());
      if (holders > 1) held[shared.group] -= (holders - 1) * shared.blocks;
    }
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      EXPECT_EQ(record.input.free_blocks[g] + held[g], limits.num_blocks[g]);
    }
    // Nobody's row, seat or block went to a guess.
    PlanInput plain = record.input;
    plain.config.max_draft_tokens = 0;
    for (SeqState& state : plain.seated) state.drafts = 0;
    const StepPlan without = PlanStep(plain);
    EXPECT_EQ(without.preempt, record.plan.preempt);
    EXPECT_EQ(without.make_room, record.plan.make_room);
    EXPECT_EQ(without.decode.size(), record.plan.decode.size());
    for (size_t i = 0; i < without.decode.size(); ++i) {
      EXPECT_EQ(without.decode[i].seq, record.plan.decode[i].seq);
    }
    int drafts = 0;
    for (const SeqRows& rows : record.plan.decode) drafts += rows.drafts;
    EXPECT_LE(timing_.draft_rows, drafts);  // fewer when a request of theirs failed right then
    EXPECT_LE(timing_.accepted_rows, timing_.draft_rows);
    EXPECT_EQ(timing_.rows, timing_.prompt_rows + timing_.decode_rows);
    EXPECT_EQ(timing_.draft_us, timing_.draft_steps * device_.draft_step_us);
  }

  // As far as is known before a turn.
  bool AnyCanRun() const {
    return std::any_of(flights_.begin(), flights_.end(), [](const auto& flight) {
      return flight->recorder.finished == 0 && !flight->paused;
    });
  }

  bool AllFinished() const {
    return std::all_of(flights_.begin(), flights_.end(),
                       [](const auto& flight) { return flight->recorder.finished > 0; });
  }

  void CheckAll() {
    for (const auto& flight : flights_) {
      const Recorder& recorder = flight->recorder;
      EXPECT_EQ(recorder.finished, 1);
      EXPECT_THAT(recorder.errors, testing::IsEmpty());
      EXPECT_EQ(recorder.CheckAgainstExpected(world_.limits), "");
      EXPECT_EQ(CheckEnd(*flight, world_), "") << recorder.status;
      const bool may_read = world_.config.prefix_cache && recorder.request.prefix_cache.read;
      EXPECT_GE(recorder.stats.cached_prompt_tokens, 0);
      EXPECT_LT(recorder.stats.cached_prompt_tokens,
                may_read ? static_cast<int>(recorder.request.prompt.size()) : 1);
    }
    const SchedulerStats stats = scheduler_.stats();
    ExpectNothingHeld(stats);
    int cancelled = 0;
    for (const auto& flight : flights_) cancelled += flight->cancelled;
    EXPECT_LE(freed_, cancelled);
    EXPECT_EQ(stats.steps_total, device_.steps - (stats.engine_down ? 1 : 0));
    // Every guess was counted once, but for those of steps in which their requests failed.
    EXPECT_LE(stats.drafts.drafted + stats.drafts.discarded, device_.guessed);
    if (world_.broken_position < 0 && world_.broken_row < 0 && !stats.engine_down) {
      EXPECT_EQ(stats.drafts.drafted + stats.drafts.discarded, device_.guessed);
    }
    DraftCounts sum;
    for (const auto& flight : flights_) Add(sum, flight->recorder.stats.drafts);
    EXPECT_EQ(sum.rounds, stats.drafts.rounds);
    EXPECT_EQ(sum.drafted, stats.drafts.drafted);
    EXPECT_EQ(sum.accepted, stats.drafts.accepted);
    EXPECT_EQ(sum.discarded, stats.drafts.discarded);
    EXPECT_EQ(sum.failed, stats.drafts.failed);
  }

  Random random_;
  World world_;
  SimDevice device_;
  std::vector<std::unique_ptr<Flight>> flights_;
  std::vector<Reservation> reservations_;
  int asked_ = 0, answered_ = 0;  // Describe
  int freed_ = 0;
  StepTiming timing_;
  Scheduler scheduler_;
};

TEST(SimulationTest, WhateverHappensOutputsAreRightEveryRequestEndsOnceAndNothingLeaks) {
  const int64_t steps_in_total = StepsInTotal();
  int64_t steps = 0;
  SchedulerStats sum;
  int64_t exhausted = 0, internal = 0, copied_blocks = 0;
  uint64_t seed = 1;
  for (; steps < steps_in_total && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(seed);
    simulation.Run(/*turns=*/400);
    steps += simulation.steps();
    const SchedulerStats stats = simulation.stats();
    sum.preemptions_total += stats.preemptions_total;
    sum.recomputed_tokens_total += stats.recomputed_tokens_total;
    sum.prefix_query_tokens_total += stats.prefix_query_tokens_total;
    sum.prefix_hit_tokens_total += stats.prefix_hit_tokens_total;
    sum.prefix_evicted_blocks_total += stats.prefix_evicted_blocks_total;
    copied_blocks += simulation.copied_blocks();
    Add(sum.drafts, stats.drafts);
    for (int i = 0; i < kNumFinishReasons; ++i) {
      sum.choices_finished_total[i] += stats.choices_finished_total[i];
    }
    const auto ended_with = [&](absl::StatusCode code) {
      return stats.requests_finished_total[static_cast<int>(code)];
    };
    exhausted += ended_with(absl::StatusCode::kResourceExhausted);
    internal += ended_with(absl::StatusCode::kInternal);
  }
  // And the traffic was of the kind that this test is about.
  EXPECT_GT(sum.preemptions_total, steps_in_total / 100);
  EXPECT_GT(sum.recomputed_tokens_total, 0);
  EXPECT_GT(sum.prefix_hit_tokens_total, sum.prefix_query_tokens_total / 10);
  EXPECT_GT(sum.prefix_query_tokens_total, sum.prefix_hit_tokens_total);
  EXPECT_GT(sum.prefix_evicted_blocks_total, steps_in_total / 100);
  EXPECT_GT(copied_blocks, steps_in_total / 100);
  EXPECT_GT(sum.drafts.accepted, steps_in_total / 20);
  EXPECT_GT(sum.drafts.drafted - sum.drafts.accepted, steps_in_total / 20);
  EXPECT_GT(sum.drafts.discarded, steps_in_total / 100);
  EXPECT_GT(sum.drafts.failed, 0);
  EXPECT_GT(sum.drafts.accepted_at[kMaxDraftTokens - 1], 0);
  EXPECT_GT(exhausted, 0);
  EXPECT_GT(internal, 0);
  for (int i = 0; i < kNumFinishReasons; ++i) {
    EXPECT_GT(sum.choices_finished_total[i], 0) << "finish reason " << i;
  }
  RecordProperty("worlds", static_cast<int>(seed - 1));
}

// Small requests of several tenants on a machine with room for their blocks.
struct Crowd {
  explicit Crowd(uint64_t seed) : random(seed) {
    config.max_slots = random.In(2, 8);
    config.max_step_rows = config.max_slots + random.In(8, 40);
    config.min_chunk_rows = 8;
    config.max_queued_requests = 1000;
    config.tenant_turn_us = 10'000'000;
    limits = {.vocab_size = 60, .max_context = 100, .block_tokens = 8, .num_blocks = {0, 300}};
    device.emplace(config, limits);
    scheduler.emplace(config, limits, device->AsRunStep(), [this] { return device->now_us; });
  }

  Recorder& Submit(const std::string& tenant) {
    Request request;
    request.prompt.resize(random.In(1, 40), 5);
    request.stop.max_tokens = random.In(1, 40);
    request.tenant = tenant;
    request.arrival_us = device->now_us;
    recorders.push_back(std::make_unique<Recorder>(request));
    EXPECT_TRUE(scheduler->Submit(request, recorders.back()->Sink()).ok());
    return *recorders.back();
  }

  Random random;
  SchedulerConfig config;
  ModelLimits limits;
  std::optional<SimDevice> device;
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::optional<Scheduler> scheduler;
};

TEST(CrowdTest, WhoeverComesFirstTimeStartsWithinTwoStepsOfAnyFlood) {
  for (uint64_t seed = 1; seed <= 60 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    // Given a tenant that keeps 100 requests waiting.
    Crowd crowd(seed);
    for (int turn = 0; turn < 300; ++turn) {
      while (crowd.scheduler->stats().queued_requests < 100) crowd.Submit("flood");
      crowd.scheduler->RunOnce();
      if (turn < 5 || turn % 10 != 0) continue;
      // When a newcomer's request comes, now and then.
      Recorder& newcomer = crowd.Submit("newcomer");
      crowd.scheduler->RunOnce();
      crowd.scheduler->RunOnce();
      EXPECT_EQ(newcomer.started, 1) << "turn " << turn;
      while (newcomer.finished == 0) ASSERT_TRUE(crowd.scheduler->RunOnce());
    }
    // Then the flood was served all the same, and nothing is left when it ends.
    EXPECT_GT(crowd.recorders[5]->finished, 0);
    while (crowd.scheduler->RunOnce()) {
    }
    for (const auto& recorder : crowd.recorders) {
      EXPECT_TRUE(recorder->finished == 1 && recorder->status.ok());
    }
    EXPECT_EQ(crowd.scheduler->stats().queued_requests, 0);
    EXPECT_EQ(crowd.scheduler->stats().blocks_used[engine::kFull], 0);
    EXPECT_THAT(crowd.device->errors, testing::IsEmpty());
  }
}

TEST(CrowdTest, AnEndlessStreamOfNewTenantsStarvesNobody) {
  for (uint64_t seed = 1; seed <= 60 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    // Given a tenant with twenty requests, and more newcomers than can be served, where a turn is
    // worth 5 ms.
    Crowd crowd(seed);
    crowd.config.tenant_turn_us = 5000;
    crowd.scheduler.emplace(crowd.config, crowd.limits, crowd.device->AsRunStep(),
                            [&] { return crowd.device->now_us; });
    for (int i = 0; i < 20; ++i) crowd.Submit("old");
    int newcomers = 0;
    const auto old_ended = [&] {
      return std::all_of(crowd.recorders.begin(), crowd.recorders.begin() + 20,
                         [](const auto& recorder) { return recorder->finished == 1; });
    };
    int turn = 0;
    for (; turn < 3000 && !old_ended(); ++turn) {
      if (crowd.scheduler->stats().queued_requests < 500) {
        crowd.Submit(absl::StrCat("newcomer ", ++newcomers));
      }
      crowd.scheduler->RunOnce();
    }
    // Then its requests have all ended after some time, while newcomers still wait.
    EXPECT_LT(turn, 3000);
    EXPECT_GT(crowd.scheduler->stats().queued_requests, 0);
  }
}

}  // namespace
}  // namespace tandem::scheduler
