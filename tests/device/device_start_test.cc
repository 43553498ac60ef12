// A device that fails: memory that can not be had at any point of a start, and a device that is
// lost while requests run. Emulated, since no other can be told to.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/assistant.h"
#include "engine/kv_layers.h"
#include "engine/kv_self_test.h"
#include "engine/load_assistant.h"
#include "engine/load_model.h"
#include "engine/runner.h"
#include "kernels/cuda/emulated_backend.h"
#include "kernels/cuda/prompt_gemm.h"
#include "kvcache/block_store.h"
#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "tests/engine/engine_rig.h"

namespace tandem::testing {
namespace {

using kernels::KvFormat;
using kernels::WeightFormat;
using kernels::cuda_emu::Machine;

constexpr int kBlockTokens = 16;
constexpr int kBlocks = 8;
constexpr int kStepRows = 16;
constexpr int kSlots = 2;
constexpr int kMostFaults = 500;  // that a test goes through before it gives up

// What a server holds, in its order.
struct Started {
  kernels::CpuBackendPtr cpu;
  std::unique_ptr<kernels::DeviceBackend> device;
  engine::AssistantModel assistant_model;
  engine::Model model;
  std::array<std::optional<kvcache::BlockStore>, engine::kNumKvGroups> stores;
  std::unique_ptr<engine::Assistant> assistant;
  std::unique_ptr<engine::Runner> runner;
};

// Given tokens and a generated one, in all rows that a step may have.
absl::Status RunLargestStep(Started& started) {
  std::vector<int32_t> table(kBlocks);
  for (int i = 0; i < kBlocks; ++i) table[i] = i;
  engine::Segment segment = {.num_rows = kStepRows, .num_prompt_rows = kStepRows - 1};
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (started.stores[g].has_value()) segment.block_table[g] = table;
  }
  const engine::SamplingParams greedy = {.temperature = 0.0f};
  engine::StepBatch batch;
  batch.ids.assign(kStepRows, started.model.config.bos_id);
  for (int i = 0; i < kStepRows; ++i) batch.positions.push_back(i);
  batch.segments = {segment};
  batch.samples = {{.row = kStepRows - 1, .params = &greedy, .position = kStepRows}};
  batch.drafts = {{.segment = 0, .max_tokens = 2, .prompt = batch.ids}};
  engine::StepResult result;
  return started.runner->Run(batch, result);
}

absl::StatusOr<std::unique_ptr<Started>> Start(const std::string& variant, WeightFormat weights,
                                               const Machine& machine) {
  auto started = std::make_unique<Started>();
  started->cpu = *kernels::MakeCpuBackend({.threads = 1});
  auto device =
      kernels::MakeEmulatedBackend({.attention_bytes = size_t{4} << 20}, *started->cpu, machine);
  if (!device.ok()) return device.status();
  started->device = *std::move(device);
  const kernels::Ops& ops = started->device->ops();
  const std::string target_dir = GoldenDir(variant) + "/target";
  const engine::ModelConfig config = *engine::ReadModelConfig(target_dir);
  const kvcache::KvPair pair = {KvFormat::kQ8, KvFormat::kTurbo4};
  const kvcache::KvFormats formats = {.groups = {pair, pair}};
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    const auto layers = *engine::KvLayers(config, group, formats);
    if (absl::Status s = engine::TryKvEncoder(layers, ops); !s.ok()) return s;
  }
  auto assistant_model =
      engine::LoadAssistant(GoldenDir(variant) + "/assistant", config, ops, nullptr, weights);
  if (!assistant_model.ok()) return assistant_model.status();
  started->assistant_model = *std::move(assistant_model);
  auto model = engine::LoadCheckpoint(target_dir, {.weights = weights}, ops, nullptr);
  if (!model.ok()) return model.status();
  started->model = *std::move(model);
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {};
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    auto layers = *engine::KvLayers(config, group, formats);
    if (layers.empty()) continue;
    auto store = kvcache::BlockStore::Create(
        *kvcache::MakeGroupLayout(kBlockTokens, std::move(layers)), kBlocks, ops.memory);
    if (!store.ok()) return store.status();
    started->stores[group] = *std::move(store);
    stores[group] = &*started->stores[group];
  }
  auto assistant = engine::Assistant::Create(started->assistant_model, started->model, ops, stores,
                                             {.max_slots = kSlots});
  if (!assistant.ok()) return assistant.status();
  started->assistant = *std::move(assistant);
  auto runner = engine::Runner::Create(
      started->model, ops, stores, {.max_step_rows = kStepRows},
      [guess = started->assistant.get()](std::span<const engine::DraftSlot> slots,
                                         std::span<engine::Draft> drafts) {
        return guess->Propose(slots, drafts);
      });
  if (!runner.ok()) return runner.status();
  started->runner = *std::move(runner);
  if (absl::Status s = RunLargestStep(*started); !s.ok()) return s;
  return started;
}

