#include "server/cli/bench_kv_measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/cpu/cpu_backend.h"
#include "server/cli/bench_kv_report.h"
#include "tests/engine/engine_rig.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr uint64_t kMiB = 1 << 20;

std::vector<KvChoice> Formats(const std::string& list) { return ParseKvChoices(list).value(); }

engine::ModelConfig E4b() { return engine::PublishedShape("e4b").value(); }

TEST(PlanKvTestsTest, TheRowsOfTheSmallestFormatAreFourTimesTheCache) {
  // E4B's 4 full layers take 2,080 bytes of a token with turbo2, its 20 sliding ones 5,280.
  const auto tests =
      PlanKvTests(E4b(), Formats("q8,turbo2"), std::vector<int>{8192}, 0, 32, 32 * kMiB, 1 << 30);
  ASSERT_TRUE(tests.ok()) << tests.status();
  ASSERT_THAT(*tests, SizeIs(2));
  EXPECT_EQ((*tests)[0].group, kFull);
  EXPECT_EQ((*tests)[0].visible, 8192);
  EXPECT_EQ((*tests)[0].sequences, 5);  // 8 would be enough, 5 fit beside bf16 and q8
  EXPECT_EQ((*tests)[1].group, kSliding);
  EXPECT_EQ((*tests)[1].visible, 512);
  const auto roomy = PlanKvTests(E4b(), Formats("q8,turbo2"), std::vector<int>{8192}, 0, 32,
                                 32 * kMiB, uint64_t{1} << 40);
  EXPECT_EQ((*roomy)[0].sequences, 8);
  EXPECT_EQ((*roomy)[1].sequences, 50);
}

TEST(PlanKvTestsTest, ContextsBeyondTheWindowAreOneTest) {
  const auto tests = PlanKvTests(E4b(), Formats("q8"), std::vector<int>{256, 512, 8192}, 3, 32,
                                 kMiB, uint64_t{1} << 40);
  ASSERT_TRUE(tests.ok()) << tests.status();
  ASSERT_THAT(*tests, SizeIs(5));
  EXPECT_EQ((*tests)[3].visible, 256);
  EXPECT_THAT((*tests)[4].contexts, ElementsAre(512, 8192));
  for (const KvTest& test : *tests) EXPECT_EQ(test.sequences, 3);
}

TEST(PlanKvTestsTest, WhatDoesNotFitIsRefusedWithWhatToChange) {
  const auto tests =
      PlanKvTests(E4b(), Formats("q8"), std::vector<int>{8192}, 100, 32, kMiB, 1 << 30);
  EXPECT_EQ(tests.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(tests.status().message()),
              AllOf(HasSubstr("100 sequences"), HasSubstr("1.0 GiB"), HasSubstr("--context")));
}

TEST(CheckKernelsTest, AFormatThatNoKernelHasIsRefusedByName) {
  kernels::Ops ops = {.name = "a backend"};
  ops.supports = [](const kernels::AttentionShape& shape) {
    return shape.head_dim != 512 || shape.v_format != kernels::KvFormat::kTurbo3;
  };
  EXPECT_TRUE(CheckKernels(E4b(), Formats("q8,turbo3/q8"), ops).ok());
  const absl::Status refused = CheckKernels(E4b(), Formats("q8,q8/turbo3"), ops);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("q8/turbo3"), HasSubstr("a backend"), HasSubstr("512")));
}

