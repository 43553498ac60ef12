// Prefix reuse over a real model: blocks of other requests change when text comes, never what it
// says. T23 of mtp.md 5.3 (P-30, P-36, P-38), with drafts on and off, in every KV format.
//
// A case is one request that begins as others do, or goes on from what another one said, with
// choices, stops, sampling, drafts and company as in lossless_test.cc, often in pools so small that
// blocks are evicted and sequences preempted. The truth is SpeakAlone: nothing of any other request
// is there. A hundred run here with each model; TANDEM_FULL=1 runs 2,000.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "tests/engine/kv_rows.h"
#include "tests/speculation/plain_text.h"
#include "tests/speculation/world.h"

namespace tandem::testing {
namespace {

using scheduler::Request;
using scheduler::Speculation;
using scheduler::TokenEvent;

constexpr StageModel kModels[] = {
    {"tiny", "bf16", 61'000'000},
    {"tiny-shared", "q8", 62'000'000},
    {"tiny", "turbo4", 63'000'000},
    {"tiny-shared", "turbo3|turbo2", 64'000'000},
    {"tiny", "f16/q8", 65'000'000},
    {"e2b-like", "q8", 66'000'000},
    {"e4b-like", "turbo4 protect 0+2", 67'000'000},
    {"12b-like", "turbo3", 68'000'000},
    {"26b-like", "f32", 69'000'000},
    {"31b-like", "q8/turbo2", 70'000'000},
    {"demo", "q8", 71'000'000},
};

class SharedPrefixTest : public ::testing::TestWithParam<StageModel> {};

TEST_P(SharedPrefixTest, EveryRequestSaysWhatItSaysWithoutTheRowsOfOthers) {
  Stage stage(GetParam());
  const int cases = FullCount() ? 2'000 : 100;
  RunWorlds(stage, cases, GetParam().seed, {.prefixes = true});
  // Then there were hits, and blocks and sequences that had to give way.
  for (uint64_t more = 1; more < 20; ++more) {
    if (stage.totals.preemptions > 0 && stage.totals.evicted_blocks > 0) break;
    RunWorlds(stage, 10, GetParam().seed + 500'000 + 1000 * more, {.prefixes = true});
  }
  EXPECT_GT(stage.totals.hits, cases / 8);
  EXPECT_GT(stage.totals.accepted, 0);
  EXPECT_GT(stage.totals.preemptions, 0);
  EXPECT_GT(stage.totals.evicted_blocks, 0);
  RecordProperty("hits", std::to_string(stage.totals.hits));
  RecordProperty("cached_tokens", std::to_string(stage.totals.cached_tokens));
  RecordProperty("evicted_blocks", std::to_string(stage.totals.evicted_blocks));
  RecordProperty("preemptions", std::to_string(stage.totals.preemptions));
  RecordProperty("accepted", std::to_string(stage.totals.accepted));
}

INSTANTIATE_TEST_SUITE_P(Models, SharedPrefixTest, ::testing::ValuesIn(kModels),
                         [](const auto& info) { return StageName(info.param); });

struct Answer {
  std::vector<int32_t> ids;
  absl::Status status = absl::UnknownError("has not ended");
  scheduler::RequestStats stats;
};

// A scheduler with room for all, to which requests are put one by one or together.
class Desk {
 public:
  explicit Desk(Stage& stage, int max_step_rows = 100)
      : scheduler_(Config(max_step_rows), Limits(stage),
                   [&stage](const engine::StepBatch& batch, engine::StepResult& result) {
                     return stage.runner->Run(batch, result);
                   }) {}

  std::vector<Answer> Ask(std::vector<Request> requests) {
    std::vector<Answer> answers(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].arrival_us = scheduler_.now_us();
      const auto id = scheduler_.Submit(requests[i], [&answer = answers[i]](TokenEvent event) {
        for (const engine::SampledToken& token : event.tokens) answer.ids.push_back(token.id);
        if (event.kind != TokenEvent::Kind::kFinished) return;
        answer.status = event.status;
        answer.stats = event.stats;
      });
      EXPECT_TRUE(id.ok()) << id.status();
    }
    while (scheduler_.RunOnce()) {
    }
    return answers;
  }
  Answer Ask(const Request& request) { return Ask(std::vector<Request>{request})[0]; }

 private:
  static scheduler::SchedulerConfig Config(int max_step_rows) {
    scheduler::SchedulerConfig config;
    config.max_slots = 8;
    config.max_step_rows = max_step_rows;
    config.max_draft_tokens = 8;
    return config;
  }
  static scheduler::ModelLimits Limits(const Stage& stage) {
    return {.vocab_size = stage.rig.model.config.vocab,
            .max_context = 400,
            .window = stage.rig.model.config.sliding_window,
            .block_tokens = stage.rig.config.block_tokens,
            .num_blocks = {stage.rig.config.blocks, stage.rig.config.blocks},
            .kv_formats = stage.numbers};
  }

  scheduler::Scheduler scheduler_;
};

Request Greedy(std::vector<int32_t> prompt, int tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0.0f;
  request.stop.max_tokens = tokens;
  request.speculation = {.mode = Speculation::Mode::kFixed, .max_draft_tokens = 8};
  return request;
}

std::vector<int32_t> Ids(int count, int step) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = (i * step + i / 7) % 60;
  return ids;
}

class StopThenHitTest : public ::testing::TestWithParam<const char*> {};

TEST_P(StopThenHitTest, NothingBehindAStopIsInTheCache) {
  // Given a request that is cut by a stop inside a run of guesses that all hold.
  Stage stage({"tiny-shared", GetParam(), 1});
  const int block_tokens = stage.rig.config.block_tokens;
  Request first = Greedy(Ids(24, 11), 60);
  const std::vector<int32_t> text = SpeakAlone(stage.rig, first, 0, 400).ids();
  (*stage.script)[{first.sampling.seed, 0}] = text;
  stage.propose = MakeProposer(Guess::kOracle, stage.script, stage.rig.model.config.vocab, 1);
  const auto is_first = [&](int at) {
    return std::find(text.begin(), text.begin() + at, text[at]) == text.begin() + at;
  };
  int stop = 27;
  while (stop < 45 && !is_first(stop)) ++stop;
  ASSERT_LT(stop, 45);
  first.stop.stop_ids = {text[stop]};
  Desk desk(stage);
  const Answer cut = desk.Ask(first);
  ASSERT_EQ(cut.ids, std::vector<int32_t>(text.begin(), text.begin() + stop + 1));
  EXPECT_GT(cut.stats.drafts.accepted, 20);
  // When another one goes on as the first would have, through what was guessed behind the stop.
  Request second = Greedy(first.prompt, 12);
  second.prompt.insert(second.prompt.end(), text.begin(), text.end());
  const PlainChoice plain = SpeakAlone(stage.rig, second, 0, 400);
  (*stage.script)[{second.sampling.seed, 0}] = plain.ids();
  const Answer answer = desk.Ask(second);
  // Then it finds the rows of what was said, and says what it says alone.
  EXPECT_EQ(answer.stats.cached_prompt_tokens, (24 + stop) / block_tokens * block_tokens);
  EXPECT_EQ(answer.ids, plain.ids());
}

INSTANTIATE_TEST_SUITE_P(Formats, StopThenHitTest,
                         ::testing::Values("f32", "bf16", "q8", "turbo4", "turbo3", "turbo2"),
                         [](const auto& info) { return FormatsTestName(info.param); });

class SecondRequestTest : public ::testing::TestWithParam<StageModel> {};

TEST_P(SecondRequestTest, ItsGuessesHoldAsOftenAsThoseOfTheFirst) {
  Stage stage(GetParam());
  stage.propose = stage.assistant->AsPropose();
  Desk desk(stage);
  std::vector<int32_t> prompt = Ids(70, 13);
  const Request request = Greedy(prompt, 40);
  const Answer first = desk.Ask(request);
  const Answer second = desk.Ask(request);
  EXPECT_EQ(first.stats.cached_prompt_tokens, 0);
  EXPECT_EQ(second.stats.cached_prompt_tokens, 64);
  EXPECT_EQ(second.ids, first.ids);
  EXPECT_EQ(second.ids, SpeakAlone(stage.rig, request, 0, 400).ids());
  EXPECT_GT(first.stats.drafts.drafted, 0);
  EXPECT_EQ(second.stats.drafts.drafted, first.stats.drafts.drafted);
  EXPECT_EQ(second.stats.drafts.accepted, first.stats.drafts.accepted);
}

INSTANTIATE_TEST_SUITE_P(Models, SecondRequestTest,
                         ::testing::Values(StageModel{"e2b-like", "q8", 1},
                                           StageModel{"e4b-like", "turbo4", 1},
                                           StageModel{"12b-like", "bf16", 1},
                                           StageModel{"31b-like", "turbo3 protect 0+2", 1}),
                         [](const auto& info) { return StageName(info.param); });

// A row that a format with scales could not store is nobody's to read.
TEST(BrokenPrefixTest, WhatARequestWithLostRowsStoredServesNobody) {
  // Given a model for which the rows of one token are not finite.
  constexpr int32_t kBad = 77;
  Stage stage({"e2b-like", "q8", 1});
  engine::Model& model = stage.rig.model;
  const size_t width = static_cast<size_t>(model.config.num_layers()) * model.config.ple_width;
  std::vector<kernels::Bf16> table(model.config.ple_vocab * width);
  std::memcpy(table.data(), model.weights.ple_table, table.size() * sizeof(table[0]));
  std::fill_n(table.begin() + kBad * width, width, kernels::Bf16{0x7fc0});
  model.weights.ple_table = table.data();
  stage.propose = stage.assistant->AsPropose();
  // And requests that begin alike, one of them with that token in its second block.
  Request bad = Greedy(Ids(60, 13), 12);
  bad.prompt[20] = kBad;
  std::vector<Request> requests = {Greedy(Ids(60, 13), 12), bad, Greedy(Ids(45, 13), 12),
                                   Greedy(Ids(30, 17), 12)};
  std::vector<std::vector<int32_t>> plain;
  for (const Request& request : requests) {
    if (&request == &requests[1]) {
      plain.push_back({});
      continue;
    }
    const PlainChoice choice = SpeakAlone(stage.rig, request, 0, 400);
    ASSERT_TRUE(choice.finite);
    plain.push_back(choice.ids());
  }
  for (const int max_step_rows : {20, 100}) {  // many chunks, and one
    Desk desk(stage, max_step_rows);
    // When they are asked together and once more, then that one fails each time, and says why; the
    // others say what they say alone.
    for (const bool again : {false, true}) {
      const std::vector<Answer> answers = desk.Ask(requests);
      EXPECT_EQ(answers[1].status.code(), absl::StatusCode::kInternal) << answers[1].status;
      EXPECT_EQ(GetReason(answers[1].status).reason, "NUMERIC_FAILURE");
      EXPECT_LE(answers[1].stats.cached_prompt_tokens, 16);
      for (const size_t i : {0, 2, 3}) {
        EXPECT_TRUE(answers[i].status.ok()) << answers[i].status;
        EXPECT_EQ(answers[i].ids, plain[i]) << i;
      }
      EXPECT_EQ(answers[0].stats.cached_prompt_tokens > 0, again);
    }
  }
}

}  // namespace
}  // namespace tandem::testing
