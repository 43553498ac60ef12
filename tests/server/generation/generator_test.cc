// Requests from their prompt to their last event, over a real scheduler and a scripted device.
#include "server/generation/generator.h"

#include <atomic>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "server/text/detokenizer.h"
#include "tests/server/generation/generation_rig.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using scheduler::CancelCause;
using scheduler::FinishReason;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Ids of the synthetic tokenizer.
constexpr int32_t kEos = 1, kH = 4, kL = 6, kO = 7, kHello = 15, kWorld = 20;

class GeneratorTest : public testing::Test {
 protected:
  static std::string ReasonOf(const Collector& collector) {
    return GetReason(collector.finish.status).reason;
  }

  const Tokenizer tokenizer_ = SyntheticTokenizer();
};

TEST_F(GeneratorTest, APromptBecomesTextThatStreams) {
  // Given a script of three tokens and EOS.
  GenerationRig rig(tokenizer_);
  Collector got;
  // When run, then prompt, text, ids and counts are told.
  rig.Run(rig.Spec({kHello, kWorld, kO, kEos}), got);
  EXPECT_TRUE(got.finish.status.ok());
  EXPECT_THAT(got.prompt_ids, ElementsAre(2, kHello));
  EXPECT_EQ(got.choice(0).text, "hello worldo");
  EXPECT_THAT(got.choice(0).ids(), ElementsAre(kHello, kWorld, kO, kEos));
  EXPECT_THAT(got.choice(0).delta_tokens, Each(1));
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopEos);
  EXPECT_EQ(got.choice(0).end.stop_id, kEos);
  EXPECT_EQ(got.finish.stats.completion_tokens, 4);
  EXPECT_EQ(got.finish.stats.prompt_tokens, 2);
}

TEST_F(GeneratorTest, LogprobsFollowTheirTokens) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kHello, kWorld, kO, kL, kEos});
  spec.request.logprobs = {.enabled = true};
  spec.stream_interval_tokens = 2;
  Collector got;
  rig.Run(std::move(spec), got);
  ASSERT_EQ(got.choice(0).tokens.size(), 5u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(got.choice(0).tokens[i].logprob, -static_cast<float>(i));
}

TEST_F(GeneratorTest, PromptLogprobsComeBeforeTheFirstDelta) {
  // Given a request that only scores its prompt.
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kHello});
  spec.prompt = std::vector<int32_t>{4, 5, 6, 7};
  spec.request.prompt_logprobs = {.enabled = true};
  spec.request.stop.max_tokens = 0;
  Collector got;
  rig.Run(std::move(spec), got);
  // Then positions 1 to 3 are scored and no token is made.
  ASSERT_EQ(got.prompt_logprobs.size(), 3u);
  EXPECT_EQ(got.prompt_logprobs[2].logprob, -7.0f);
  EXPECT_TRUE(got.choice(0).tokens.empty());
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kMaxTokens);
}

TEST_F(GeneratorTest, ChoicesAreIndependent) {
  // Given three choices, of which one meets a stop string and one EOS.
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.SpecOfChoices(ScriptedDevice::Script{
      {kHello, kWorld, kO, kO, kO, kO}, {kO, kEos}, {kL, kL, kL, kL, kL, kL}});
  spec.request.n = 3;
  spec.request.stop.max_tokens = 6;
  spec.stop = {"world"};
  Collector got;
  rig.Run(std::move(spec), got);
  // Then each ends in its own way.
  EXPECT_EQ(got.choice(0).text, "hello ");
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopString);
  EXPECT_EQ(got.choice(0).end.stop_text, "world");
  EXPECT_EQ(got.choice(1).text, "o");
  EXPECT_EQ(got.choice(1).end.reason, FinishReason::kStopEos);
  EXPECT_EQ(got.choice(2).text, "llllll");
  EXPECT_EQ(got.choice(2).end.reason, FinishReason::kMaxTokens);
  EXPECT_EQ(got.finish.stats.completion_tokens, 2 + 2 + 6);
}

