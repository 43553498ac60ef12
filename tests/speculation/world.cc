#include "tests/speculation/world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/scheduler.h"
#include "tests/engine/kv_rows.h"
#include "tests/speculation/plain_text.h"
#include "tests/speculation/tiny_model.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using scheduler::Request;
using scheduler::Speculation;
using scheduler::TokenEvent;

std::string DemoDir() { return std::string(TANDEM_SOURCE_DIR) + "/models/demo"; }

EngineRig MakeRig(const StageModel& model) {
  RigConfig config = {.threads = 1, .blocks = 64, .max_step_rows = 160};
  SetNumbers(config, model.numbers);
  const std::string name = model.name;
  if (name == "demo") return EngineRig(DemoDir(), config);
  if (name == "tiny") return TinyRig({.vocab = 64, .layers = 3, .window = 5}, 3, config);
  if (name == "tiny-shared") {
    return TinyRig({.vocab = 300, .layers = 4, .shared = 2, .window = 17}, 4, config);
  }
  return EngineRig(GoldenDir(name) + "/target", config);
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int In(int min, int max) { return min + static_cast<int>(engine_() % (max - min + 1)); }
  bool OneIn(int n) { return In(1, n) == 1; }
  float Between(float min, float max) {
    return min + (max - min) * static_cast<float>(In(0, 1000)) / 1000.0f;
  }

 private:
  std::mt19937_64 engine_;
};

// A request in flight: what it has to say, and what came.
struct Flight {
  Request request;
  std::vector<PlainChoice> plain;                          // by choice
  std::vector<engine::SampledToken> plain_scores, scores;  // of the prompt
  scheduler::RequestId id = 0;
  std::vector<std::vector<engine::SampledToken>> tokens;  // by choice
  std::vector<scheduler::FinishReason> reasons;
  std::vector<int32_t> stop_ids;
  std::string error;  // broken contract
  bool cancelled = false;
  bool paused = false;
  bool ended = false;
  absl::Status status;
  scheduler::RequestStats stats;

  void On(const TokenEvent& event) {
    switch (event.kind) {
      case TokenEvent::Kind::kTokens:
        tokens[event.choice].insert(tokens[event.choice].end(), event.tokens.begin(),
                                    event.tokens.end());
        if (event.accepted > event.drafted ||
            event.accepted > static_cast<int>(event.tokens.size())) {
          error = absl::StrCat("an event of ", event.tokens.size(), " tokens tells of ",
                               event.accepted, " accepted of ", event.drafted);
        }
        break;
      case TokenEvent::Kind::kPromptLogprobs:
        scores.insert(scores.end(), event.tokens.begin(), event.tokens.end());
        break;
      case TokenEvent::Kind::kChoiceFinished:
        reasons[event.choice] = event.reason;
        stop_ids[event.choice] = event.stop_id;
        break;
      case TokenEvent::Kind::kFinished:
        if (ended) error = "ended twice";
        ended = true;
        status = event.status;
        stats = event.stats;
        break;
      default:
        break;
    }
  }
};

