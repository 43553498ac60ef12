#include "server/cli/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "engine/assistant_weights.h"
#include "engine/weights.h"
#include "scheduler/config.h"
#include "server/cli/bench_measure.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kGiB = uint64_t{1} << 30;

engine::ModelConfig Shape(const std::string& name) {
  absl::StatusOr<engine::ModelConfig> config = engine::PublishedShape(name);
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

FreeMemory Free(double gib) {
  return {.bytes = static_cast<uint64_t>(gib * kGiB), .limit = "on this machine"};
}

TEST(ParametersTest, TheyEqualThePublishedCounts) {
  // In billions, gemma4.md 1.1.
  const std::map<std::string, double> published = {
      {"e2b", 4.629}, {"e4b", 7.463}, {"12b", 11.907}, {"26b", 25.233}, {"31b", 30.697}};
  for (const auto& [name, billions] : published) {
    EXPECT_NEAR(CountParameters(Shape(name)) / 1e9, billions, 0.0006) << name;
  }
}

TEST(ParametersTest, ThoseOfAssistantsEqualThePublishedCounts) {
  // In millions, mtp.md 1.2.
  const std::map<std::string, double> published = {
      {"e2b", 77.7}, {"e4b", 78.5}, {"12b", 422.8}, {"26b", 419.7}, {"31b", 469.5}};
  for (const auto& [name, millions] : published) {
    const auto config = engine::PublishedAssistantShape(name);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_NEAR(CountParameters(*config) / 1e6, millions, 0.06) << name;
  }
}

TEST(StepWeightBytesTest, ADenseModelReadsEveryWeightOncePerStep) {
  // Given a model with a tied head and no per-layer embeddings.
  const engine::ModelConfig config = Shape("31b");
  engine::Weights weights;
  std::vector<engine::WeightItem> items;
  engine::LayOutWeights(config, nullptr, weights, items);
  // Then a step reads all of them, norms aside, and a row of the embedding per row.
  const double all = static_cast<double>(engine::WeightBytes(config));
  EXPECT_NEAR(StepWeightBytes(config, weights, 1, 1) / all, 1.0, 1e-3);
  EXPECT_NEAR(StepWeightBytes(config, weights, 16, 16) / all, 1.0, 1e-3);
}

TEST(StepWeightBytesTest, AStepThatAsksForNothingStopsAtTheFirstSharedLayer) {
  const engine::ModelConfig config = Shape("e2b");
  engine::Weights weights;
  std::vector<engine::WeightItem> items;
  engine::LayOutWeights(config, nullptr, weights, items);
  EXPECT_LT(StepWeightBytes(config, weights, 512, 0),
            0.5 * StepWeightBytes(config, weights, 512, 1));
}

TEST(StepWeightBytesTest, OneRowReadsItsExpertsAndManyRowsNearlyAll) {
  const engine::ModelConfig config = Shape("26b");
  engine::Weights weights;
  std::vector<engine::WeightItem> items;
  engine::LayOutWeights(config, nullptr, weights, items);
  const double all = static_cast<double>(engine::WeightBytes(config));
  // 3.82 of 25.23 billion parameters are active per token.
  EXPECT_NEAR(StepWeightBytes(config, weights, 1, 1) / all, 3.82 / 25.23, 0.01);
  EXPECT_NEAR(StepWeightBytes(config, weights, 512, 512) / all, 1.0, 0.01);
}

TEST(MemoryPlanTest, AutomaticKvHoldsAllSlotsWhenThereIsRoom) {
  const auto plan = PlanMemory(Shape("e2b"), {.max_slots = 4}, Free(64));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sequences, 4);
  EXPECT_EQ(plan->typical_tokens, 8192);
  EXPECT_GE(plan->num_blocks[kFull], 4 * 8192 / 32);
  const scheduler::ModelLimits limits = {.window = 512, .block_tokens = 32};
  EXPECT_GE(plan->num_blocks[kSliding], 4 * scheduler::SlidingBlocksHeld(limits));
  EXPECT_EQ(plan->max_context, 4 * 8192);  // a single sequence may take it all
  EXPECT_EQ(plan->kv_bytes, plan->num_blocks[kFull] * plan->kv.block_bytes[kFull] +
                                plan->num_blocks[kSliding] * plan->kv.block_bytes[kSliding]);
}

