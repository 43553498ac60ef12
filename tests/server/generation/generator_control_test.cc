// What others may want of a request while it is open: pauses, questions, its place in the queue.
#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "tests/server/generation/generation_rig.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using State = scheduler::RequestView::State;

constexpr int32_t kL = 6;  // of the synthetic tokenizer

std::optional<RequestStatusView> Describe(GenerationRig& rig, Generator::Handle handle) {
  std::promise<std::optional<RequestStatusView>> answer;
  rig.generator().Describe(
      handle, [&](std::optional<RequestStatusView> view) { answer.set_value(std::move(view)); });
  return answer.get_future().get();
}

// Whether the scheduler does not know it yet; without waiting for the scheduler.
bool IsTokenizing(GenerationRig& rig, Generator::Handle handle) {
  const auto tokenizing = std::make_shared<std::atomic<bool>>(false);
  rig.generator().Describe(handle, [tokenizing](const std::optional<RequestStatusView>& view) {
    *tokenizing = view.has_value() && view->tokenizing;
  });
  return *tokenizing;
}

// Asks until the scheduler says so: what it was told takes effect at a step's end.
void WaitFor(GenerationRig& rig, Generator::Handle handle, State state) {
  for (std::optional<RequestStatusView> view; !view.has_value() || view->request.state != state;) {
    view = Describe(rig, handle);
    ASSERT_TRUE(view.has_value());
  }
}

class GeneratorControlTest : public testing::Test {
 protected:
  const Tokenizer tokenizer_ = SyntheticTokenizer();
};

TEST_F(GeneratorControlTest, APausedRequestMakesNoTokensUntilItIsResumed) {
  // Given a request that has made 3 tokens and is about to make a fourth.
  GenerationRig rig(tokenizer_);
  Signal paused;
  rig.device().SetHook([&](uint64_t, int, int i) {
    if (i == 3) paused.Wait();
  });
  Collector got;
  const Generator::Handle handle = rig.generator().Start(rig.Spec({kL}), got.Sink());
  got.WaitTokens(3);
  // When it is paused, more than once, then it stands still behind the step that was running.
  rig.generator().Pause(handle);
  rig.generator().Pause(handle);
  paused.Set();
  WaitFor(rig, handle, State::kPaused);
  const int tokens = Describe(rig, handle)->request.completion_tokens;
  EXPECT_LE(tokens, 4);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(Describe(rig, handle)->request.completion_tokens, tokens);
  }
  EXPECT_FALSE(got.is_finished());
  // One resume lets it run to its end.
  rig.generator().Resume(handle);
  got.WaitFinished();
  EXPECT_EQ(got.finish.stats.completion_tokens, 100);
  EXPECT_EQ(Describe(rig, handle), std::nullopt);
}

TEST_F(GeneratorControlTest, APauseHoldsFromBeforeTheSchedulerKnowsTheRequest) {
  // Given a text thread that is busy, and a request behind it.
  GenerationRig rig(tokenizer_, {.generator = {.text_threads = 1}});
  Signal release, submitted;
  rig.device().SetHook([&](uint64_t, int, int) { submitted.Wait(); });
  rig.generator().RunOnTextPool([&] { release.Wait(); });
  Collector got;
  const Generator::Handle handle = rig.generator().Start(rig.Spec({kL}), got.Sink());
  const std::optional<RequestStatusView> reading = Describe(rig, handle);
  ASSERT_TRUE(reading.has_value());
  EXPECT_TRUE(reading->tokenizing);
  EXPECT_GE(reading->request.age_us, 0);
  rig.generator().Pause(handle);
  release.Set();
  // When it is submitted, then it is paused; and still open to be cancelled.
  while (IsTokenizing(rig, handle)) std::this_thread::yield();
  submitted.Set();
  WaitFor(rig, handle, State::kPaused);
  EXPECT_FALSE(Describe(rig, handle)->tokenizing);
  rig.generator().Cancel(handle, scheduler::CancelCause::kSlowConsumer);
  got.WaitFinished();
  EXPECT_EQ(GetReason(got.finish.status).reason, "SLOW_CONSUMER");
}

TEST_F(GeneratorControlTest, AResumeTakesBackAPauseThatCameTooEarly) {
  GenerationRig rig(tokenizer_, {.generator = {.text_threads = 1}});
  Signal release;
  rig.generator().RunOnTextPool([&] { release.Wait(); });
  Collector got;
  const Generator::Handle handle = rig.generator().Start(rig.Spec({kL}), got.Sink());
  rig.generator().Pause(handle);
  rig.generator().Resume(handle);
  release.Set();
  got.WaitFinished();
  EXPECT_EQ(got.finish.stats.completion_tokens, 100);
}

TEST_F(GeneratorControlTest, UnknownHandlesAreIgnored) {
  GenerationRig rig(tokenizer_);
  rig.generator().Pause(77);
  rig.generator().Resume(77);
  EXPECT_EQ(Describe(rig, 77), std::nullopt);
}

TEST_F(GeneratorControlTest, AReservationMadeBeforeTheDrainIsKept) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kL});
  absl::StatusOr<scheduler::Reservation> place =
      rig.scheduler().Reserve({.prompt_tokens = 50, .bytes = 10});
  ASSERT_TRUE(place.ok());
  spec.reservation = *std::move(place);
  EXPECT_EQ(rig.scheduler().stats().queued_prompt_tokens, 50);
  rig.scheduler().BeginDrain();
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_TRUE(got.finish.status.ok()) << got.finish.status;
  EXPECT_EQ(rig.scheduler().stats().queued_requests, 0);
}

TEST_F(GeneratorControlTest, AReservationIsGivenBackWithARefusal) {
  GenerationRig rig(tokenizer_);
  GenerationSpec spec = rig.Spec({kL});
  spec.prompt = std::vector<int32_t>{-1};
  absl::StatusOr<scheduler::Reservation> place = rig.scheduler().Reserve({.prompt_tokens = 50});
  ASSERT_TRUE(place.ok());
  spec.reservation = *std::move(place);
  EXPECT_EQ(rig.scheduler().stats().queued_requests, 1);
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_EQ(GetReason(got.finish.status).reason, "BAD_TOKEN_ID");
  EXPECT_EQ(rig.scheduler().stats().queued_requests, 0);
}

}  // namespace
}  // namespace tandem::server
