#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/cpu/cpu_backend.h"
#include "server/cli/bench_kernels_cases.h"
#include "server/cli/bench_kernels_report.h"
#include "server/cli/built_devices.h"
#include "server/config/bench_kernels_options.h"
#include "tests/engine/engine_rig.h"

namespace tandem::server {
namespace {

using kernels::KvFormat;
using kernels::WeightFormat;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

TEST(KernelBytesTest, AProductReadsItsMatrixAndRowsAndWritesRows) {
  // 32 x 64 values of 2 bytes; 3 rows of 64 operands of 2 bytes in, of 32 f32 out.
  EXPECT_EQ(LinearBytes({WeightFormat::kBf16, 32, 64}, 3, 2), 4096u + 3 * (128 + 128));
  // A byte or half a byte a value, and a scale of 2 bytes for every 32.
  EXPECT_EQ(LinearBytes({WeightFormat::kInt8, 32, 64}, 1, 4), 2048u + 128 + 256 + 128);
  EXPECT_EQ(LinearBytes({WeightFormat::kInt4, 32, 64}, 1, 4), 1024u + 128 + 256 + 128);
  // 17 outputs take two tiles of 16 for gate and two for up.
  EXPECT_EQ(GateUpRows(17), 64);
  EXPECT_EQ(GegluBytes(WeightFormat::kBf16, 17, 64, 2, 2), 64u * 64 * 2 + 2 * (64 + 17) * 2);
}

TEST(KernelBytesTest, OnlyExpertsThatWereChosenAreRead) {
  // An expert: gate and up 32 x 64, down 64 x 16, of 2 bytes. A row: 64 operands in, 64 f32 out,
  // two ids and two weights of 4 bytes.
  const ExpertShape shape = {WeightFormat::kBf16, /*width=*/16, /*dim=*/64, /*top_k=*/2};
  EXPECT_EQ(ExpertsBytes(shape, 3, 5, 2), 3u * (4096 + 2048) + 5 * (128 + 256 + 16));
}

TEST(KernelBytesTest, AttentionReadsWhatItSees) {
  // K and V of a position: 2 heads of 256 bytes and a scale of 2, each.
  const KvShape q8 = {KvFormat::kQ8, KvFormat::kQ8, /*num_q_heads=*/4, /*num_kv_heads=*/2, 256};
  EXPECT_EQ(KvPositionBytes(q8), 2u * 2 * 258);
  EXPECT_EQ(AttentionBytes(q8, 3, 100, 2), 3u * (100 * 1032 + 2 * 4 * 256 * 2));
  // q in as f32 and out as operands, k and v in as f32, cos and sin, the stored rows; two norms.
  EXPECT_EQ(QkvPostBytes(q8, /*has_v=*/true, /*live=*/64, 3, 2),
            3u * (4 * 256 * 6 + 2 * 2 * 256 * 4 + 2 * 64 * 4 + 1032) + 2 * 256 * 4);
  EXPECT_EQ(QkvPostBytes(q8, true, 64, 3, 2) - QkvPostBytes(q8, false, 64, 3, 2), 3u * 2048);
}

TEST(KernelBytesTest, RowsAreReadAndWrittenOnce) {
  EXPECT_EQ(RmsNormBytes(3, 64, 2), 3u * 64 * 6 + 256);
  EXPECT_EQ(NormAddBytes(3, 64), 3u * 64 * 12 + 256);
  EXPECT_EQ(EmbedBytes(3, 64), 3u * (64 * 6 + 4));
  EXPECT_EQ(PleBytes(3, 5, 16), 3u * 80 * 10 + 64);
}

class KernelBenchTest : public ::testing::Test {
 protected:
  absl::StatusOr<KernelBench> Measure(const std::string& variant, const KernelBenchPlan& plan) {
    return Measure(variant, plan, ops());
  }
  absl::StatusOr<KernelBench> Measure(const std::string& variant, const KernelBenchPlan& plan,
                                      const kernels::Ops& on) {
    const engine::ModelConfig config = testing::GoldenTarget(variant);
    absl::StatusOr<KernelBench> bench =
        KernelBench::Create(on, plan, [this](const KernelResult&) { ++told_; });
    if (!bench.ok()) return bench;
    const KernelRows rows = {.generated = {1, 3}, .prompt = 5, .sequences = 2, .context = 70};
    if (absl::Status s = RunKernelFamilies(config, kKernelFamilies, rows, *bench); !s.ok()) {
      return s;
    }
    return bench;
  }