TEST(MemoryPlanTest, ADeviceHoldsItsKernelsPartAndLeavesTheTableToTheHost) {
  // Given a model with per-layer embeddings of random values, which no file has.
  const engine::ModelConfig config = Shape("e2b");
  const FreeMemory free = {.bytes = 64 * kGiB, .limit = "on cuda:0 Big"};
  const auto host = PlanMemory(config, {.ple_in_file = false}, free);
  const auto device = PlanMemory(
      config,
      {.ple_in_file = false, .device = DeviceRequest{.operand_bytes = 2, .own_bytes = kGiB}}, free);
  ASSERT_TRUE(host.ok()) << host.status();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_GT(host->ple_bytes, 0u);
  EXPECT_EQ(device->ple_bytes, 0u);
  EXPECT_EQ(device->own_bytes, kGiB);
  EXPECT_LT(device->activation_bytes, host->activation_bytes);
  EXPECT_EQ(device->weight_bytes, host->weight_bytes);
  EXPECT_THAT(MemoryText(*device), AllOf(HasSubstr("kernels 1.0 GiB"), HasSubstr("on cuda:0 Big")));
  EXPECT_THAT(MemoryText(*host), Not(HasSubstr("cuda")));
}

TEST(MemoryPlanTest, ADeviceThatIsTooSmallSaysWhatItHasAndWhatElseToUse) {
  const engine::ModelConfig config = Shape("31b");
  const MemoryRequest request = {.device = DeviceRequest{.operand_bytes = 2, .own_bytes = kGiB}};
  const auto plan = PlanMemory(config, request, {.bytes = 24 * kGiB, .limit = "on cuda:0 Big"});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()),
              AllOf(HasSubstr("24.0 GiB are free on cuda:0 Big"), HasSubstr("--weights int4"),
                    HasSubstr("--device cpu")));
  // Where weights fit, KV takes what was asked for, and no more than there is.
  const auto asked =
      PlanMemory(config, {.kv_memory = {.bytes = 4 * kGiB}, .device = request.device},
                 {.bytes = 80 * kGiB, .limit = "on cuda:0 Big"});
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_LE(asked->kv_bytes, 4 * kGiB);
  EXPECT_GT(asked->kv_bytes, 3 * kGiB);
}

TEST(MemoryPlanTest, AutomaticKvLeavesRoomWhenMemoryIsShort) {
  // Given 16 slots of 32 Ki tokens (10 GiB of KV), and 2 GiB besides the weights.
  const engine::ModelConfig config = Shape("e4b");
  const double weights = static_cast<double>(engine::WeightBytes(config)) / kGiB;
  const auto plan = PlanMemory(config, {.max_slots = 16, .max_context = 32768}, Free(weights + 2));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LE(plan->kv_bytes, static_cast<uint64_t>(0.7 * 2 * kGiB));
  EXPECT_EQ(plan->max_context, 32768);
  EXPECT_GE(plan->sequences, 1);
  EXPECT_LT(plan->sequences, 16);
}

TEST(MemoryPlanTest, AnAssistantTakesItsPlace) {
  const engine::ModelConfig config = Shape("e2b");
  const auto assistant = engine::PublishedAssistantShape("e2b");
  ASSERT_TRUE(assistant.ok()) << assistant.status();
  const auto without = PlanMemory(config, {}, Free(16));
  const auto with = PlanMemory(config, {.assistant = *assistant}, Free(16));
  ASSERT_TRUE(without.ok()) << without.status();
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(without->drafter_bytes, 0u);
  EXPECT_GT(with->drafter_bytes, engine::AssistantWeightBytes(*assistant));
  EXPECT_EQ(with->needed_bytes() - with->kv_bytes,
            without->needed_bytes() - without->kv_bytes + with->drafter_bytes);
  EXPECT_THAT(MemoryText(*with), HasSubstr(" + drafter "));
  EXPECT_THAT(MemoryText(*without), Not(HasSubstr("drafter")));
}