struct Case {
  const char* variant;
  WeightFormat weights;
};

class DeviceStartTest : public ::testing::TestWithParam<Case> {};

TEST_P(DeviceStartTest, AnyAllocationThatFailsEndsItWithWhatWasNeeded) {
  const auto [variant, weights] = GetParam();
  int failing = 1;
  for (; failing < kMostFaults; ++failing) {
    // Given a device on which the n-th piece of memory can not be had, when the model starts,
    const auto started = Start(variant, weights, {.failing_allocation = failing});
    if (started.ok()) break;
    // then it ends with a message that says how much was wanted for what.
    EXPECT_EQ(started.status().code(), absl::StatusCode::kResourceExhausted) << failing;
    EXPECT_NE(started.status().message().find("memory are needed"), std::string::npos)
        << failing << ": " << started.status();
  }
  // At least rings, two models with their activations, blocks and what steps work in.
  EXPECT_GE(failing, 12);
  EXPECT_LT(failing, kMostFaults);
}

TEST_P(DeviceStartTest, WhatItHoldsIsNoMoreThanPlanned) {
  const auto [variant, weights] = GetParam();
  const auto started = Start(variant, weights, {});
  ASSERT_TRUE(started.ok()) << started.status();
  const Started& s = **started;
  const engine::ModelConfig& config = s.model.config;
  size_t planned = s.model.memory.size() + s.assistant_model.memory.size();
  for (const auto& store : s.stores) planned += store.has_value() ? store->bytes() : 0;
  const size_t operand_bytes = s.device->ops().operand_bytes;
  planned += engine::Runner::ScratchBytes(config, {.max_step_rows = kStepRows}, operand_bytes) +
             engine::Assistant::ScratchBytes(s.assistant_model.config, {.max_slots = kSlots},
                                             operand_bytes) +
             s.device->OwnBytes({.max_step_rows = kStepRows,
                                 .hidden = config.hidden,
                                 .ple_row_values = int64_t{config.ple_width} * config.num_layers(),
                                 .experts = config.experts,
                                 .experts_per_token = config.experts_per_token,
                                 .expert_width = config.expert_width,
                                 .weight_codes = weights != WeightFormat::kBf16});
  // What a library for prompts would have: there is none here.
  const kernels::cuda_emu::PromptGemmOptions library;
  planned -= library.workspace_bytes + library.geglu_bytes;
  const size_t held = Machine{}.memory_bytes - *s.device->FreeBytes();
  // Lists of rows take some MiB more at most, and there is no plan so wide that it says nothing.
  EXPECT_LE(held, planned + (size_t{4} << 20));
  EXPECT_GE(held, planned / 4);
}

struct Outcome {
  int tokens = 0;
  int finished = 0;
  absl::Status status;
};

scheduler::EventSink SinkOf(Outcome& outcome) {
  return [&outcome](scheduler::TokenEvent event) {
    outcome.tokens += static_cast<int>(event.tokens.size());
    if (event.kind != scheduler::TokenEvent::Kind::kFinished) return;
    ++outcome.finished;
    outcome.status = event.status;
  };
}

