// Launches that a device would refuse, and what an error leaves behind.
#include "kernels/emu/stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "kernels/cuda/kport.h"

namespace tandem::kernels {
namespace {

using testing::HasSubstr;

void MarkThread(int* seen) { seen[blockIdx.x * blockDim.x + threadIdx.x] += 1; }

// Fails in block 2 alone.
void FailInOneBlock(std::atomic<int>* returned) {
  if (blockIdx.x == 2 && threadIdx.x == 0) emu::FailAt(emu::Site(), "planted");
  returned->fetch_add(1);
}

TEST(EmuStreamTest, EveryThreadOfEveryBlockRunsOnce) {
  for (const emu::Order order : {emu::Order::kForward, emu::Order::kReverse, emu::Order::kSeeded}) {
    for (const int os_threads : {1, 3}) {
      emu::Stream stream({order, 12345}, os_threads);
      std::vector<int> seen(6 * 64, 0);
      cuda_emu::launch(MarkThread, 6, 64, 0, &stream, seen.data());
      EXPECT_EQ(stream.TakeError(), "");
      EXPECT_THAT(seen, testing::Each(1));
    }
  }
}

TEST(EmuStreamTest, GridsOfThreeDimensionsNumberTheirBlocks) {
  emu::Stream stream;
  std::vector<int> seen(2 * 3 * 4, 0);
  const auto kernel = +[](int* out) {
    if (threadIdx.x == 0) {
      out[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] += 1;
    }
  };
  cuda_emu::launch(kernel, emu::dim3(2, 3, 4), 32, 0, &stream, seen.data());
  EXPECT_EQ(stream.TakeError(), "");
  EXPECT_THAT(seen, testing::Each(1));
}

TEST(EmuStreamTest, ShapesThatADeviceRefusesAreErrors) {
  emu::Stream stream;
  std::vector<int> seen(2048, 0);
  cuda_emu::launch(MarkThread, 0, 32, 0, &stream, seen.data());
  EXPECT_THAT(stream.TakeError(), HasSubstr("no blocks"));
  for (const int threads : {0, 33, 1056}) {
    cuda_emu::launch(MarkThread, 1, threads, 0, &stream, seen.data());
    EXPECT_THAT(stream.TakeError(), HasSubstr("threads per block"));
  }
  cuda_emu::launch(MarkThread, 1, 32, 256 << 10, &stream, seen.data());
  EXPECT_THAT(stream.TakeError(), HasSubstr("shared memory"));
  EXPECT_THAT(seen, testing::Each(0));
}

TEST(EmuStreamTest, AnErrorStaysUntilItIsTakenAndTheStreamServesOn) {
  emu::Stream stream({}, /*os_threads=*/1);
  std::atomic<int> returned{0};
  // Given a launch that breaks a rule in its third block: the blocks behind are left out.
  cuda_emu::launch(FailInOneBlock, 5, 32, 0, &stream, &returned);
  EXPECT_EQ(returned.load(), 2 * 32);
  // When another launch follows, it is left out too.
  std::vector<int> seen(64, 0);
  cuda_emu::launch(MarkThread, 1, 64, 0, &stream, seen.data());
  EXPECT_THAT(seen, testing::Each(0));
  // Then the error is told once, and the stream works again.
  EXPECT_THAT(stream.TakeError(), HasSubstr("stream_test.cc:"));
  EXPECT_EQ(stream.TakeError(), "");
  cuda_emu::launch(MarkThread, 1, 64, 0, &stream, seen.data());
  EXPECT_EQ(stream.TakeError(), "");
  EXPECT_THAT(seen, testing::Each(1));
}

}  // namespace
}  // namespace tandem::kernels
