#include "server/config/bench_kernels_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/config/resolve.h"

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Invocation> ResolveBench(std::vector<std::string> words) {
  words.insert(words.begin(), {"bench", "kernels"});
  return Resolve(words, {}, [](const std::string&) { return absl::NotFoundError("none"); });
}

std::string Error(const std::vector<std::string>& words) {
  return std::string(ResolveBench(words).status().message());
}

TEST(BenchKernelsOptionsTest, AllOfThemArrive) {
  const auto invocation =
      ResolveBench({"--family", "head,linear", "-r", "3", "-o", "csv", "--model-shape", "26b",
                    "--max-step-rows", "64", "--threads", "1", "--device", "cpu"});
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  const BenchKernelsArguments& kernels = invocation->settings.bench_kernels;
  EXPECT_EQ(kernels.family, "head,linear");
  EXPECT_EQ(kernels.repetitions, 3);
  EXPECT_EQ(kernels.output, "csv");
  EXPECT_EQ(kernels.model_shape, "26b");
  EXPECT_EQ(invocation->settings.max_step_rows, 64);
}

TEST(BenchKernelsOptionsTest, FamiliesComeInTheOrderOfMeasuring) {
  EXPECT_THAT(*ParseKernelFamilies("ple,linear"), ElementsAre("linear", "ple"));
  EXPECT_EQ(ParseKernelFamilies("all")->size(), kKernelFamilies.size());
}

TEST(BenchKernelsOptionsTest, WhatThereIsNotIsRefusedWithWhatThereIs) {
  EXPECT_THAT(Error({"--family", "gemm"}), AllOf(HasSubstr("gemm"), HasSubstr("qkv-post")));
  EXPECT_THAT(Error({"--family", "norm,norm"}), HasSubstr("twice"));
  EXPECT_THAT(Error({"--family", ""}), HasSubstr("--family"));
  EXPECT_THAT(Error({"--model", "m", "--model-shape", "e2b"}),
              AllOf(HasSubstr("--model-shape"), HasSubstr("contradict")));
}

}  // namespace
}  // namespace tandem::server