TEST_F(GeneratorTest, AStopStringTakesTheChoiceFromTheScheduler) {
  // Given a script that goes on for ever after its stop string.
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kHello, kWorld, kL});
  spec.stop = {"world"};
  spec.request.stop.max_tokens = -1;
  std::atomic<int> drawn = 0;
  Signal told;
  rig.device().SetHook([&](uint64_t, int, int i) {
    drawn = i;
    if (i == 20) told.Wait();  // 18 tokens past the stop, the text layer must have been heard
  });
  Collector got;
  got.SetHook([&](const OutputEvent& event) {
    if (event.kind == OutputEvent::Kind::kChoiceFinished) told.Set();
  });
  rig.Run(std::move(spec), got);
  // Then the request ends long before its context is full, and the surplus is not counted.
  EXPECT_LT(drawn, 50);
  EXPECT_EQ(got.finish.stats.completion_tokens, 2);
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopString);
}

TEST_F(GeneratorTest, ABusyTextPoolNeverHoldsUpTheScheduler) {
  // Given one text thread, which is blocked before it sees the first token.
  GenerationRig rig(tokenizer_, {.generator = {.text_threads = 1}});
  Signal release, device_done;
  rig.device().SetHook([&](uint64_t, int, int i) {
    if (i == 19) device_done.Set();
  });
  GenerationSpec spec = rig.Spec({kHello, kWorld, kL});
  spec.request.stop.max_tokens = 20;
  spec.stop = {"world"};
  Collector got;
  got.SetHook([&](const OutputEvent& event) {
    if (event.kind == OutputEvent::Kind::kStarted) release.Wait();
  });
  rig.generator().Start(std::move(spec), got.Sink());
  // When the device has drawn all 20 tokens, then the text thread may go on,
  device_done.Wait();
  release.Set();
  got.WaitFinished();
  // and it drops what the stop string makes superfluous; it goes before kMaxTokens.
  EXPECT_TRUE(got.errors.empty());
  EXPECT_EQ(got.choice(0).text, "hello ");
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopString);
  EXPECT_EQ(got.finish.stats.completion_tokens, 2);
}

TEST_F(GeneratorTest, AHeldDeltaLeavesWithoutAnotherToken) {
  // Given deltas held for 5 ms, and a device that stops after three tokens until all were seen.
  GenerationRig rig(tokenizer_);
  Signal seen;
  rig.device().SetHook([&](uint64_t, int, int i) {
    if (i == 3) seen.Wait();
  });
  GenerationSpec spec = rig.Spec({kH, kO, kL, kO, kEos});
  spec.stream_interval_ms = 5;
  Collector got;
  rig.generator().Start(std::move(spec), got.Sink());
  // When the interval has passed, then they are there.
  got.WaitTokens(3);
  seen.Set();
  got.WaitFinished();
  EXPECT_EQ(got.choice(0).text, "holo");
}

TEST_F(GeneratorTest, ALongIntervalLeavesTheFirstAndTheLastDelta) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kH, kO, kL, kO, kL, kEos});
  spec.stream_interval_ms = 1'000'000;
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_THAT(got.choice(0).delta_tokens, ElementsAre(1, 5));
}

TEST_F(GeneratorTest, MaxTokensDefaultsToTheConfiguredOrTheContext) {
  {
    GenerationRig rig(tokenizer_, {.generator = {.default_max_tokens = 7}});
    GenerationSpec spec = rig.Spec({kL});
    spec.request.stop.max_tokens = -1;
    Collector got;
    rig.Run(std::move(spec), got);
    EXPECT_EQ(got.finish.stats.completion_tokens, 7);
    EXPECT_EQ(got.choice(0).end.reason, FinishReason::kMaxTokens);
  }
  GenerationRig rig(tokenizer_, {.max_context = 30});
  GenerationSpec spec = rig.Spec({kL});
  spec.request.stop.max_tokens = -1;
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_EQ(got.finish.stats.completion_tokens, 28);  // the prompt has 2
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kContextLength);
  EXPECT_EQ(rig.generator().max_prompt_tokens(), 29);
}

TEST_F(GeneratorTest, ABadPromptEndsItsRequestWithTheReason) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kL});
  spec.prompt = std::vector<int32_t>{4, 5, 6, 100'000};
  EXPECT_EQ(rig.generator().PromptIds(spec).status().code(), absl::StatusCode::kInvalidArgument);
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_EQ(got.finish.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(got), "BAD_TOKEN_ID");
  EXPECT_EQ(GetReason(got.finish.status).field, "token_ids[3]");
  EXPECT_EQ(got.started, 0);
}

TEST_F(GeneratorTest, BadStopStringsEndTheirRequest) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kL});
  spec.stop = {"good", ""};
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_EQ(ReasonOf(got), "BAD_PARAMETER");
  EXPECT_EQ(GetReason(got.finish.status).field, "stopping.stop");
  EXPECT_THAT(std::string(got.finish.status.message()), HasSubstr("stop[1]"));
}