class World {
 public:
  World(Stage& stage, uint64_t seed, const WorldOptions& options)
      : stage_(stage), random_(seed), options_(options) {
    const RigConfig& rig = stage.rig.config;
    guess_ = options.guess.value_or(kAllGuesses[random_.In(0, std::size(kAllGuesses) - 1)]);
    const bool any = !options.guess.has_value();
    if (any && stage.assistant != nullptr && random_.OneIn(3)) guess_ = Guess::kAssistant;
    // At times hardly room for one, so that sequences are preempted and drafts go without blocks.
    tight_ = !options.undisturbed && random_.OneIn(2);
    config_.max_slots = random_.In(tight_ ? 4 : 1, 8);
    config_.min_chunk_rows = random_.In(1, 8);
    config_.max_step_rows = config_.max_slots + random_.In(8, 100);
    config_.max_queued_requests = 64;
    config_.step_target_us = random_.In(2000, 50'000);
    config_.max_preemptions = 1 << 20;
    config_.max_draft_tokens = random_.OneIn(4) ? random_.In(9, 16) : random_.In(1, 8);
    limits_.vocab_size = stage.rig.model.config.vocab;
    limits_.max_context = random_.OneIn(4) ? random_.In(12, 60) : 400;
    limits_.window = stage.rig.model.config.sliding_window;
    limits_.block_tokens = rig.block_tokens;
    limits_.num_blocks = {tight_ ? random_.In(4, 9) : rig.blocks,
                          tight_ ? random_.In(4, 9) : rig.blocks};
    limits_.kv_formats = stage.numbers;
    if (options.prefixes) {
      limits_.max_context = 400;
      apart_ = random_.OneIn(3) ? 3 : random_.In(4, 30);
      if (random_.OneIn(4)) config_.max_draft_tokens = 0;
      // Room for one and the half of another, or for all and what they leave behind.
      if (tight_) limits_.num_blocks = {random_.In(8, 14), random_.In(8, 14)};
      for (int i = 0; i < 3; ++i) trunks_.push_back(RandomIds(random_.In(20, 110)));
    }
    row_us_ = random_.In(20, 400);
    draft_us_ = random_.OneIn(3) ? 5000 : random_.In(1, 200);
    stage.propose = guess_ == Guess::kAssistant
                        ? stage.assistant->AsPropose()
                        : MakeProposer(guess_, stage.script, limits_.vocab_size, seed);
  }

  // `requests` of them, at random times.
  void Run(int requests) {
    ASSERT_TRUE(scheduler::Validate(config_, limits_).ok())
        << scheduler::Validate(config_, limits_);
    for (int i = 0; i < requests; ++i) flights_.push_back(NewFlight());
    scheduler::Scheduler scheduler(
        config_, limits_,
        [this](const engine::StepBatch& batch, engine::StepResult& result) {
          const absl::Status status = stage_.runner->Run(batch, result);
          result.draft_us = result.draft_steps * draft_us_;
          now_us_ += 1000 + row_us_ * static_cast<int64_t>(batch.ids.size()) + result.draft_us;
          return status;
        },
        [this] { return now_us_; });
    size_t arrived = 0;
    for (int turn = 0; turn < 100'000; ++turn) {
      while (arrived < flights_.size() && (turn == 0 || random_.OneIn(apart_))) {
        Flight& flight = *flights_[arrived++];
        flight.request.arrival_us = now_us_;
        const auto id =
            scheduler.Submit(flight.request, [&flight](TokenEvent event) { flight.On(event); });
        ASSERT_TRUE(id.ok()) << id.status();
        flight.id = *id;
      }
      if (!options_.undisturbed && random_.OneIn(60)) {
        Flight& flight = *flights_[random_.In(0, static_cast<int>(arrived) - 1)];
        flight.cancelled = true;
        scheduler.Cancel(flight.id, scheduler::CancelCause::kClientGone);
      }
      if (!options_.undisturbed && random_.OneIn(10)) {
        Flight& flight = *flights_[random_.In(0, static_cast<int>(arrived) - 1)];
        flight.paused = !flight.paused;
        flight.paused ? scheduler.Pause(flight.id) : scheduler.Resume(flight.id);
      }
      const bool ran = scheduler.RunOnce();
      now_us_ += 10;
      if (ran || arrived < flights_.size()) continue;
      bool resumed = false;
      for (const auto& flight : flights_) {
        if (!std::exchange(flight->paused, false)) continue;
        scheduler.Resume(flight->id);
        resumed = true;
      }
      if (!resumed) break;
    }
    const scheduler::SchedulerStats stats = scheduler.stats();
    EXPECT_EQ(stats.blocks_used[kSliding], 0);
    EXPECT_EQ(stats.blocks_used[kFull], 0);
    EXPECT_EQ(stats.running + stats.waiting, 0);
    Totals mine;
    for (const auto& flight : flights_) {
      Check(*flight);
      mine.Add(flight->request, flight->stats);
    }
    if (guess_ == Guess::kOracle) {
      EXPECT_EQ(mine.accepted, mine.drafted) << Describe();
    }
    if (guess_ == Guess::kWrong) {
      EXPECT_EQ(mine.accepted, 0) << Describe();
    }
    if (guess_ == Guess::kNotFinite) {
      EXPECT_EQ(mine.drafted, 0) << Describe();
    }
    for (const auto& flight : flights_) stage_.totals.Add(flight->request, flight->stats);
    stage_.totals.evicted_blocks += stats.prefix_evicted_blocks_total;
  }

 private:
  std::string Describe() const {
    return absl::StrCat(GuessName(guess_), " slots ", config_.max_slots, " rows ",
                        config_.max_step_rows, " drafts ", config_.max_draft_tokens, " blocks ",
                        limits_.num_blocks[0], "/", limits_.num_blocks[1]);
  }

  engine::SamplingParams RandomSampling() {
    engine::SamplingParams p;
    const int vocab = limits_.vocab_size;
    p.seed = stage_.next_seed++;
    p.temperature = random_.OneIn(2) ? 0.0f : random_.Between(0.2f, 1.5f);
    if (options_.temperature.has_value()) p.temperature = *options_.temperature;
    if (random_.OneIn(3)) p.top_k = random_.In(1, 40);
    if (random_.OneIn(3)) p.top_p = random_.Between(0.3f, 0.99f);
    if (random_.OneIn(5)) p.min_p = random_.Between(0.01f, 0.3f);
    if (options_.penalties || random_.OneIn(4)) p.repetition_penalty = random_.Between(0.7f, 1.6f);
    if (options_.penalties || random_.OneIn(5)) p.frequency_penalty = random_.Between(-1.0f, 2.0f);
    if (options_.penalties || random_.OneIn(5)) p.presence_penalty = random_.Between(-1.0f, 2.0f);
    if (random_.OneIn(5)) {
      for (int i = 0; i < 20; ++i) {
        const float bias = random_.OneIn(4) ? -100.0f : random_.Between(-8.0f, 8.0f);
        p.logit_bias.push_back({random_.In(0, vocab - 1), bias});
      }
    }
    if (random_.OneIn(6)) {
      for (int i = 0; i < vocab / 4; ++i) p.banned.push_back(random_.In(0, vocab - 1));
    }
    if (random_.OneIn(8)) {
      for (int i = 0; i < vocab / 2; ++i) p.allowed.push_back(random_.In(0, vocab - 1));
    } else if (options_.penalties && random_.OneIn(2)) {
      // So few that they come again and again, within a draft too.
      for (int i = 0; i < 4; ++i) p.allowed.push_back(random_.In(0, vocab - 1));
    }
    return p;
  }

  std::vector<int32_t> RandomIds(int count) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = random_.In(0, limits_.vocab_size - 1);
    return ids;
  }