TEST(MemoryPlanTest, KvMemoryIsTakenAsGivenInBytesOrAsAShare) {
  const engine::ModelConfig config = Shape("e2b");
  const auto bytes = PlanMemory(config, {.kv_memory = {.bytes = kGiB / 2}}, Free(16));
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_LE(bytes->kv_bytes, kGiB / 2);
  EXPECT_GT(bytes->kv_bytes, kGiB / 2 - bytes->kv.block_bytes[kFull]);
  const auto small = PlanMemory(config, {.kv_memory = {.share = 0.01}}, Free(16));
  const auto large = PlanMemory(config, {.kv_memory = {.share = 0.05}}, Free(16));
  ASSERT_TRUE(small.ok()) << small.status();
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_NEAR(static_cast<double>(large->kv_bytes) / small->kv_bytes, 5.0, 0.1);
}

TEST(MemoryPlanTest, PrefixesThatNobodyRunsGetAsMuchAgain) {
  const engine::ModelConfig config = Shape("e2b");
  const auto without = PlanMemory(config, {.max_slots = 4}, Free(64));
  const auto with = PlanMemory(config, {.max_slots = 4, .prefix_cache = true}, Free(64));
  ASSERT_TRUE(without.ok()) << without.status();
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(with->num_blocks[kFull], 2 * without->num_blocks[kFull]);
  EXPECT_GE(with->num_blocks[kSliding], without->num_blocks[kSliding] + 4 * with->kv.window_blocks);
  EXPECT_EQ(with->sequences, 4);
}

TEST(MemoryPlanTest, MemoryThatIsGivenIsUsedForPrefixesToTheEnd) {
  // Given far more than four sequences of 1024 tokens can use.
  const engine::ModelConfig config = Shape("e2b");
  const MemoryRequest request = {.max_slots = 4, .max_context = 1024, .kv_memory = {.bytes = kGiB}};
  MemoryRequest reuse = request;
  reuse.prefix_cache = true;
  // When prefixes are kept, and when not.
  const auto with = PlanMemory(config, reuse, Free(64));
  const auto without = PlanMemory(config, request, Free(64));
  // Then all of it is taken, or what four sequences can use.
  ASSERT_TRUE(with.ok()) << with.status();
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_LE(with->kv_bytes, kGiB);
  EXPECT_GT(with->kv_bytes, kGiB - with->kv.block_bytes[kFull]);
  EXPECT_LT(without->kv_bytes, kGiB / 4);
}

TEST(MemoryPlanTest, CoarserFormatsHoldMoreSequencesInTheSameMemory) {
  const engine::ModelConfig config = Shape("e4b");
  MemoryRequest request = {.max_slots = 1024, .kv_memory = {.bytes = 8 * kGiB}};
  int before = 0;
  for (const char* name : {"exact", "safe", "compact", "max"}) {
    request.kv_formats = *kvcache::PresetFormats(name);
    const auto plan = PlanMemory(config, request, Free(64));
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_GT(plan->sequences, before) << name;
    before = plan->sequences;
  }
}

TEST(MemoryPlanTest, ATableInAFileNeedsNoMemory) {
  const engine::ModelConfig config = Shape("e2b");
  const auto in_file = PlanMemory(config, {.ple_in_file = true}, Free(64));
  const auto in_memory = PlanMemory(config, {.ple_in_file = false}, Free(64));
  ASSERT_TRUE(in_file.ok() && in_memory.ok());
  EXPECT_EQ(in_file->ple_bytes, 0u);
  EXPECT_EQ(in_memory->ple_bytes, engine::PleTableBytes(config));
}