TEST_F(GeneratorTest, WhatTheSchedulerRefusesIsHandedOn) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kL});
  spec.request.n = 0;
  Collector bad;
  rig.Run(std::move(spec), bad);
  EXPECT_EQ(bad.finish.status.code(), absl::StatusCode::kInvalidArgument);
  rig.scheduler().BeginDrain();
  Collector draining;
  rig.Run(rig.Spec({kL}), draining);
  EXPECT_EQ(draining.finish.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(draining), "DRAINING");
}

TEST_F(GeneratorTest, ARequestCancelledBeforeItIsTokenizedNeverReachesTheScheduler) {
  // Given a text thread that is busy.
  GenerationRig rig(tokenizer_, {.generator = {.text_threads = 1}});
  Signal release;
  rig.generator().RunOnTextPool([&] { release.Wait(); });
  Collector got;
  const Generator::Handle handle = rig.generator().Start(rig.Spec({kL}), got.Sink());
  // When the request is cancelled twice, then the first cause counts.
  rig.generator().Cancel(handle, CancelCause::kDeadline);
  rig.generator().Cancel(handle, CancelCause::kClientGone);
  release.Set();
  got.WaitFinished();
  EXPECT_EQ(got.finish.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(got), "DEADLINE");
  EXPECT_EQ(got.started, 0);
  EXPECT_EQ(rig.scheduler().stats().steps_total, 0);
}

TEST_F(GeneratorTest, QueuedAndRunningRequestsAreCancelled) {
  // Given one seat, a request that runs and one that waits.
  GenerationRig rig(tokenizer_, {.max_slots = 1});
  Signal release;
  rig.device().SetHook([&](uint64_t seed, int, int i) {
    if (seed == 1 && i == 3) release.Wait();
  });
  Collector running, queued;
  GenerationSpec endless = rig.Spec({kL});
  endless.request.stop.max_tokens = -1;
  GenerationSpec waiting = rig.Spec({kO});
  const Generator::Handle first = rig.generator().Start(std::move(endless), running.Sink());
  running.WaitTokens(3);
  const Generator::Handle second = rig.generator().Start(std::move(waiting), queued.Sink());
  while (rig.scheduler().stats().queued_requests == 0) std::this_thread::yield();
  // When both are cancelled, then both end, and only what was made before is told.
  rig.generator().Cancel(second, CancelCause::kClientGone);
  rig.generator().Cancel(first, CancelCause::kClientGone);
  release.Set();
  running.WaitFinished();
  queued.WaitFinished();
  EXPECT_EQ(ReasonOf(running), "CLIENT_CANCELLED");
  EXPECT_EQ(ReasonOf(queued), "CLIENT_CANCELLED");
  EXPECT_EQ(queued.started, 0);
  EXPECT_LE(running.finish.stats.completion_tokens, 5);
  EXPECT_TRUE(running.errors.empty());
  EXPECT_TRUE(queued.errors.empty());
  // And handles that mean nothing any more are ignored.
  rig.generator().Cancel(first, CancelCause::kAborted);
  rig.generator().Cancel(9999, CancelCause::kAborted);
}

TEST_F(GeneratorTest, AnAbortAfterATokenKeepsWhatWasMade) {
  // Given text that is withheld for a stop string, and deltas that are being held.
  GenerationRig rig(tokenizer_);
  Signal two_made, aborted;
  rig.device().SetHook([&](uint64_t, int, int i) {
    if (i != 2) return;
    two_made.Set();
    aborted.Wait();
  });
  GenerationSpec spec = rig.Spec({kHello, kWorld, kL});
  spec.stop = {"lo world!"};
  spec.stream_interval_tokens = 1000;
  Collector got;
  const Generator::Handle handle = rig.generator().Start(std::move(spec), got.Sink());
  two_made.Wait();
  // When the request is aborted, then it ends well, with all of it.
  rig.generator().Cancel(handle, CancelCause::kAborted);
  aborted.Set();
  got.WaitFinished();
  EXPECT_TRUE(got.finish.status.ok());
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kAborted);
  EXPECT_EQ(got.choice(0).text, Decode(tokenizer_, got.choice(0).ids(), true));
  EXPECT_GE(got.choice(0).tokens.size(), 2u);
}

