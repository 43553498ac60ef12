// Memory, copies, events and graphs of a device.
#include "kernels/cuda/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

namespace tandem::kernels {
namespace {

using K_WORLD::Device;
using K_WORLD::DeviceMemory;
using K_WORLD::DeviceStream;
using K_WORLD::Event;
using K_WORLD::Graph;
using K_WORLD::PinnedMemory;
using testing::Each;
using testing::ElementsAre;

// y[i] = 2 * x[i] for i < length[0], -1 behind.
__global__ void DoubleSomeKernel(const int32_t* length, const float* x, float* y) {
  const int i = static_cast<int>(threadIdx.x);
  K_WORLD::st(y + i, i < K_WORLD::ld(length) ? 2.0f * K_WORLD::ld(x + i) : -1.0f);
}

constexpr int kCount = 32;

// A device with room for the arrays above on both sides.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<Device> device = Device::Open(0);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = std::make_unique<Device>(*std::move(device));
    absl::StatusOr<DeviceStream> stream = device_->MakeStream();
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = std::make_unique<DeviceStream>(*std::move(stream));
    for (DeviceMemory* memory : {&length_, &x_, &y_}) {
      absl::StatusOr<DeviceMemory> made = device_->Allocate(kCount * sizeof(float), "arrays");
      ASSERT_TRUE(made.ok()) << made.status();
      *memory = *std::move(made);
    }
    for (PinnedMemory* memory : {&host_length_, &host_x_, &host_y_}) {
      absl::StatusOr<PinnedMemory> made =
          device_->AllocatePinned(kCount * sizeof(float), "staging");
      ASSERT_TRUE(made.ok()) << made.status();
      *memory = *std::move(made);
    }
    Ints(host_length_)[0] = 3;
    for (int i = 0; i < kCount; ++i) Floats(host_x_)[i] = static_cast<float>(i + 1);
    for (int i = 0; i < kCount; ++i) Floats(host_y_)[i] = 0.0f;
  }

  static float* Floats(const auto& memory) { return reinterpret_cast<float*>(memory.data()); }
  static int32_t* Ints(const auto& memory) { return reinterpret_cast<int32_t*>(memory.data()); }
  std::vector<float> Result() const { return {Floats(host_y_), Floats(host_y_) + kCount}; }

