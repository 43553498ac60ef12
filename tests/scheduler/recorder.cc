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
  std::vector<int32_t> known = request.prompt;
  uint64_t history = kEmptyHistory;
  for (const int32_t id : request.prompt) history = Extend(history, id);
  const bool penalty = request.sampling.repetition_penalty != 1.0f ||
                       request.sampling.frequency_penalty != 0.0f ||
                       request.sampling.presence_penalty != 0.0f;
  while (static_cast<int>(expected.ids.size()) < request.stop.max_tokens) {
    const bool early = static_cast<int>(expected.ids.size()) < request.stop.min_tokens;
    const auto repeats =
        penalty ? static_cast<int>(std::count(known.begin(), known.end() - 1, known.back())) : 0;
    const int32_t id = TokenAfter(
        {.history = history, .choice = choice, .seed = request.sampling.seed, .repeats = repeats},
        early ? stops : std::vector<int32_t>(), limits.vocab_size);
    expected.ids.push_back(id);
    expected.logprobs.push_back(request.logprobs.enabled ? LogprobAfter(history, id) : 0.0f);
    history = Extend(history, id);
    known.push_back(id);
    if (Contains(stops, id)) {
      expected.stop_id = id;
      expected.reason =
          Contains(request.stop.stop_ids, id) ? FinishReason::kStopToken : FinishReason::kStopEos;
      break;
    }
    if (static_cast<int>(known.size()) == MaxSequenceTokens(limits) &&
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
      OnTokens(event);
      break;
    case TokenEvent::Kind::kChoiceFinished:
      check(!choices[event.choice].finished, "a choice finished twice");
      choices[event.choice].finished = true;
      CheckDrafts(choices[event.choice], event.drafts);
      Add(ended_drafts, event.drafts);
      choices[event.choice].reason = event.reason;
      choices[event.choice].stop_id = event.stop_id;
      break;
    case TokenEvent::Kind::kFinished:
      ++finished;
      status = event.status;
      stats = event.stats;
      check(stats.completion_tokens == tokens, "completion_tokens is not what was sent");
      check(stats.drafts.discarded >= ended_drafts.discarded &&
                stats.drafts.drafted >= ended_drafts.drafted &&
                (!status.ok() || stats.drafts.drafted == ended_drafts.drafted) &&
                (!status.ok() || stats.drafts.discarded == ended_drafts.discarded) &&
                (!status.ok() || stats.drafts.rounds == ended_drafts.rounds) &&
                (!status.ok() || stats.drafts.accepted_at == ended_drafts.accepted_at),
            "the request's guesses are not those of its choices");
      for (const ChoiceRecord& choice : choices) {
        check(!status.ok() || choice.finished, "OK with an open choice");
      }
      break;
  }
}

void Recorder::OnTokens(const TokenEvent& event) {
  const auto check = [this](bool good, const char* what) {
    if (!good) errors.push_back(what);
  };
  ChoiceRecord& choice = choices[event.choice];
  check(!choice.finished, "tokens after the choice finished");
  check(!event.tokens.empty(), "an event without tokens");
  const auto sent = static_cast<int>(event.tokens.size());
  check(event.accepted >= 0 && event.accepted <= event.drafted, "more guesses held than were fed");
  check(sent == event.accepted || sent == event.accepted + 1,
        "tokens do not fit what was accepted");
  if (steps != nullptr) {
    check(choice.last_step != *steps, "two events of a choice in one step");
    choice.last_step = *steps;
  }
  for (const engine::SampledToken& token : event.tokens) {
    choice.ids.push_back(token.id);
    choice.logprobs.push_back(token.logprob);
    ++tokens;
  }
  choice.events.push_back(sent);
  choice.drafted += event.drafted;
  choice.accepted += event.accepted;
}

void Recorder::CheckDrafts(const ChoiceRecord& choice, const DraftCounts& counts) {
  const auto check = [this](bool good, const char* what) {
    if (!good) errors.push_back(what);
  };
  check(counts.drafted == choice.drafted, "drafted is not what the events told");
  check(counts.accepted == choice.accepted, "accepted is not what the events told");
  int64_t drafted = 0, accepted = 0;
  for (int i = 0; i < kMaxDraftTokens; ++i) {
    drafted += counts.drafted_at[i];
    accepted += counts.accepted_at[i];
    check(counts.accepted_at[i] <= counts.drafted_at[i], "accepted_at exceeds drafted_at");
    check(i == 0 || counts.accepted_at[i] <= counts.accepted_at[i - 1], "a gap in accepted_at");
    check(i == 0 || counts.drafted_at[i] <= counts.drafted_at[i - 1], "a gap in drafted_at");
  }
  check(drafted == counts.drafted && accepted == counts.accepted, "positions do not add up");
  check(counts.rounds_with_draft <= counts.rounds, "more drafts than rounds");
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
    if (!std::equal(got.logprobs.begin(), got.logprobs.end(), expected.logprobs.begin())) {
      return absl::StrCat("a log-probability of choice ", i, " is wrong");
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