TEST_F(GeneratorTest, AFailureKeepsWhatWasMadeBefore) {
  // Given a device that is lost at the fourth token, while deltas are being held.
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kHello, kWorld, kO, kL});
  rig.device().FailFrom(spec.request.sampling.seed, 3);
  spec.stream_interval_tokens = 1000;
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_EQ(got.finish.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ReasonOf(got), "ENGINE_FAILURE");
  EXPECT_EQ(got.choice(0).text, "hello worldo");
  EXPECT_FALSE(got.choice(0).finished);
  EXPECT_EQ(got.finish.stats.completion_tokens, 3);
}

TEST_F(GeneratorTest, AFailureAfterTheStopStringIsNotTheClients) {
  // Given a stop string in the second token, and a device that is lost before the scheduler hears
  // of it.
  GenerationRig rig(tokenizer_, {.generator = {.text_threads = 1}});
  Signal release;
  GenerationSpec spec = rig.Spec({kHello, kWorld, kO});
  rig.device().FailFrom(spec.request.sampling.seed, 5);
  spec.stop = {"world"};
  Collector got;
  got.SetHook([&](const OutputEvent& event) {
    if (event.kind == OutputEvent::Kind::kStarted) release.Wait();
  });
  rig.generator().Start(std::move(spec), got.Sink());
  while (!rig.scheduler().stats().engine_down) std::this_thread::yield();
  release.Set();
  // When the text is worked out, then the answer is whole and the request OK.
  got.WaitFinished();
  EXPECT_TRUE(got.finish.status.ok()) << got.finish.status;
  EXPECT_EQ(got.choice(0).text, "hello ");
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopString);
}

TEST_F(GeneratorTest, TheDestructorCancelsAndWaits) {
  // Given two requests that would run for a million tokens, one of them not tokenized yet.
  GenerationRig rig(tokenizer_, {.max_context = 1 << 20, .generator = {.text_threads = 1}});
  Collector running, untouched;
  const auto endless = [&] {
    GenerationSpec spec = rig.Spec({kL});
    spec.request.stop.max_tokens = -1;
    return spec;
  };
  rig.generator().Start(endless(), running.Sink());
  running.WaitTokens(1);
  Signal release;
  rig.generator().RunOnTextPool([&] { release.Wait(); });
  rig.generator().Start(endless(), untouched.Sink());
  // When the generator is destroyed, then both have ended as in a drain.
  std::thread later([&] { release.Set(); });
  rig.DropGenerator();
  EXPECT_TRUE(running.is_finished());
  EXPECT_TRUE(untouched.is_finished());
  EXPECT_EQ(ReasonOf(running), "SHUTTING_DOWN");
  EXPECT_EQ(ReasonOf(untouched), "SHUTTING_DOWN");
  later.join();
}

TEST_F(GeneratorTest, ASinkMayStartAndCancelRequests) {
  GenerationRig rig(tokenizer_);
  Collector first, second;
  GenerationSpec next = rig.Spec({kO, kEos});
  GenerationSpec spec = rig.Spec({kL, kEos});
  first.SetHook([&](const OutputEvent& event) {
    if (event.kind != OutputEvent::Kind::kStarted) return;
    const Generator::Handle handle = rig.generator().Start(std::move(next), second.Sink());
    rig.generator().Cancel(handle + 1000, CancelCause::kAborted);
  });
  rig.Run(std::move(spec), first);
  second.WaitFinished();
  EXPECT_EQ(second.choice(0).text, "o");
}

TEST_F(GeneratorTest, WhatASinkHoldsIsReleasedBeforeTheGeneratorGoes) {
  auto held = std::make_shared<int>(0);
  GenerationRig rig(tokenizer_);
  rig.generator().Start(rig.Spec({kL, kL, kEos}), [held](OutputEvent) {});
  rig.DropGenerator();
  EXPECT_EQ(held.use_count(), 1);
}

// ---- drafts ----

RigConfig DraftingRig() {
  RigConfig config;
  config.scheduler.max_draft_tokens = 4;
  return config;
}

GenerationSpec Drafting(GenerationSpec spec, int max_draft_tokens) {
  spec.request.speculation = {.mode = scheduler::Speculation::Mode::kFixed,
                              .max_draft_tokens = max_draft_tokens};
  return spec;
}

