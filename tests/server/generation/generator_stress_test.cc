// Many requests at once, cancelled at random moments; meant for the sanitizers.
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "server/generation/generator.h"
#include "server/generation/text_pool.h"
#include "server/text/detokenizer.h"
#include "tests/server/generation/generation_rig.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using scheduler::CancelCause;
using scheduler::FinishReason;

struct Case {
  ScriptedDevice::Script script;
  GenerationSpec spec;  // until it starts
  bool text = true;
  std::vector<std::string> stop;
  Collector collector;
  std::atomic<Generator::Handle> handle = 0;  // once Start has returned
  CancelCause cause = CancelCause::kClientGone;
  int cancel_at_event = -1;  // 0: right after Start
};

// A request with random length, choices, stops, intervals and text.
std::unique_ptr<Case> RandomCase(const Tokenizer& tokenizer, GenerationRig& rig,
                                 std::mt19937& rng) {
  auto c = std::make_unique<Case>();
  const int n = rng() % 4 == 0 ? 3 : 1;
  for (int i = 0; i < n; ++i) {
    std::vector<int32_t> ids =
        tokenizer.Encode(RandomText(rng, 1 + static_cast<int>(rng() % 40)), false).ids;
    if (rng() % 2 == 0) ids.push_back(1);
    c->script.push_back(std::move(ids));
  }
  c->spec = rig.SpecOfChoices(c->script);
  c->spec.request.n = n;
  c->spec.request.stop.max_tokens = 1 + static_cast<int>(rng() % 60);
  if (rng() % 3 == 0) c->spec.stop = {std::string(1, static_cast<char>('a' + rng() % 26)), "zz"};
  if (rng() % 4 == 0) c->spec.stream_interval_tokens = 3;
  if (rng() % 4 == 0) c->spec.stream_interval_ms = 1;
  c->spec.text = !c->spec.stop.empty() || rng() % 5 != 0;
  constexpr CancelCause kCauses[] = {CancelCause::kClientGone, CancelCause::kAborted,
                                     CancelCause::kDeadline, CancelCause::kSlowConsumer};
  c->cause = kCauses[rng() % 4];
  if (rng() % 2 == 0) c->cancel_at_event = static_cast<int>(rng() % 8);
  c->collector.SetHook([c = c.get(), &rig, events = 0](const OutputEvent&) mutable {
    if (++events == c->cancel_at_event) rig.generator().Cancel(c->handle, c->cause);
  });
  c->text = c->spec.text;
  c->stop = c->spec.stop;
  if (rng() % 20 == 0) c->spec.prompt = std::vector<int32_t>{-1};
  if (rng() % 20 == 0) c->spec.prompt = TextPrompt{.text = std::string(600, 'h')};
  return c;
}

// What every request promises, whatever happened to it.
void CheckCase(const Tokenizer& tokenizer, Case& c) {
  EXPECT_TRUE(c.collector.errors.empty()) << c.collector.errors.front();
  const absl::Status& status = c.collector.finish.status;
  for (int i = 0; i < c.collector.num_choices(); ++i) {
    const Collector::Choice& choice = c.collector.choice(i);
    const std::vector<int32_t> ids = choice.ids();
    const std::vector<int32_t>& script = c.script[i % c.script.size()];
    for (size_t j = 0; j < ids.size(); ++j) {
      ASSERT_EQ(ids[j], script[std::min(j, script.size() - 1)]);
    }
    if (!c.text) {
      EXPECT_EQ(choice.text, "");
      continue;
    }
    const std::string all = Decode(tokenizer, ids, true);
    if (choice.finished && choice.end.reason == FinishReason::kStopString) {
      ASSERT_FALSE(choice.end.stop_text.empty());
      // The text ends at the first place where the stop string stands.
      EXPECT_EQ(choice.text + all.substr(choice.text.size()), all);
      EXPECT_EQ(all.find(choice.end.stop_text), choice.text.size());
    } else if (status.ok()) {
      for (const std::string& stop : c.stop) EXPECT_EQ(all.find(stop), std::string::npos);
      // The last byte tokens of a script may have been cut inside a character.
      if (all.find("\uFFFD") == std::string::npos) {
        EXPECT_EQ(choice.text, all);
      }
    }
  }
}