  // A part of a trunk and an end of its own; at times all that an earlier request was asked, with
  // what it said behind it or not.
  std::vector<int32_t> SharingPrompt(int longest) {
    std::vector<int32_t> prompt;
    if (!flights_.empty() && random_.OneIn(2)) {
      const Flight& earlier = *flights_[random_.In(0, static_cast<int>(flights_.size()) - 1)];
      prompt = earlier.request.prompt;
      if (random_.OneIn(2)) {
        const std::vector<int32_t> said = earlier.plain[0].ids();
        prompt.insert(prompt.end(), said.begin(), said.end());
      }
    } else {
      prompt = trunks_[random_.In(0, static_cast<int>(trunks_.size()) - 1)];
      if (random_.OneIn(2)) prompt.resize(random_.In(1, static_cast<int>(prompt.size())));
    }
    if (!random_.OneIn(3)) {
      const std::vector<int32_t> end = RandomIds(random_.In(1, 20));
      prompt.insert(prompt.end(), end.begin(), end.end());
    }
    if (static_cast<int>(prompt.size()) > longest) prompt.resize(longest);
    return prompt;
  }

  std::unique_ptr<Flight> NewFlight() {
    auto flight = std::make_unique<Flight>();
    Request& request = flight->request;
    const int max_known = scheduler::MaxSequenceTokens(limits_);
    const int longest = std::min(max_known - 1, random_.OneIn(4) ? 70 : 12);
    request.prompt = options_.prefixes ? SharingPrompt(std::min(max_known - 1, 150))
                                       : RandomIds(random_.In(1, longest));
    if (options_.prefixes) {
      request.prefix_cache.read = !random_.OneIn(10);
      request.prefix_cache.write = !random_.OneIn(10);
      if (random_.OneIn(8)) request.prefix_cache.salt = "another";
      if (random_.OneIn(4)) request.prompt_logprobs = {.enabled = true, .top = random_.In(0, 3)};
    }
    request.sampling = RandomSampling();
    request.n = random_.OneIn(options_.prefixes ? 4 : 6) ? random_.In(2, 3) : 1;
    request.stop.max_tokens = random_.In(1, tight_ ? 50 : 24);
    request.logprobs.enabled = options_.logprobs || random_.OneIn(3);
    if (request.logprobs.enabled) {
      request.logprobs.top = options_.logprobs ? 5 : random_.In(0, 6);
      request.logprobs.processed = random_.OneIn(3);
    }
    request.speculation.mode = options_.undisturbed || random_.OneIn(2) ? Speculation::Mode::kFixed
                               : random_.OneIn(6)                       ? Speculation::Mode::kOff
                                                                        : Speculation::Mode::kAuto;
    if (random_.OneIn(3)) request.speculation.max_draft_tokens = random_.In(0, 16);
    if (request.prompt_logprobs.enabled) flight->plain_scores = ScoreAlone(stage_.rig, request);
    const auto speak = [&] {
      flight->plain.clear();
      for (int c = 0; c < request.n; ++c) {
        flight->plain.push_back(SpeakAlone(stage_.rig, request, c, max_known));
      }
    };
    speak();
    // Stops that do come up: ids that it says, within its runs.
    if (options_.stops && random_.OneIn(2)) {
      const std::vector<int32_t> said = flight->plain[0].ids();
      for (int i = 0; i < 2 && !said.empty(); ++i) {
        auto& ids = random_.OneIn(2) ? request.stop.stop_ids : request.stop.eos_ids;
        ids.push_back(said[random_.In(0, static_cast<int>(said.size()) - 1)]);
      }
      if (random_.OneIn(2)) request.stop.min_tokens = random_.In(0, request.stop.max_tokens);
      speak();
    }
    for (int c = 0; c < request.n; ++c) {
      (*stage_.script)[{request.sampling.seed, c}] = flight->plain[c].ids();
    }
    flight->tokens.resize(request.n);
    flight->reasons.resize(request.n);
    flight->stop_ids.resize(request.n, -1);
    return flight;
  }