  // Inputs to the device, the kernel, its output back.
  void GiveStep() {
    ASSERT_TRUE(stream_->CopyToDevice(length_.data(), host_length_.data(), 4).ok());
    ASSERT_TRUE(stream_->CopyToDevice(x_.data(), host_x_.data(), x_.size()).ok());
    K_WORLD::launch(DoubleSomeKernel, 1, kCount, 0, stream_->get(), Ints(length_), Floats(x_),
                    Floats(y_));
    ASSERT_TRUE(stream_->CheckLaunches("DoubleSome").ok());
    ASSERT_TRUE(stream_->CopyToHost(host_y_.data(), y_.data(), y_.size()).ok());
  }
  static std::vector<float> Want(int length) {
    std::vector<float> want(kCount, -1.0f);
    for (int i = 0; i < length; ++i) want[i] = 2.0f * static_cast<float>(i + 1);
    return want;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<DeviceStream> stream_;
  DeviceMemory length_, x_, y_;
  PinnedMemory host_length_, host_x_, host_y_;
};

TEST_F(DeviceTest, WhatAStreamWasGivenHasHappenedAfterSynchronize) {
  GiveStep();
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(Result(), Want(3));
}

TEST_F(DeviceTest, FillsAndCopiesOnTheDeviceKeepTheirOrder) {
  ASSERT_TRUE(stream_->CopyToDevice(x_.data(), host_x_.data(), x_.size()).ok());
  ASSERT_TRUE(stream_->Fill(y_.data(), 0, y_.size()).ok());
  ASSERT_TRUE(stream_->CopyOnDevice(y_.data(), x_.data(), 8).ok());
  ASSERT_TRUE(stream_->CopyToHost(host_y_.data(), y_.data(), y_.size()).ok());
  ASSERT_TRUE(stream_->Synchronize().ok());
  std::vector<float> want(kCount, 0.0f);
  want[0] = 1.0f;
  want[1] = 2.0f;
  EXPECT_EQ(Result(), want);
}

TEST_F(DeviceTest, AnEventWaitsForWhatWasGivenBeforeIt) {
  absl::StatusOr<Event> begin = device_->MakeTimedEvent(), end = device_->MakeTimedEvent();
  ASSERT_TRUE(begin.ok() && end.ok());
  EXPECT_TRUE(end->Wait().ok()) << "before it is recorded";
  ASSERT_TRUE(stream_->Record(&*begin).ok());
  GiveStep();
  ASSERT_TRUE(stream_->Record(&*end).ok());
  ASSERT_TRUE(end->Wait().ok());
  EXPECT_EQ(Result(), Want(3));
  const absl::StatusOr<double> us = end->MicrosecondsSince(*begin);
  ASSERT_TRUE(us.ok()) << us.status();
  EXPECT_GE(*us, 0.0);
}

TEST_F(DeviceTest, AReplayedGraphFollowsChangedLengths) {
  // Given a step recorded with a length of 3, which did not run yet.
  ASSERT_TRUE(stream_->Fill(y_.data(), 0, y_.size()).ok());
  ASSERT_TRUE(stream_->BeginCapture().ok());
  GiveStep();
  const absl::StatusOr<Graph> graph = stream_->EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_THAT(Result(), Each(0.0f));
  // When it is replayed with other lengths, each time after the last has been done.
  for (const int length : {7, 0, 32}) {
    Ints(host_length_)[0] = length;
    ASSERT_TRUE(stream_->Launch(*graph).ok());
    ASSERT_TRUE(stream_->Synchronize().ok());
    const std::vector<float> replayed = Result();
    // Then the result is that of the same calls without a graph.
    GiveStep();
    ASSERT_TRUE(stream_->Synchronize().ok());
    EXPECT_EQ(replayed, Result());
    EXPECT_EQ(replayed, Want(length));
  }
}

TEST_F(DeviceTest, AWaitWhileAGraphIsRecordedEndsTheCapture) {
  ASSERT_TRUE(stream_->BeginCapture().ok());
  GiveStep();
  EXPECT_FALSE(stream_->Synchronize().ok());
  EXPECT_FALSE(stream_->EndCapture().ok());
  // Then the stream works on.
  GiveStep();
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(Result(), Want(3));
}

TEST_F(DeviceTest, ALaunchThatIsRefusedIsTold) {
  K_WORLD::launch(DoubleSomeKernel, 1, 2048, 0, stream_->get(), Ints(length_), Floats(x_),
                  Floats(y_));
  const absl::Status refused = stream_->CheckLaunches("DoubleSome");
  EXPECT_EQ(refused.code(), absl::StatusCode::kInternal) << refused;
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("DoubleSome"));
  EXPECT_TRUE(stream_->CheckLaunches("nothing").ok());
  GiveStep();
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(Result(), Want(3));
}

TEST_F(DeviceTest, FreedMemoryCanBeHadAgain) {
  const absl::StatusOr<size_t> before = device_->FreeBytes();
  ASSERT_TRUE(before.ok());
  const size_t bytes = size_t{64} << 20;
  {
    const absl::StatusOr<DeviceMemory> memory = device_->Allocate(bytes, "a large array");
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(memory->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 256, 0u);
    EXPECT_LE(*device_->FreeBytes() + bytes, *before);
  }
  EXPECT_GE(*device_->FreeBytes(), *before);
}

TEST_F(DeviceTest, MoreThanThereIsIsRefusedWithTheNumbers) {
  const size_t bytes = size_t{1} << 50;
  const absl::StatusOr<DeviceMemory> memory = device_->Allocate(bytes, "KV blocks");
  ASSERT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(memory.status().message()),
      testing::AllOf(testing::HasSubstr("KV blocks"), testing::HasSubstr(std::to_string(bytes)),
                     testing::HasSubstr(std::to_string(device_->info().total_bytes)),
                     testing::HasSubstr("--kv-memory")));
  EXPECT_TRUE(device_->Allocate(kCount, "a small array").ok());
}

TEST_F(DeviceTest, NoBytesAreNoMemory) {
  const absl::StatusOr<DeviceMemory> memory = device_->Allocate(0, "nothing");
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(memory->data(), nullptr);
  EXPECT_EQ(memory->size(), 0u);
  EXPECT_TRUE(device_->AllocatePinned(0, "nothing").ok());
}

}  // namespace
}  // namespace tandem::kernels
