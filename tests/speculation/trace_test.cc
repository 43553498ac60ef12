// What one step of a drafting batch really runs: one forward of the target and k of the drafter,
// however many sequences take part (INV-COLUMN; T04, T19 and T29 of mtp.md 5.3, seen from outside).
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/speculation/rig_assistant.h"
#include "tests/speculation/rounds.h"

namespace tandem::testing {
namespace {

// Calls of a table of operations, with their rows, in order.
struct Call {
  std::string op;
  int rows = 0;
  int segments = 0;  // attention only
};

// One table at a time: operations carry no context but their backend's.
std::vector<Call>* g_calls = nullptr;
const kernels::Ops* g_inner = nullptr;

kernels::Ops Counting(const kernels::Ops& inner, std::vector<Call>& calls) {
  g_inner = &inner;
  g_calls = &calls;
  kernels::Ops ops = inner;
  ops.linear = [](void* backend, const kernels::LinearArgs& args) {
    g_calls->push_back({.op = "linear", .rows = args.rows});
    g_inner->linear(backend, args);
  };
  ops.linear_geglu = [](void* backend, const kernels::LinearGegluArgs& args) {
    g_calls->push_back({.op = "linear_geglu", .rows = args.rows});
    g_inner->linear_geglu(backend, args);
  };
  ops.attention = [](void* backend, const kernels::AttentionArgs& args) {
    int rows = 0;
    for (const kernels::AttentionSegment& segment : args.segments) rows += segment.num_rows;
    g_calls->push_back(
        {.op = "attention", .rows = rows, .segments = static_cast<int>(args.segments.size())});
    g_inner->attention(backend, args);
  };
  ops.qkv_post = [](void* backend, const kernels::QkvPostArgs& args) {
    g_calls->push_back({.op = args.num_kv_heads > 0 ? "qkv_post" : "q_post", .rows = args.rows});
    g_inner->qkv_post(backend, args);
  };
  return ops;
}

struct StepCalls {
  std::vector<Call> target, drafter;
  int draft_steps = 0;
};

// A step in which every one of `seats` sequences verifies a draft of `k` and asks for another.
StepCalls RunStep(const std::string& variant, int seats, int k) {
  EngineRig rig(GoldenDir(variant) + "/target",
                {.threads = 1, .f32 = false, .blocks = 64, .max_step_rows = 256});
  StepCalls step;
  std::vector<Call> calls;
  const kernels::Ops ops = Counting(kernels::CpuOps(*rig.backend), calls);
  const auto assistant = LoadRigAssistant(variant, rig, /*max_slots=*/16, &ops);
  RoundRig rounds(
      rig,
      [&](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
        step.target = std::exchange(calls, {});
        const int steps = assistant->assistant->Propose(slots, drafts);
        step.drafter = std::exchange(calls, {});
        return steps;
      },
      &ops);
  std::vector<DraftedSequence> all;
  for (int i = 0; i < seats; ++i) {
    all.push_back(NewSequence({2, 120 + i, 130 + 2 * i}, 40, k));
  }
  std::vector<DraftedSequence*> pointers;
  for (DraftedSequence& s : all) pointers.push_back(&s);
  rounds.Step(pointers, 8);  // prompts; each gets its draft
  for (const DraftedSequence& s : all) EXPECT_EQ(static_cast<int>(s.draft.size()), k);
  rounds.Step(pointers, 8);
  step.draft_steps = rounds.result.draft_steps;
  for (DraftedSequence& s : all) rig.Free(s.sequence);
  return step;
}

int Count(const std::vector<Call>& calls, const std::string& op) {
  int count = 0;
  for (const Call& call : calls) count += call.op == op ? 1 : 0;
  return count;
}

class TraceTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TraceTest, SixteenDraftingSeatsRunOneTargetForwardAndOneDraftForwardPerGuess) {
  constexpr int kGuesses = 3;  // 64 rows of logits, which is one piece of them
  const StepCalls one = RunStep(GetParam(), 1, kGuesses);
  const StepCalls sixteen = RunStep(GetParam(), 16, kGuesses);
  // The same operations, in the same order: only the rows differ.
  const auto names = [](const std::vector<Call>& calls) {
    std::vector<std::string> names;
    for (const Call& call : calls) names.push_back(call.op);
    return names;
  };
  EXPECT_EQ(names(sixteen.target), names(one.target));
  EXPECT_EQ(names(sixteen.drafter), names(one.drafter));
  EXPECT_EQ(one.draft_steps, kGuesses);
  EXPECT_EQ(sixteen.draft_steps, kGuesses);
  // The target ran each of its layers once, over 16 sequences of 1 + k rows at a time.
  const EngineRig rig(GoldenDir(GetParam()) + "/target", {.threads = 1, .blocks = 1});
  EXPECT_EQ(Count(sixteen.target, "attention"), rig.model.config.num_layers());
  for (const Call& call : one.target) EXPECT_EQ(call.rows, 1 + kGuesses) << call.op;
  for (const Call& call : sixteen.target) {
    EXPECT_EQ(call.rows, 16 * (1 + kGuesses)) << call.op;
    if (call.op == "attention") {
      EXPECT_EQ(call.segments, 16);
    }
  }
  // The drafter ran each of its four layers once per guess, with one row per sequence, and stored
  // nothing.
  EXPECT_EQ(Count(sixteen.drafter, "attention"), 4 * kGuesses);
  EXPECT_EQ(Count(sixteen.drafter, "qkv_post"), 0);
  for (const Call& call : sixteen.drafter) EXPECT_EQ(call.rows, 16) << call.op;
  for (const Call& call : one.drafter) EXPECT_EQ(call.rows, 1) << call.op;
}

INSTANTIATE_TEST_SUITE_P(Variants, TraceTest,
                         ::testing::Values("e2b-like", "e4b-like", "12b-like", "26b-like",
                                           "31b-like"),
                         [](const auto& info) {
                           return "v" + std::string(info.param).substr(0, 3);
                         });

}  // namespace
}  // namespace tandem::testing
