// Making a CPU backend: levels, threads, and a table without holes.
#include "kernels/cpu/cpu_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/machine_probe.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::Optional;

TEST(CpuIsaTest, NamesAreReadBack) {
  for (const char* name : {"ref", "avx2", "avx512", "avx512bf16"}) {
    const absl::StatusOr<CpuIsa> isa = ParseCpuIsa(name);
    ASSERT_TRUE(isa.ok()) << isa.status();
    EXPECT_EQ(CpuIsaName(*isa), name);
  }
}

TEST(CpuIsaTest, AnUnknownNameIsRefusedWithTheKnownOnes) {
  for (const char* name : {"", "AVX2", "sse", "avx512bf16 "}) {
    const absl::StatusOr<CpuIsa> isa = ParseCpuIsa(name);
    ASSERT_FALSE(isa.ok()) << name;
    EXPECT_EQ(isa.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(isa.status().message(),
                AllOf(HasSubstr(name), HasSubstr("ref, avx2, avx512, avx512bf16")));
  }
}

TEST(CpuBackendTest, EveryLevelFillsTheWholeTable) {
  for (CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 2);
    const Ops& ops = CpuOps(*backend);
    EXPECT_EQ(ops.name, "cpu " + std::string(CpuIsaName(isa)) + ", 2 threads");
    EXPECT_EQ(ops.backend, backend.get());
    EXPECT_TRUE(ops.supports && ops.embed && ops.ple && ops.rms_norm && ops.norm_add &&
                ops.linear && ops.linear_clusters && ops.linear_geglu && ops.gelu_mul &&
                ops.rope_table && ops.qkv_post && ops.attention && ops.route && ops.experts &&
                ops.softcap && ops.for_each)
        << ops.name;
  }
}

TEST(CpuBackendTest, ThreadsOutOfRangeAreRefused) {
  for (int threads : {-1, 1025}) {
    const absl::StatusOr<CpuBackendPtr> backend = MakeCpuBackend({.threads = threads});
    ASSERT_FALSE(backend.ok());
    EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(backend.status().message(),
                AllOf(HasSubstr(std::to_string(threads)), HasSubstr("1024")));
  }
}

TEST(CpuBackendTest, ALevelAboveTheMachinesIsRefused) {
  if (BestCpuIsa() == CpuIsa::kAvx512Bf16) GTEST_SKIP() << "this machine has every level";
  const absl::StatusOr<CpuBackendPtr> backend = MakeCpuBackend({.isa = CpuIsa::kAvx512Bf16});
  ASSERT_FALSE(backend.ok());
  EXPECT_THAT(backend.status().message(), HasSubstr(std::string(CpuIsaName(BestCpuIsa()))));
}

TEST(CpuBackendTest, NoNumberOfThreadsMeansTheMachines) {
  const absl::StatusOr<CpuBackendPtr> backend = MakeCpuBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(CpuThreads(**backend),
            DefaultThreads(static_cast<int>(AffinityCpus().size()), CgroupCpuLimit()));
}

TEST(CpuBackendTest, RunOnTeamCallsEveryThread) {
  const CpuBackendPtr backend = BackendAt(BestCpuIsa(), 3);
  std::vector<int> counts(3);
  RunOnTeam(
      *backend,
      [](void* context, int thread, int) { ++(*static_cast<std::vector<int>*>(context))[thread]; },
      &counts);
  EXPECT_THAT(counts, Each(1));
}

TEST(CpuBackendTest, ForEachRunsEveryTaskOnce) {
  const CpuBackendPtr backend = BackendAt(BestCpuIsa(), 3);
  const Ops& ops = CpuOps(*backend);
  std::vector<int> counts(100);
  ops.for_each(
      ops.backend, 100,
      [](void* context, int i) { ++(*static_cast<std::vector<int>*>(context))[i]; }, &counts);
  EXPECT_THAT(counts, Each(1));
}

TEST(CpuFeaturesTest, ThreadsStayWithinTheQuota) {
  EXPECT_EQ(DefaultThreads(8, std::nullopt), 8);
  EXPECT_EQ(DefaultThreads(8, 3.5), 3);
  EXPECT_EQ(DefaultThreads(8, 16.0), 8);
  EXPECT_EQ(DefaultThreads(8, 0.5), 1);
}

TEST(CpuFeaturesTest, CpuMaxIsReadAsKernelsWriteIt) {
  EXPECT_THAT(ParseCpuMax("150000 100000\n"), Optional(1.5));
  EXPECT_THAT(ParseCpuMax("400000\n 100000\n"), Optional(4.0));
  for (const char* text : {"max 100000\n", "", "-1 100000", "100000", "100000 0", "x y"}) {
    EXPECT_EQ(ParseCpuMax(text), std::nullopt) << text;
  }
}

TEST(MachineProbeTest, EveryLevelHasAMultiplyAddPeak) {
  for (CpuIsa isa : Levels()) {
    for (WeightFormat format : {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4}) {
      EXPECT_GT(MeasureMultiplyAddPeak(*BackendAt(isa, 1), format), 0.0) << CpuIsaName(isa);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