  const kernels::Ops& ops() const { return kernels::CpuOps(*backend_); }

  const kernels::CpuBackendPtr backend_ = *kernels::MakeCpuBackend({.threads = 2});
  const KernelBenchPlan tiny_ = {.repetitions = 2,
                                 .least_run_s = 0,
                                 .cache_bytes = 0,
                                 .least_rotated_bytes = 1 << 16,
                                 .most_bytes = uint64_t{1} << 30,
                                 .copy_bytes = 1 << 20};
  int told_ = 0;
};

TEST_F(KernelBenchTest, EveryOperationOfAModelIsMeasured) {
  std::set<std::string> families;
  for (const char* variant : {"e2b-like", "26b-like"}) {
    told_ = 0;
    const absl::StatusOr<KernelBench> bench = Measure(variant, tiny_);
    ASSERT_TRUE(bench.ok()) << bench.status();
    EXPECT_THAT(bench->left_out(), IsEmpty());
    EXPECT_EQ(static_cast<size_t>(told_), bench->results().size());
    for (const KernelResult& result : bench->results()) {
      SCOPED_TRACE(result.family + " " + result.test.name);
      families.insert(result.family);
      EXPECT_THAT(result.seconds, SizeIs(2));
      for (const double figure : {BytesPerSecond(result), CopyShare(result)}) {
        EXPECT_TRUE(std::isfinite(figure) && figure > 0.0) << figure;
      }
      EXPECT_GT(result.test.bytes, 0u);
      EXPECT_GT(result.test.rows, 0);
    }
    const auto of = [&](std::string_view family) {
      return std::count_if(bench->results().begin(), bench->results().end(),
                           [&](const KernelResult& result) { return result.family == family; });
    };
    EXPECT_EQ(of("linear"), 3 * 3);
    EXPECT_EQ(of("geglu"), 3 * 3);
    EXPECT_EQ(of("head"), 2 * 2);
    EXPECT_EQ(of("attention"), 2 * 3);
    EXPECT_EQ(of("qkv-post"), 3 * 3);
    EXPECT_EQ(of("norm"), 3 * 2);
  }
  EXPECT_EQ(families.size(), kKernelFamilies.size());
}

TEST_F(KernelBenchTest, ADeviceIsMeasuredThroughTheSameTable) {
  const auto device = OpenEmulated(*backend_);
  ASSERT_TRUE(device.ok()) << device.status();
  KernelBenchPlan plan = tiny_;
  plan.repetitions = 1;
  plan.least_rotated_bytes = 0;
  for (const char* variant : {"e2b-like", "26b-like"}) {
    const absl::StatusOr<KernelBench> bench = Measure(variant, plan, (*device)->ops());
    ASSERT_TRUE(bench.ok()) << bench.status();
    EXPECT_THAT(bench->left_out(), IsEmpty());
    EXPECT_GT(bench->results().size(), 40u);
    for (const KernelResult& result : bench->results()) EXPECT_GT(BytesPerSecond(result), 0.0);
  }
}

TEST_F(KernelBenchTest, WhatMemoryDoesNotSufficeForIsLeftOutByName) {
  KernelBenchPlan plan = tiny_;
  plan.most_bytes = 1 << 12;
  const absl::StatusOr<KernelBench> bench = Measure("e2b-like", plan);
  ASSERT_TRUE(bench.ok()) << bench.status();
  ASSERT_THAT(bench->left_out(), Not(IsEmpty()));
  EXPECT_THAT(bench->left_out()[0].what, HasSubstr("bf16"));
  EXPECT_THAT(bench->left_out()[0].why, AllOf(HasSubstr("4.0 KiB"), HasSubstr("smaller shape")));
}

TEST_F(KernelBenchTest, ArraysTakeTurns) {
  KernelBench bench = *KernelBench::Create(ops(), tiny_, [](const KernelResult&) {});
  bench.StartFamily("linear");
  std::vector<int> given;
  ASSERT_TRUE(
      bench.Run({.name = "x", .bytes = 1, .calls = 3}, [&](int call) { given.push_back(call); })
          .ok());
  // Two warm-ups, one run to see how long it takes, two repetitions.
  ASSERT_THAT(given, SizeIs(5 * 3));
  for (size_t i = 0; i < given.size(); ++i) EXPECT_EQ(given[i], static_cast<int>(i % 3));
}

TEST_F(KernelBenchTest, ArraysAreRotatedPastTheCache) {
  KernelBenchPlan plan = tiny_;
  plan.cache_bytes = 1 << 20;
  const KernelBench bench = *KernelBench::Create(ops(), plan, nullptr);
  EXPECT_EQ(bench.Copies(1 << 19), 4);
  EXPECT_EQ(bench.Copies(1 << 30), 1);
  EXPECT_EQ(bench.Copies(1), 256);
}

class KernelsReportTest : public ::testing::Test {
 protected:
  const BenchFacts facts_ = {.command_line = "tandem bench kernels", .model = "e2b"};
  const std::vector<KernelResult> results_ = {
      {.test = {.name = "int4 32x64", .rows = 8, .bytes = 4000},
       .family = "linear",
       .seconds = {3e-6, 1e-6, 2e-6},
       .copy_bytes_per_s = 8e9},
      {.test = {.name = "norm, 64 values", .rows = 5, .prompt = true, .bytes = 1000},
       .family = "norm",
       .cached = true,
       .seconds = {1e-6, 1e-6, 1e-6},
       .copy_bytes_per_s = 4e9}};
  const std::vector<LeftOut> left_out_ = {{"head, 1 rows", "no memory"}};
};

TEST_F(KernelsReportTest, TheTablesShowMediansAndSharesOfTheirOwnCopies) {
  const std::string text = KernelsReport(facts_, results_, left_out_, "md");
  for (const char* part :
       {"# Operations of the shape e2b", "`tandem bench kernels`", "## linear",
        "right before: 8.0 GB/s", "| int4 32x64 ", " 2.00 |", "1.00 to 3.00", " 2.0 |", "25.0 %",
        "## norm", "right before: 4.0 GB/s", "norm, 64 values, within the cache", "5 of a prompt",
        "- head, 1 rows: no memory"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST_F(KernelsReportTest, JsonAndCsvHoldTheSame) {
  const auto json = nlohmann::json::parse(KernelsReport(facts_, results_, left_out_, "json"));
  const auto& linear = json["operations"][0];
  EXPECT_EQ(linear["seconds"].size(), 3u);
  EXPECT_DOUBLE_EQ(linear["bytes_per_s"], 2e9);
  EXPECT_DOUBLE_EQ(linear["copy_share"], 0.25);
  EXPECT_EQ(json["left_out"][0]["why"], "no memory");
  const std::string csv = KernelsReport(facts_, results_, left_out_, "csv");
  EXPECT_THAT(csv, HasSubstr(",e2b,linear,int4 32x64,8,0,4000,0,2.000,1.000,3.000,2000000000,"
                             "8000000000,0.2500\n"));
  EXPECT_THAT(csv, HasSubstr(",norm,\"norm, 64 values\",5,1,1000,1,"));
}

}  // namespace
}  // namespace tandem::server
