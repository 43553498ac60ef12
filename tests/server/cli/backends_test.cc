#include "server/cli/backends.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/model_config.h"
#include "server/cli/model_shapes.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;

Settings On(const std::string& device) { return {.device = device, .threads = 1}; }

TEST(MakeBackendsTest, TheCpuIsTakenWithoutAWordWhereItIsAskedFor) {
  const auto backends = MakeBackends(On("cpu"));
  ASSERT_TRUE(backends.ok()) << backends.status();
  EXPECT_EQ(backends->device, nullptr);
  EXPECT_EQ(backends->why_cpu, "");
  EXPECT_TRUE(backends->ops().host_memory);
}

TEST(MakeBackendsTest, AutoTakesADeviceOrSaysWhyNot) {
  const auto backends = MakeBackends(On("auto"));
  ASSERT_TRUE(backends.ok()) << backends.status();
  EXPECT_EQ(backends->device == nullptr, !backends->why_cpu.empty());
  Settings f32 = On("auto");
  f32.dtype = "f32";
  const auto exact = MakeBackends(f32);
  ASSERT_TRUE(exact.ok()) << exact.status();
  EXPECT_EQ(exact->device, nullptr);
  EXPECT_EQ(exact->why_cpu, "--dtype f32 is for the CPU alone");
}

TEST(MakeBackendsTest, ADeviceAndF32ContradictEachOther) {
  Settings settings = On("emu");
  settings.kv_type_k = "f32";
  const auto backends = MakeBackends(settings);
  EXPECT_EQ(backends.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(backends.status().message()),
              HasSubstr("--device emu and --kv-type-k f32"));
}

TEST(MakeBackendsTest, ADeviceThatIsNotThereIsRefusedWithWhatToDo) {
  const auto backends = MakeBackends(On("cuda:999"));
  ASSERT_FALSE(backends.ok());
  EXPECT_THAT(std::string(backends.status().message()), HasSubstr("--device cuda:999"));
}

TEST(CheckShapesTest, PublishedModelsAndTheirAssistantsHaveKernels) {
  const auto backends = MakeBackends(On("emu"));
  ASSERT_TRUE(backends.ok()) << backends.status();
  for (const char* const name : {"e2b", "e4b", "12b", "26b", "31b"}) {
    ModelSource source = {.config = *engine::PublishedShape(name)};
    source.assistant = AssistantSource{.config = *engine::PublishedAssistantShape(name)};
    EXPECT_TRUE(CheckShapes(source, *backends).ok()) << name << CheckShapes(source, *backends);
    source.config.hidden += 4;
    EXPECT_THAT(std::string(CheckShapes(source, *backends).message()),
                HasSubstr("hidden_size is " + std::to_string(source.config.hidden)));
  }
}

TEST(PlanMemoryOfTest, ADevicesMemoryIsSharedOutWithItsKernelsPart) {
  const auto backends = MakeBackends(On("emu"));
  ASSERT_TRUE(backends.ok()) << backends.status();
  // Given a model that is larger than the emulated device.
  const auto large = PlanMemoryOf(*backends, *engine::PublishedShape("31b"), {});
  EXPECT_EQ(large.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("on cuda:0"));
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("--device cpu"));
}

}  // namespace
}  // namespace tandem::server
