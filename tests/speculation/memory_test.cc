// T24 of mtp.md 5.3: neither requests nor models leave memory behind (P-32, P-39), and no context
// takes more than its blocks.
//
// TANDEM_FULL=1 runs the 10,000 requests that it asks for; the suite runs a tenth.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "scheduler/scheduler.h"
#include "tests/engine/kv_rows.h"
#include "tests/speculation/proposers.h"
#include "tests/speculation/rig_assistant.h"
#include "tests/speculation/rounds.h"
#include "tests/speculation/tiny_model.h"

namespace tandem::testing {
namespace {

int Requests() {
  const char* full = std::getenv("TANDEM_FULL");
  return full != nullptr && std::string(full) != "0" ? 10'000 : 1'000;
}

// Of this process, in KiB; what the allocator merely keeps is given back first.
int64_t ResidentKib() {
  malloc_trim(0);
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kSlackKib =
    256 * 1024;  // freed memory waits in quarantine; leaks are its to find
#else
constexpr int64_t kSlackKib = 2 * 1024;
#endif

TEST(SpeculationMemoryTest, ThousandsOfShortDraftedRequestsLeaveNothingBehind) {
  EngineRig rig = TinyRig({.vocab = 32}, 9, {.threads = 1, .blocks = 32, .max_step_rows = 128});
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {rig.stores[0].get(),
                                                                   rig.stores[1].get()};
  auto runner = engine::Runner::Create(
      rig.model, kernels::CpuOps(*rig.backend), stores, {.max_step_rows = 128},
      MakeProposer(Guess::kRandom, std::make_shared<Script>(), 32, 1));
  ASSERT_TRUE(runner.ok());
  scheduler::SchedulerConfig config;
  config.max_slots = 6;
  config.max_step_rows = 100;
  config.max_draft_tokens = 5;
  scheduler::ModelLimits limits = {.vocab_size = 32,
                                   .max_context = 100,
                                   .window = rig.model.config.sliding_window,
                                   .block_tokens = rig.config.block_tokens,
                                   .num_blocks = {32, 32}};
  scheduler::Scheduler scheduler(config, limits,
                                 [&](const engine::StepBatch& batch, engine::StepResult& result) {
                                   return (*runner)->Run(batch, result);
                                 });
  int finished = 0;
  const auto run = [&](int requests) {
    for (int i = 0; i < requests; i += 10) {
      for (int r = i; r < i + 10; ++r) {
        scheduler::Request request;
        request.prompt = {r % 32, (r + 5) % 32};
        request.sampling.seed = r;
        request.sampling.frequency_penalty = r % 3 == 0 ? 0.5f : 0.0f;
        request.stop.max_tokens = 1 + r % 9;
        request.speculation.mode = scheduler::Speculation::Mode::kFixed;
        request.arrival_us = scheduler.now_us();
        const auto id = scheduler.Submit(request, [&](const scheduler::TokenEvent& event) {
          if (event.kind == scheduler::TokenEvent::Kind::kFinished) ++finished;
        });
        ASSERT_TRUE(id.ok()) << id.status();
      }
      while (scheduler.RunOnce()) {
      }
    }
  };
  run(500);  // buffers grow to their size
  const int64_t before = ResidentKib();
  run(Requests());
  const int64_t grown = ResidentKib() - before;
  RecordProperty("grown_kib", std::to_string(grown));
  EXPECT_LT(grown, kSlackKib);
  EXPECT_EQ(finished, 500 + Requests());
  const scheduler::SchedulerStats stats = scheduler.stats();
  EXPECT_GT(stats.drafts.drafted, 0);
  EXPECT_EQ(stats.blocks_used[0] + stats.blocks_used[1], 0);
  EXPECT_EQ(stats.running + stats.waiting + stats.queued_requests, 0);
}

TEST(SpeculationMemoryTest, LoadingAndUnloadingTargetAndAssistantTwentyTimesLeavesNothingBehind) {
  const auto cycle = [] {
    EngineRig rig(GoldenDir("e2b-like") + "/target",
                  {.threads = 1, .f32 = false, .blocks = 8, .max_step_rows = 32});
    const auto assistant = LoadRigAssistant("e2b-like", rig, 4);
    RoundRig rounds(rig, assistant->AsPropose());
    DraftedSequence s = NewSequence({2, 150, 160}, 12, 3);
    rounds.Run(s, 8);
    EXPECT_EQ(s.output.size(), 12u);
  };
  for (int i = 0; i < 3; ++i) cycle();
  const int64_t before = ResidentKib();
  for (int i = 0; i < 20; ++i) cycle();
  const int64_t grown = ResidentKib() - before;
  RecordProperty("grown_kib", std::to_string(grown));
  EXPECT_LT(grown, kSlackKib);
}

// The most that this process was resident at a time since the last call, in KiB; 0 when the system
// does not tell.
int64_t PeakKibSinceLastAsked() {
  int64_t peak = 0;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) peak = std::stoll(line.substr(6));
  }
  std::ofstream("/proc/self/clear_refs") << 5;
  return peak;
}

// Codes are read where they lie: nothing but the pools, which are there from the start, has room
// for a whole context, neither while the prompt runs nor while text and drafts come.
TEST(SpeculationMemoryTest, NoBufferGrowsWithTheContextOverCodes) {
  RigConfig config = {.threads = 2, .blocks = 520, .max_step_rows = 128};
  SetNumbers(config, "turbo4");
  EngineRig rig = TinyRig({.vocab = 32, .layers = 4, .shared = 2, .window = 8200}, 9, config);
  RoundRig rounds(rig, MakeProposer(Guess::kRandom, std::make_shared<Script>(), 32, 1));
  const auto peak_of = [&](int prompt_tokens) {
    std::vector<int32_t> prompt(prompt_tokens);
    for (int i = 0; i < prompt_tokens; ++i) prompt[i] = i % 31;
    malloc_trim(0);
    PeakKibSinceLastAsked();
    DraftedSequence s = NewSequence(prompt, 20, 4);
    rounds.Run(s, 100);
    rig.Free(s.sequence);
    return PeakKibSinceLastAsked();
  };
  peak_of(2000);
  const int64_t little = peak_of(2000);
  const int64_t much = peak_of(8000);
  ASSERT_GT(little, 0);
  RecordProperty("grown_kib", std::to_string(much - little));
  // An f32 copy of 6000 rows of one layer alone would take 12 MB or more.
  EXPECT_LT(much - little, kSlackKib);
}

}  // namespace
}  // namespace tandem::testing