TEST(NotEnoughMemoryTest, WeightsThatDoNotFitAreReportedWithWhatIsFree) {
  const auto plan = PlanMemory(Shape("12b"), {}, Free(8));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(plan.status().message(),
              AllOf(HasSubstr("weights 22.2 GiB"), HasSubstr("8.0 GiB are free on this machine"),
                    HasSubstr("smaller model")));
}

TEST(NotEnoughMemoryTest, AContextThatDoesNotFitNamesItsOption) {
  const engine::ModelConfig config = Shape("e4b");
  const double weights = static_cast<double>(engine::WeightBytes(config)) / kGiB;
  const auto automatic = PlanMemory(config, {.max_context = 131072}, Free(weights + 1));
  EXPECT_THAT(automatic.status().message(),
              AllOf(HasSubstr("131072 tokens"), HasSubstr("lower --max-context")));
  const auto given =
      PlanMemory(config, {.max_context = 131072, .kv_memory = {.bytes = kGiB}}, Free(64));
  EXPECT_THAT(given.status().message(),
              AllOf(HasSubstr("lower --max-context"), HasSubstr("raise --kv-memory")));
}

TEST(NotEnoughMemoryTest, AByteLessThanOneSequenceNeedsIsTooLittleAndSaysHowMuchIsMissing) {
  // Given what one sequence of 4096 tokens takes, with the sliding blocks of one step.
  const engine::ModelConfig config = Shape("e2b");
  MemoryRequest request = {.max_context = 4096};
  const auto roomy = PlanMemory(config, request, Free(64));
  ASSERT_TRUE(roomy.ok()) << roomy.status();
  const uint64_t one = SequenceBytes(roomy->kv, 4096) +
                       StepBlocks(roomy->kv, request.max_step_rows, request.max_slots) *
                           roomy->kv.block_bytes[kSliding];
  // Then it is enough, and any less is not.
  request.kv_memory = {.bytes = one};
  const auto enough = PlanMemory(config, request, Free(64));
  ASSERT_TRUE(enough.ok()) << enough.status();
  EXPECT_EQ(enough->kv_bytes, one);
  EXPECT_EQ(enough->sequences, 1);
  request.kv_memory = {.bytes = one - 1};
  const auto less = PlanMemory(config, request, Free(64));
  EXPECT_EQ(less.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(less.status().message(),
              AllOf(HasSubstr("4096 tokens"), HasSubstr("1 B missing"), HasSubstr("--kv-type")));
}

TEST(NotEnoughMemoryTest, ProtectionThatLeavesNoLayerIsRefused) {
  kvcache::KvFormats formats = *kvcache::PresetFormats("compact");
  formats.protect_first = 13;
  const auto plan = PlanMemory(Shape("e2b"), {.kv_formats = formats}, Free(64));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(plan.status().message(),
              AllOf(HasSubstr("--kv-protect-first"), HasSubstr("13"), HasSubstr("15 layers")));
}

TEST(NotEnoughMemoryTest, KvMemoryThatDoesNotFitNamesItsOption) {
  const auto plan =
      PlanMemory(Shape("e2b"), {.kv_memory = {.bytes = 60 * kGiB}, .prefix_cache = true}, Free(16));
  EXPECT_THAT(plan.status().message(), HasSubstr("lower --kv-memory"));
}

TEST(NotEnoughMemoryTest, StepsThatDoNotFitNameTheirOption) {
  const auto plan = PlanMemory(Shape("e2b"), {.max_step_rows = 65536}, Free(10));
  EXPECT_THAT(plan.status().message(), HasSubstr("lower --max-step-rows"));
}

TEST(NotEnoughMemoryTest, AContextBeyondTheModelsIsRefused) {
  const auto plan = PlanMemory(Shape("e2b"), {.max_context = 131073}, Free(64));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(plan.status().message(),
              AllOf(HasSubstr("--max-context is 131073"), HasSubstr("131072")));
}

}  // namespace
}  // namespace tandem::server