TEST_F(GeneratorTest, WhatAStepVerifiedComesWithItsTokens) {
  // Given guesses that always hold, two at a time.
  GenerationRig rig(tokenizer_, DraftingRig());
  Collector got;
  rig.Run(Drafting(rig.Spec({kHello, kWorld, kO, kL, kH, kO, kL, kEos}), 2), got);
  // Then the first token, of the prompt, is followed by steps of three tokens; the last one ends
  // with a guess that held, and its third token is never drawn.
  EXPECT_THAT(got.choice(0).ids(), ElementsAre(kHello, kWorld, kO, kL, kH, kO, kL, kEos));
  EXPECT_EQ(got.choice(0).delta_tokens, (std::vector<int>{1, 3, 3, 1}));
  EXPECT_EQ(got.choice(0).steps, 3);
  EXPECT_EQ(got.choice(0).drafted, 5);
  EXPECT_EQ(got.choice(0).accepted, 5);
  const scheduler::DraftCounts& drafts = got.choice(0).end.drafts;
  EXPECT_EQ(drafts.rounds_with_draft, 3);
  EXPECT_EQ(drafts.drafted_at[0], 3);
  EXPECT_EQ(drafts.drafted_at[1], 2);
  EXPECT_EQ(got.finish.stats.drafts.drafted, 5);
}

TEST_F(GeneratorTest, WrongGuessesChangeTheCountsAndNotTheText) {
  GenerationRig rig(tokenizer_, DraftingRig());
  rig.device().SetGuess([](int i) { return i % 3 != 0; });
  Collector got;
  rig.Run(Drafting(rig.Spec({kHello, kWorld, kO, kL, kH, kEos}), 2), got);
  EXPECT_THAT(got.choice(0).ids(), ElementsAre(kHello, kWorld, kO, kL, kH, kEos));
  // Tokens 1 and 2 hold and 3 follows; then 4 and 5 do, and 5 ends it.
  EXPECT_EQ(got.choice(0).drafted, 4);
  EXPECT_EQ(got.choice(0).accepted, 4);
  // With token 1 guessed wrong instead: it follows; 2 and 3 hold, 4 follows; 5 holds and ends it.
  GenerationRig other(tokenizer_, DraftingRig());
  other.device().SetGuess([](int i) { return i != 1; });
  Collector got_other;
  other.Run(Drafting(other.Spec({kHello, kWorld, kO, kL, kH, kEos}), 2), got_other);
  EXPECT_EQ(got_other.choice(0).ids(), got.choice(0).ids());
  EXPECT_EQ(got_other.choice(0).drafted, 5);
  EXPECT_EQ(got_other.choice(0).accepted, 3);
  EXPECT_EQ(got_other.choice(0).end.drafts.accepted_at[0], 2);
  EXPECT_EQ(got_other.choice(0).end.drafts.accepted_at[1], 1);
}

TEST_F(GeneratorTest, AStopStringInsideARunOfGuessesDropsWhatLiesBehindIt) {
  // Given four right guesses in one step, and a stop string that the second of them completes.
  GenerationRig rig(tokenizer_, DraftingRig());
  GenerationSpec spec = Drafting(rig.Spec({kHello, kWorld, kO, kL, kH, kEos}), 4);
  spec.stop = {"ldo"};
  Collector got;
  rig.Run(std::move(spec), got);
  // Then the choice ends there, and so do its counts.
  EXPECT_EQ(got.choice(0).text, "hello wor");
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopString);
  EXPECT_EQ(got.choice(0).end.completion_tokens, 3);
  EXPECT_EQ(got.choice(0).drafted, 2);
  EXPECT_EQ(got.choice(0).accepted, 2);
  EXPECT_EQ(got.choice(0).end.drafts.discarded, 2);
  EXPECT_EQ(got.finish.stats.drafts.drafted, 2);
}

TEST_F(GeneratorTest, TheCountsOfARequestAreThoseOfItsChoices) {
  GenerationRig rig(tokenizer_, DraftingRig());
  GenerationSpec spec = Drafting(
      rig.SpecOfChoices({{kHello, kWorld, kO, kEos}, {kWorld, kO, kL, kH, kO, kL, kEos}}), 3);
  spec.request.n = 2;
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_GT(got.choice(0).drafted, 0);
  EXPECT_GT(got.choice(1).drafted, 0);
  EXPECT_EQ(got.finish.stats.drafts.drafted, got.choice(0).drafted + got.choice(1).drafted);
  EXPECT_EQ(got.finish.stats.drafts.rounds, got.choice(0).steps + got.choice(1).steps);
}

}  // namespace
}  // namespace tandem::server
