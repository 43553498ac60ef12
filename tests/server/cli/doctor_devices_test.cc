#include "server/cli/doctor_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Kind = DeviceSetting::Kind;
using Level = Finding::Level;

constexpr DeviceSetting kAuto = {Kind::kAuto};
constexpr DeviceSetting kFirst = {Kind::kCuda};

kernels::DeviceInfo Device(int index, int major = 9) {
  return {.index = index,
          .name = "Big",
          .major = major,
          .multiprocessors = 100,
          .total_bytes = size_t{8} << 30,
          .free_bytes = size_t{6} << 30,
          .driver_version = 13010,
          .runtime_version = 13000};
}

CudaFacts Facts(std::vector<kernels::DeviceInfo> devices) {
  return {.built_version = 13000, .devices = std::move(devices), .cublaslt = "cuBLASLt 13.0.2"};
}

TEST(CheckDevicesTest, WhatKeepsDevicesAwayFailsOnlyWhereTheyWereAskedFor) {
  const CudaFacts none = {.built_version = 13000,
                          .devices = kernels::CheckDriver(0, /*runtime_version=*/13000)};
  const std::vector<Finding> fallen_back = CheckDevices(kAuto, none);
  ASSERT_THAT(fallen_back, SizeIs(1));
  EXPECT_EQ(fallen_back[0].level, Level::kPass);
  EXPECT_EQ(fallen_back[0].text, "this machine has no NVIDIA driver; the CPU does the work");
  const std::vector<Finding> asked = CheckDevices(kFirst, none);
  ASSERT_THAT(asked, SizeIs(1));
  EXPECT_EQ(asked[0].level, Level::kFail);
  EXPECT_THAT(asked[0].advice, AllOf(HasSubstr("13.0"), HasSubstr("--device cpu")));
}

TEST(CheckDevicesTest, NoDeviceAndANumberThatNoneHasAreTold) {
  EXPECT_EQ(CheckDevices(kAuto, Facts({}))[0].level, Level::kPass);
  EXPECT_EQ(CheckDevices(kFirst, Facts({}))[0].level, Level::kFail);
  const std::vector<Finding> second = CheckDevices({Kind::kCuda, 1}, Facts({Device(0)}));
  EXPECT_EQ(second[0].level, Level::kFail);
  EXPECT_THAT(second[0].text, HasSubstr("cuda:1"));
}

TEST(CheckDevicesTest, EachDeviceIsShownWithTheCodeThatItRuns) {
  const std::vector<Finding> found = CheckDevices(kFirst, Facts({Device(0), Device(1, 12)}));
  ASSERT_THAT(found, SizeIs(4));
  for (const Finding& finding : found) EXPECT_EQ(finding.level, Level::kPass) << finding.text;
  EXPECT_THAT(found[0].text, AllOf(HasSubstr("built with CUDA 13.0"), HasSubstr("serves 13.1"),
                                   HasSubstr("2 devices")));
  EXPECT_EQ(found[1].name, "cuda:0");
  EXPECT_THAT(found[1].text,
              AllOf(HasSubstr("Big"), HasSubstr("6.0 of 8.0 GiB free"), HasSubstr("runs sm_90a")));
  EXPECT_THAT(found[2].text, HasSubstr("runs sm_120"));
  EXPECT_EQ(found[3].text, "cuBLASLt 13.0.2");
}

TEST(CheckDevicesTest, ADeviceThatCanNotBeUsedFailsIfItIsTheOneAskedFor) {
  const CudaFacts facts = Facts({Device(0), Device(1, 7)});
  EXPECT_EQ(CheckDevices(kFirst, facts)[2].level, Level::kPass);
  const Finding old = CheckDevices({Kind::kCuda, 1}, facts)[2];
  EXPECT_EQ(old.level, Level::kFail);
  EXPECT_THAT(old.text, HasSubstr("compute capability 7.0"));
  CudaFacts full = Facts({Device(0)});
  full.devices->front().free_bytes = 0;
  EXPECT_EQ(CheckDevices(kFirst, full)[1].level, Level::kFail);
}

TEST(CheckDevicesTest, WithoutTheLibraryPromptsStillRun) {
  CudaFacts facts = Facts({Device(0)});
  facts.cublaslt = absl::NotFoundError("libcublasLt.so.13 was not found");
  const Finding library = CheckDevices(kFirst, facts).back();
  EXPECT_EQ(library.level, Level::kWarn);
  EXPECT_THAT(library.text, HasSubstr("own kernels"));
}

}  // namespace
}  // namespace tandem::server