TEST(MeasureKvTest, EveryFormatIsMeasuredAtEveryLevel) {
  const engine::ModelConfig config = testing::GoldenTarget("e4b-like");
  const std::vector<KvChoice> formats = Formats("f16,q8,turbo4,turbo3/turbo2");
  for (const kernels::CpuIsa isa : testing::PresentIsas()) {
    SCOPED_TRACE(std::string(kernels::CpuIsaName(isa)));
    const auto backend = kernels::MakeCpuBackend({.threads = 1, .isa = isa});
    ASSERT_TRUE(backend.ok());
    const kernels::Ops& ops = kernels::CpuOps(**backend);
    ASSERT_TRUE(CheckKernels(config, formats, ops).ok());
    const auto tests = PlanKvTests(config, formats, std::vector<int>{40}, 3, 16, 0, 1 << 30);
    ASSERT_TRUE(tests.ok()) << tests.status();
    int begun = 0, done = 0;
    const auto speed = MeasureKv(
        config, ops,
        {.formats = formats, .tests = *tests, .block_tokens = 16, .pairs = 2, .least_run_s = 0},
        [&] { ++begun; },
        [&](const KvTest&, const KvFormatSpeed& format, const PairTimes& times) {
          ++done;
          for (const PairTimes& each : {times, format.groups[kFull].encode}) {
            EXPECT_THAT(each.format, AllOf(SizeIs(2), Each(Gt(0.0))));
            EXPECT_THAT(each.bf16, AllOf(SizeIs(2), Each(Gt(0.0))));
          }
        });
    ASSERT_TRUE(speed.ok()) << speed.status();
    EXPECT_EQ(begun, 2);
    EXPECT_EQ(done, 2 * 4);
    // K and V of a head, a byte of each value and a scale of two bytes.
    const KvGroupSpeed& q8 = speed->formats[1].groups[kFull];
    const auto full = config.KvOwners(kFull);
    const int heads = config.layers[full[0]].num_kv_heads * static_cast<int>(full.size());
    EXPECT_DOUBLE_EQ(q8.row_bytes, heads * 2 * (config.layers[full[0]].head_dim + 2));
    EXPECT_GE(q8.bytes_per_token, q8.row_bytes);
  }
}

KvSpeed Speed() {
  const PairTimes times = {.format = {2e-6, 3e-6, 4e-6}, .bf16 = {4e-6, 4e-6, 4e-6}};
  KvSpeed speed = {
      .tests = {{.group = kFull, .contexts = {8192}, .visible = 8192, .sequences = 4},
                {.group = kSliding, .contexts = {2048, 8192}, .visible = 512, .sequences = 9}}};
  speed.formats.push_back({.choice = Formats("q8/turbo4")[0]});
  for (const engine::KvGroup group : {kSliding, kFull}) {
    speed.bf16.groups[group].bytes_per_token = 4096;
    speed.formats[0].groups[group] = {
        .bytes_per_token = 1536, .row_bytes = 1500, .encode = times, .attention = {times, times}};
  }
  return speed;
}

KvSpeedFacts SpeedFacts() {
  return {.bench = {.command_line = "tandem bench kv", .model = "e4b"},
          .block_tokens = 32,
          .layers = {20, 4},
          .cache_bytes = 32 * kMiB,
          .read_bytes_per_s = {10e9, 12e9}};
}

TEST(KvSpeedReportTest, RatiosAreMediansOfPairsWithTheirRange) {
  const std::string text = KvSpeedReport(SpeedFacts(), Speed(), "md");
  for (const char* part : {"# KV formats of the shape e4b", "`tandem bench kv`", "4 full",
                           "20 sliding", "| q8/turbo4 ", "0.3750", "0.750", "0.500 to 1.000",
                           "context 2 048, 8 192: 9 sequences of 512", "46.9 MiB",
                           "medians of 3 pairs", "10.0 to 12.0 GB/s"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  // 9 sequences of 512 positions take 6.6 MiB.
  EXPECT_THAT(text, HasSubstr("6.6 MiB, within the cache"));
  EXPECT_THAT(text, Not(HasSubstr("46.9 MiB, within")));
}

TEST(KvSpeedReportTest, TheJsonHasEveryPair) {
  const auto json = nlohmann::json::parse(KvSpeedReport(SpeedFacts(), Speed(), "json"));
  EXPECT_EQ(json["groups"].size(), 2u);
  EXPECT_DOUBLE_EQ(json["groups"][0]["formats"][0]["bytes_of_bf16"], 0.375);
  const auto& q8 = json["attention"][0]["formats"][0];
  EXPECT_EQ(q8["ratios"].size(), 3u);
  EXPECT_DOUBLE_EQ(q8["ratio"], 0.75);
  EXPECT_NEAR(q8["us_per_token"].get<double>(), 3.0, 1e-9);
  EXPECT_NEAR(q8["read_bytes_per_s"].get<double>(), 1500 * 8192 / 3e-6, 1.0);
}

}  // namespace
}  // namespace tandem::server