  void Check(const Flight& flight) {
    SCOPED_TRACE(absl::StrCat(Describe(), ", seed ", flight.request.sampling.seed));
    EXPECT_EQ(flight.error, "");
    EXPECT_TRUE(flight.ended);
    const bool finite = std::all_of(flight.plain.begin(), flight.plain.end(),
                                    [](const PlainChoice& c) { return c.finite; });
    if (!flight.cancelled) {
      EXPECT_EQ(flight.status.ok(), finite) << flight.status;
    }
    int64_t emitted = 0;
    for (int c = 0; c < flight.request.n; ++c) {
      const std::vector<engine::SampledToken>& got = flight.tokens[c];
      const std::vector<engine::SampledToken>& want = flight.plain[c].tokens;
      emitted += static_cast<int64_t>(got.size());
      if (flight.cancelled || !finite) {
        EXPECT_LE(got.size(), want.size());
      } else {
        EXPECT_EQ(got.size(), want.size());
        EXPECT_EQ(flight.reasons[c], flight.plain[c].reason);
        EXPECT_EQ(flight.stop_ids[c], flight.plain[c].stop_id);
      }
      for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
        EXPECT_EQ(got[i].id, want[i].id) << "choice " << c << " token " << i;
        EXPECT_TRUE(SameToken(got[i], want[i])) << "choice " << c << " token " << i;
      }
    }
    if (!flight.cancelled) {
      EXPECT_TRUE(std::equal(flight.scores.begin(), flight.scores.end(),
                             flight.plain_scores.begin(), flight.plain_scores.end(), SameToken));
    }
    EXPECT_EQ(flight.stats.completion_tokens, emitted);
    EXPECT_LE(flight.stats.drafts.accepted, flight.stats.drafts.drafted);
    // The row of the last token always runs, and so do those of scores.
    const int cached = flight.stats.cached_prompt_tokens;
    const bool none = !flight.request.prefix_cache.read || flight.request.prompt_logprobs.enabled;
    EXPECT_LE(cached, none ? 0 : static_cast<int>(flight.request.prompt.size()) - 1);
  }

  Stage& stage_;
  Random random_;
  const WorldOptions options_;
  Guess guess_;
  bool tight_ = false;
  scheduler::SchedulerConfig config_;
  scheduler::ModelLimits limits_;
  int apart_ = 3;  // turns between requests that arrive
  int64_t row_us_ = 0;
  int64_t draft_us_ = 0;
  int64_t now_us_ = 1;
  std::vector<std::vector<int32_t>> trunks_;  // with which prompts begin
  std::vector<std::unique_ptr<Flight>> flights_;
};

}  // namespace

bool FullCount() {
  const char* full = std::getenv("TANDEM_FULL");
  return full != nullptr && std::string(full) != "0";
}

std::string StageName(const StageModel& model) {
  return TestName(model.name) + "_" + FormatsTestName(model.numbers);
}

Stage::Stage(const StageModel& model)
    : rig(MakeRig(model)), numbers(model.numbers), script(std::make_shared<Script>()) {
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {};
  for (const engine::KvGroup group : {kSliding, kFull}) stores[group] = rig.stores[group].get();
  auto created = engine::Runner::Create(
      rig.model, kernels::CpuOps(*rig.backend), stores, {.max_step_rows = rig.config.max_step_rows},
      [this](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
        return propose(slots, drafts);
      });
  if (!created.ok()) std::abort();
  runner = *std::move(created);
  const std::string name = model.name;
  if (name == "demo") {
    assistant = LoadRigAssistantFrom(DemoDir() + "/assistant", rig, 8);
  } else if (!name.starts_with("tiny")) {
    assistant = LoadRigAssistant(name, rig, 8);
  }
}

void RunWorlds(Stage& stage, int cases, uint64_t seed, const WorldOptions& options) {
  for (int done = 0; done < cases && !::testing::Test::HasFailure();) {
    SCOPED_TRACE(absl::StrCat("world ", seed));
    const int many = static_cast<int>(options.prefixes ? 4 + seed * 7 % 13 : 1 + seed * 7 % 11);
    const int requests = std::min(cases - done, many);
    World(stage, seed++, options).Run(requests);
    done += requests;
  }
}

}  // namespace tandem::testing
