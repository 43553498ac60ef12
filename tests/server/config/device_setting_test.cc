#include "server/config/device_setting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tandem::server {
namespace {

using ::testing::HasSubstr;
using Kind = DeviceSetting::Kind;

TEST(DeviceSettingTest, NamesAndNumbersAreKnown) {
  EXPECT_EQ(ParseDevice("auto")->kind, Kind::kAuto);
  EXPECT_EQ(ParseDevice("cpu")->kind, Kind::kCpu);
  EXPECT_EQ(ParseDevice("cuda")->kind, Kind::kCuda);
  EXPECT_EQ(ParseDevice("cuda")->index, 0);
  EXPECT_EQ(ParseDevice("cuda:7")->kind, Kind::kCuda);
  EXPECT_EQ(ParseDevice("cuda:7")->index, 7);
}

TEST(DeviceSettingTest, AnythingElseIsRefusedWithWhatIsKnown) {
  for (const std::string text : {"", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1x", "cuda:0x1",
                                 "cuda:+1", "cuda: 1", "cuda:99999999999", "cuda0", "cpu:0"}) {
    const absl::Status status = CheckDeviceName(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("auto, cpu, cuda or cuda:N")) << text;
  }
  EXPECT_THAT(std::string(CheckDeviceName("cud").message()), HasSubstr("did you mean cuda?"));
}

TEST(F32OptionTest, TheOptionThatAsksForF32IsNamed) {
  EXPECT_EQ(F32Option({}), "");
  EXPECT_EQ(F32Option({.dtype = "f32"}), "--dtype f32");
  EXPECT_EQ(F32Option({.dtype = "f32", .kv_type = "q8"}), "--dtype f32");
  EXPECT_EQ(F32Option({.kv_type = "f32"}), "--kv-type f32");
  EXPECT_EQ(F32Option({.kv_type = "f32/q8"}), "--kv-type f32/q8");
  EXPECT_EQ(F32Option({.kv_type_v = "f32"}), "--kv-type-v f32");
  EXPECT_EQ(F32Option({.kv_sliding_type = "q8/f32"}), "--kv-sliding-type q8/f32");
  EXPECT_EQ(F32Option({.kv_type = "max"}), "");
}

}  // namespace
}  // namespace tandem::server