TEST(GeneratorStressTest, ManyRequestsCancelledAtRandomKeepTheirPromises) {
  // Given a few hundred random requests from four threads on few seats, and two that cancel.
  const Tokenizer tokenizer = GoldenTokenizer("e2b-like");
  constexpr int kRequests = 400, kStarters = 4;
  std::mt19937 rng(7);
  GenerationRig rig(tokenizer,
                    {.max_slots = 6, .max_queued_requests = 150, .generator = {.text_threads = 3}});
  std::vector<std::unique_ptr<Case>> cases;
  for (int i = 0; i < kRequests; ++i) {
    cases.push_back(RandomCase(tokenizer, rig, rng));
  }
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < kStarters; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < kRequests; i += kStarters) {
        GenerationSpec spec = std::move(cases[i]->spec);
        spec.request.arrival_us = rig.scheduler().now_us();
        if (i % 2 == 0) {
          absl::StatusOr<scheduler::Reservation> place = rig.scheduler().Reserve({.bytes = 1});
          if (place.ok()) spec.reservation = *std::move(place);
        }
        cases[i]->handle = rig.generator().Start(std::move(spec), cases[i]->collector.Sink());
        if (cases[i]->cancel_at_event == 0)
          rig.generator().Cancel(cases[i]->handle, cases[i]->cause);
      }
    });
  }
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 mine(100 + t);
      while (!done) {
        const Case& any = *cases[mine() % kRequests];
        rig.generator().Cancel(any.handle, any.cause);
        const Generator::Handle other = cases[mine() % kRequests]->handle;
        rig.generator().Pause(other);
        rig.generator().Describe(other, [](const std::optional<RequestStatusView>&) {});
        rig.generator().Resume(other);
        std::this_thread::sleep_for(std::chrono::microseconds(mine() % 300));
      }
    });
  }
  // When all have ended, then every one kept the contract,
  for (const auto& c : cases) c->collector.WaitFinished();
  done = true;
  for (std::thread& thread : threads) thread.join();
  int ok = 0, cancelled = 0;
  for (const auto& c : cases) {
    CheckCase(tokenizer, *c);
    ok += c->collector.finish.status.ok() ? 1 : 0;
    cancelled += absl::IsCancelled(c->collector.finish.status) ? 1 : 0;
  }
  // some of each kind were seen, and nothing is left behind.
  EXPECT_GT(ok, 0);
  EXPECT_GT(cancelled, 0);
  rig.DropGenerator();
  while (rig.scheduler().stats().running != 0) std::this_thread::yield();
  EXPECT_EQ(rig.scheduler().stats().queued_requests, 0);
}

TEST(GeneratorStressTest, ACancelIsNeverLost) {
  // Given requests with prompts so long that handing them over takes a while, each cancelled at
  // another moment after its start.
  const Tokenizer tokenizer = SyntheticTokenizer();
  GenerationRig rig(tokenizer, {.max_slots = 2, .max_context = 1 << 17});
  // None comes to its context's end before it is cancelled, however late that is.
  std::atomic<uint64_t> cancelled = 0;  // requests, which have the seeds 1, 2, ...
  rig.device().SetHook([&](uint64_t seed, int, int i) {
    while (i == 1000 && cancelled < seed) std::this_thread::yield();
  });
  std::mt19937 rng(5);
  for (int i = 0; i < 200; ++i) {
    Collector collector;
    GenerationSpec spec = rig.Spec({6});
    spec.prompt = std::vector<int32_t>(100'000, 6);
    spec.request.stop.max_tokens = -1;
    const Generator::Handle handle = rig.generator().Start(std::move(spec), collector.Sink());
    const auto moment = TextPool::Clock::now() + std::chrono::microseconds(rng() % 800);
    while (TextPool::Clock::now() < moment) continue;
    // When cancelled, then it ends by that, not by its context.
    rig.generator().Cancel(handle, CancelCause::kClientGone);
    ++cancelled;
    collector.WaitFinished();
    ASSERT_TRUE(absl::IsCancelled(collector.finish.status)) << collector.finish.status;
  }
}

TEST(GeneratorStressTest, GeneratorsComeAndGoWithRequestsInEveryState) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  std::mt19937 rng(3);
  for (int round = 0; round < 30; ++round) {
    // Given 20 requests, when the generator goes at once, then every one has ended before.
    GenerationRig rig(tokenizer, {.max_slots = 4});
    std::vector<Collector> collectors(20);
    for (Collector& collector : collectors) {
      GenerationSpec spec = rig.Spec(std::vector<int32_t>(1 + rng() % 30, 6));
      spec.stream_interval_ms = static_cast<int>(rng() % 3);
      rig.generator().Start(std::move(spec), collector.Sink());
    }
    for (unsigned spin = rng() % 2000; spin > 0; --spin) std::this_thread::yield();
    rig.DropGenerator();
    for (Collector& collector : collectors) {
      EXPECT_TRUE(collector.is_finished());
      EXPECT_TRUE(collector.errors.empty()) << collector.errors.front();
    }
  }
}

}  // namespace
}  // namespace tandem::server
