// What goes wrong with a device, as the emulated one shows it; and that it runs late.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"

namespace tandem::kernels {
namespace {

using cuda_emu::Device;
using cuda_emu::DeviceMemory;
using cuda_emu::DeviceStream;
using cuda_emu::Event;
using cuda_emu::Machine;
using cuda_emu::PinnedMemory;
using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(DeviceOpenTest, EveryReasonNotToStartHasItsOwnMessage) {
  struct Case {
    Machine machine;
    int index;
    absl::StatusCode code;
    const char* says;
  };
  const Case cases[] = {
      {{.driver_version = 0}, 0, absl::StatusCode::kFailedPrecondition, "no NVIDIA driver"},
      {{.driver_version = 12040}, 0, absl::StatusCode::kFailedPrecondition, "serves CUDA 12.4"},
      {{.devices = 0}, 0, absl::StatusCode::kNotFound, "CUDA_VISIBLE_DEVICES"},
      {{.devices = 2}, 2, absl::StatusCode::kInvalidArgument, "cuda:0 to cuda:1"},
      {{.devices = 2}, -1, absl::StatusCode::kInvalidArgument, "cuda:-1"},
      {{.major = 7, .minor = 5}, 0, absl::StatusCode::kUnimplemented, "7.5"},
      {{.memory_bytes = 1 << 20, .used_bytes = 1 << 20},
       0,
       absl::StatusCode::kResourceExhausted,
       "other processes"},
  };
  for (const Case& c : cases) {
    const absl::Status status = Device::Open(c.index, c.machine).status();
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(Message(status), HasSubstr(c.says));
  }
  // A driver of the same major version serves a newer runtime.
  EXPECT_TRUE(
      Device::Open(1, {.devices = 2, .driver_version = 13000, .runtime_version = 13010}).ok());
}

TEST(DeviceFaultsTest, AnyAllocationCanBeTheOneThatFails) {
  for (const int failing : {1, 2, 3}) {
    const absl::StatusOr<Device> device = Device::Open(0, {.failing_allocation = failing});
    ASSERT_TRUE(device.ok());
    for (int i = 1; i <= 4; ++i) {
      const absl::Status status = i == 2 ? device->AllocatePinned(100, "staging").status()
                                         : device->Allocate(100, "weights").status();
      if (i != failing) {
        EXPECT_TRUE(status.ok()) << status;
        continue;
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
      EXPECT_THAT(Message(status), HasSubstr(i == 2 ? "staging: 100 bytes of page-locked"
                                                    : "weights: 100 bytes of device memory"));
    }
  }
}

struct OpenedStream {
  Device device;
  DeviceStream stream;
};

OpenedStream OpenStream(const Machine& machine) {
  absl::StatusOr<Device> device = Device::Open(0, machine);
  absl::StatusOr<DeviceStream> stream = device->MakeStream();
  return {*std::move(device), *std::move(stream)};
}

TEST(DeviceFaultsTest, ALostDeviceStaysLost) {
  auto [device, stream] = OpenStream({.failing_synchronize = 2});
  absl::StatusOr<Event> event = device.MakeEvent();
  ASSERT_TRUE(stream.Synchronize().ok());
  ASSERT_TRUE(stream.Record(&*event).ok());
  const absl::Status lost = event->Wait();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
  EXPECT_THAT(Message(lost), HasSubstr("device is lost"));
  int word = 0;
  EXPECT_EQ(stream.Synchronize(), lost);
  EXPECT_EQ(stream.Fill(&word, 1, sizeof(word)), lost);
  EXPECT_EQ(stream.CheckLaunches("anything"), lost);
  EXPECT_EQ(device.Allocate(8, "anything").status(), lost);
  EXPECT_EQ(device.AllocatePinned(8, "anything").status(), lost);
  EXPECT_EQ(device.MakeStream().status(), lost);
  EXPECT_EQ(device.UseOnThisThread(), lost);
  EXPECT_EQ(word, 0);
}

void BreakARule(int* later) {
  if (later == nullptr) emu::FailAt(emu::Site(), "a rule is broken");
  later[0] = 1;
}

TEST(DeviceFaultsTest, AFaultInAKernelLosesTheDeviceAndNothingRunsBehindIt) {
  auto [device, stream] = OpenStream({});
  std::vector<int> words(32, 0);
  cuda_emu::launch(BreakARule, 1, 32, 0, stream.get(), nullptr);
  cuda_emu::launch(BreakARule, 1, 32, 0, stream.get(), words.data());
  EXPECT_TRUE(stream.CheckLaunches("BreakARule").ok()) << "it has not run yet";
  const absl::Status lost = stream.Synchronize();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
  EXPECT_THAT(Message(lost), HasSubstr("device_faults_test.cc:"));
  cuda_emu::launch(BreakARule, 1, 32, 0, stream.get(), words.data());
  EXPECT_EQ(stream.Synchronize(), lost);
  EXPECT_EQ(words[0], 0);
}

// A copy of four bytes to the device and back.
struct RoundTrip {
  DeviceMemory there;
  PinnedMemory from, to;

  explicit RoundTrip(const Device& device) {
    there = *device.Allocate(4, "array");
    from = *device.AllocatePinned(4, "staging");
    to = *device.AllocatePinned(4, "staging");
    std::memset(from.data(), 1, 4);
  }
  void Give(DeviceStream* stream) {
    EXPECT_TRUE(stream->CopyToDevice(there.data(), from.data(), 4).ok());
    EXPECT_TRUE(stream->CopyToHost(to.data(), there.data(), 4).ok());
  }
  int result() const { return static_cast<int>(to.data()[0]); }
};

TEST(EmulatedDeviceTest, WhoReadsBeforeAwaitingFindsPoison) {
  auto [device, stream] = OpenStream({});
  RoundTrip trip(device);
  trip.Give(&stream);
  EXPECT_EQ(trip.result(), 0xff);
  ASSERT_TRUE(stream.Synchronize().ok());
  EXPECT_EQ(trip.result(), 1);
}

TEST(EmulatedDeviceTest, WhoOverwritesTheSourceOfACopyTooEarlySendsTheNewBytes) {
  auto [device, stream] = OpenStream({});
  RoundTrip trip(device);
  trip.Give(&stream);
  std::memset(trip.from.data(), 2, 4);
  ASSERT_TRUE(stream.Synchronize().ok());
  EXPECT_EQ(trip.result(), 2);
}

TEST(EmulatedDeviceTest, AnEventAwaitsWhatIsBeforeItAndNoMore) {
  auto [device, stream] = OpenStream({});
  RoundTrip first(device), second(device);
  absl::StatusOr<Event> event = device.MakeEvent();
  first.Give(&stream);
  ASSERT_TRUE(stream.Record(&*event).ok());
  second.Give(&stream);
  ASSERT_TRUE(event->Wait().ok());
  EXPECT_EQ(first.result(), 1);
  EXPECT_EQ(second.result(), 0xff);
}

TEST(EmulatedDeviceTest, FreeingMemoryWaitsForWhatUsesIt) {
  auto [device, stream] = OpenStream({});
  RoundTrip trip(device);
  trip.Give(&stream);
  trip.there = DeviceMemory();
  EXPECT_EQ(trip.result(), 1);
}

TEST(EmulatedDeviceTest, AStreamThatRunsAtOnceNeedsNoWait) {
  auto [device, stream] = OpenStream({.runs_at_once = true});
  RoundTrip trip(device);
  trip.Give(&stream);
  EXPECT_EQ(trip.result(), 1);
}

TEST(EmulatedDeviceTest, AllocatingWhileAGraphIsRecordedIsRefused) {
  auto [device, stream] = OpenStream({});
  ASSERT_TRUE(stream.BeginCapture().ok());
  EXPECT_EQ(device.Allocate(4, "array").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(stream.EndCapture().ok());
  EXPECT_TRUE(device.Allocate(4, "array").ok());
}

}  // namespace
}  // namespace tandem::kernels