TEST_P(DeviceStartTest, ADeviceThatIsLostEndsEveryRequestAndTheEngine) {
  const auto [variant, weights] = GetParam();
  // Given a device that a wait in the middle of serving finds lost; until then each start ends so.
  std::unique_ptr<Started> started;
  int failing = 1;
  for (; failing < kMostFaults && started == nullptr; ++failing) {
    auto made = Start(variant, weights, {.failing_synchronize = failing});
    if (made.ok()) {
      started = *std::move(made);
    } else {
      EXPECT_EQ(made.status().code(), absl::StatusCode::kUnavailable) << made.status();
      EXPECT_NE(made.status().message().find("device is lost"), std::string::npos);
    }
  }
  ASSERT_NE(started, nullptr);
  constexpr int kWaitsLater = 6;
  auto later = Start(variant, weights, {.failing_synchronize = failing + kWaitsLater});
  ASSERT_TRUE(later.ok()) << later.status();
  started = *std::move(later);
  const engine::RunStep run_step = [&](const engine::StepBatch& batch, engine::StepResult& result) {
    return started->runner->Run(batch, result);
  };
  scheduler::ModelLimits limits = {.vocab_size = started->model.config.vocab,
                                   .max_context = 100,
                                   .window = started->model.config.sliding_window,
                                   .block_tokens = kBlockTokens};
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    limits.num_blocks[g] = started->stores[g].has_value() ? kBlocks : 0;
  }
  const scheduler::SchedulerConfig config = {
      .max_slots = kSlots, .max_step_rows = kStepRows, .max_draft_tokens = 2};
  ASSERT_TRUE(scheduler::Validate(config, limits).ok()) << scheduler::Validate(config, limits);
  scheduler::Scheduler scheduler(config, limits, run_step);

  // When two requests run,
  std::vector<Outcome> outcomes(2);
  for (Outcome& outcome : outcomes) {
    scheduler::Request request = {.prompt = {2, 5, 6, 7}};
    request.sampling.temperature = 0.0f;
    request.stop.max_tokens = 60;
    ASSERT_TRUE(scheduler.Submit(std::move(request), SinkOf(outcome)).ok());
  }
  for (int turn = 0; turn < 200 && outcomes[0].finished + outcomes[1].finished < 2; ++turn) {
    scheduler.RunOnce();
  }
  // then both end as failures of the engine, having got their tokens until then,
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.finished, 1);
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInternal) << outcome.status;
    EXPECT_EQ(GetReason(outcome.status).reason, "ENGINE_FAILURE");
    EXPECT_LT(outcome.tokens, 60);
  }
  EXPECT_GT(outcomes[0].tokens, 0);
  // which probes see, and later requests are told.
  EXPECT_TRUE(scheduler.stats().engine_down);
  Outcome late;
  const auto refused = scheduler.Submit({.prompt = {2, 5}}, SinkOf(late));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetReason(refused.status()).reason, "ENGINE_DOWN");
  EXPECT_EQ(late.finished, 0);
}

INSTANTIATE_TEST_SUITE_P(Variants, DeviceStartTest,
                         ::testing::Values(Case{"e2b-like", WeightFormat::kBf16},
                                           Case{"26b-like", WeightFormat::kInt4}),
                         [](const ::testing::TestParamInfo<Case>& info) {
                           return TestName(info.param.variant);
                         });

TEST(DeviceBackendTest, ShapesWithoutAKernelAreRefusedByName) {
  using Kind = kernels::ShapeNeed::Kind;
  const kernels::CpuBackendPtr cpu = *kernels::MakeCpuBackend({.threads = 1});
  const auto device = kernels::MakeEmulatedBackend({.attention_bytes = size_t{4} << 20}, *cpu);
  ASSERT_TRUE(device.ok()) << device.status();
  const std::vector<kernels::ShapeNeed> good = {{Kind::kNorm, "hidden_size", 5376},
                                                {Kind::kProduct, "hidden_size", 5376},
                                                {Kind::kRope, "head_dim", 512, 64},
                                                {Kind::kPle, "width", 256},
                                                {Kind::kExperts, "num_experts", 128, 8}};
  for (const kernels::ShapeNeed& need : good) {
    EXPECT_TRUE((*device)->CheckShape(need).ok()) << (*device)->CheckShape(need);
  }
  const std::vector<kernels::ShapeNeed> bad = {{Kind::kNorm, "hidden_size", 6152},
                                               {Kind::kProduct, "intermediate_size", 2049},
                                               {Kind::kRope, "head_dim", 128, 64},
                                               {Kind::kRope, "head_dim", 256, 24},
                                               {Kind::kPle, "width", 264},
                                               {Kind::kExperts, "num_experts", 2048, 8},
                                               {Kind::kExperts, "num_experts", 128, 64}};
  for (const kernels::ShapeNeed& need : bad) {
    const absl::Status status = (*device)->CheckShape(need);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << need.name << " " << need.size;
    EXPECT_NE(status.message().find(need.name + " is " + std::to_string(need.size)),
              std::string::npos)
        << status;
  }
}

}  // namespace
}  // namespace tandem::testing
