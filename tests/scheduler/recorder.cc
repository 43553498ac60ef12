#include "tests/scheduler/recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/scheduler/sim_device.h"

namespace tandem::scheduler {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

ChoiceRecord ExpectedChoice(const Request& request, int choice, const ModelLimits& limits) {
  ChoiceRecord expected;
  expected.finished = true;
  expected.reason = FinishReason::kMaxTokens;
  std::vector<int32_t> stops = request.stop.eos_ids;
  stops.insert(stops.end(), request.stop.stop_ids.begin(), request.stop.stop_ids.end());
  uint64_t history = kEmptyHistory;
  for (const int32_t id : request.prompt) history = Extend(history, id);
  while (static_cast<int>(expected.ids.size()) < request.stop.max_tokens) {
    const bool early = static_cast<int>(expected.ids.size()) < request.stop.min_tokens;
    const int32_t id =
        TokenAfter(history, choice, early ? stops : std::vector<int32_t>(), limits.vocab_size);
    expected.ids.push_back(id);
    history = Extend(history, id);
    if (Contains(stops, id)) {
      expected.stop_id = id;
      expected.reason =
          Contains(request.stop.stop_ids, id) ? FinishReason::kStopToken : FinishReason::kStopEos;
      break;
    }
    const auto known = static_cast<int>(request.prompt.size() + expected.ids.size());
    if (known == MaxSequenceTokens(limits) &&
        static_cast<int>(expected.ids.size()) < request.stop.max_tokens) {
      expected.reason = FinishReason::kContextLength;
      break;
    }
  }
  return expected;
}

EventSink Recorder::Sink() {
  return [this](TokenEvent event) { On(std::move(event)); };
}

void Recorder::On(TokenEvent event) {
  const auto check = [this](bool good, const char* what) {
    if (!good) errors.push_back(what);
  };
  check(finished == 0, "an event after kFinished");
  switch (event.kind) {
    case TokenEvent::Kind::kStarted:
      check(++started == 1, "started twice");
      check(event.stats.prompt_tokens == static_cast<int>(request.prompt.size()),
            "kStarted without prompt_tokens");
      break;
    case TokenEvent::Kind::kPromptLogprobs:
      check(started == 1, "scores before kStarted");
      check(event.first_position == static_cast<int>(prompt_logprobs.size()) + 1,
            "scores repeat or skip positions");
      check(!event.tokens.empty(), "scores without tokens");
      for (const engine::SampledToken& token : event.tokens) {
        check(prompt_logprobs.size() + 1 < request.prompt.size() &&
                  token.id == request.prompt[prompt_logprobs.size() + 1],
              "a score of a wrong id");
        prompt_logprobs.push_back(token.logprob);
      }
      break;
    case TokenEvent::Kind::kTokens:
      check(started == 1, "tokens before kStarted");
      check(!choices[event.choice].finished, "tokens after the choice finished");
      for (const engine::SampledToken& token : event.tokens) {
        choices[event.choice].ids.push_back(token.id);
        ++tokens;
      }
      break;
    case TokenEvent::Kind::kChoiceFinished:
      check(!choices[event.choice].finished, "a choice finished twice");
      choices[event.choice].finished = true;
      choices[event.choice].reason = event.reason;
      choices[event.choice].stop_id = event.stop_id;
      break;
    case TokenEvent::Kind::kFinished:
      ++finished;
      status = event.status;
      stats = event.stats;
      check(stats.completion_tokens == tokens, "completion_tokens is not what was sent");
      for (const ChoiceRecord& choice : choices) {
        check(!status.ok() || choice.finished, "OK with an open choice");
      }
      break;
  }
}

std::string Recorder::CheckAgainstExpected(const ModelLimits& limits) const {
  uint64_t history = kEmptyHistory;
  for (size_t p = 0; p + 1 < request.prompt.size() && p < prompt_logprobs.size(); ++p) {
    history = Extend(history, request.prompt[p]);
    if (prompt_logprobs[p] != LogprobAfter(history, request.prompt[p + 1])) {
      return absl::StrCat("the score of prompt position ", p + 1, " is wrong");
    }
  }
  for (int i = 0; i < request.n; ++i) {
    const ChoiceRecord expected = ExpectedChoice(request, i, limits);
    const ChoiceRecord& got = choices[i];
    if (got.ids.size() > expected.ids.size() ||
        !std::equal(got.ids.begin(), got.ids.end(), expected.ids.begin())) {
      return absl::StrCat("choice ", i, " is ", absl::StrJoin(got.ids, " "), " instead of ",
                          absl::StrJoin(expected.ids, " "));
    }
    const bool by_itself =
        got.finished &&
        (got.reason == FinishReason::kStopEos || got.reason == FinishReason::kStopToken ||
         got.reason == FinishReason::kMaxTokens || got.reason == FinishReason::kContextLength);
    if (!by_itself) continue;
    if (got.ids.size() != expected.ids.size() || got.reason != expected.reason ||
        got.stop_id != expected.stop_id) {
      return absl::StrCat("choice ", i, " ended after ", got.ids.size(), " of ",
                          expected.ids.size(), " tokens, reason ", static_cast<int>(got.reason),
                          " instead of ", static_cast<int>(expected.reason));
    }
    if (i == 0 && request.prompt_logprobs.enabled &&
        prompt_logprobs.size() + 1 != request.prompt.size()) {
      return "not all of the prompt was scored";
    }
  }
  return "";
}

void ExpectNothingHeld(const SchedulerStats& stats) {
  EXPECT_THAT(stats.blocks_used, testing::ElementsAre(0, 0)) << "blocks leaked";
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.queued_requests, 0);
  EXPECT_EQ(stats.preempted_now, 0);
  EXPECT_EQ(stats.paused, 0);
  EXPECT_EQ(stats.queued_prompt_tokens, 0);
  EXPECT_EQ(stats.queued_bytes, 0);
}

}  // namespace tandem::scheduler
