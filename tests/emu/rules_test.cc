// Rules of CUDA and PTX that a kernel can break at run time: each is an error with the caller's
// line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/kport.h"

namespace tandem::kernels::cuda_emu {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// What a launch of 64 threads with 64 bytes of dynamic shared memory leaves as error.
std::string ErrorOf(void (*kernel)()) {
  emu::Stream stream;
  launch(kernel, 1, 64, 64, &stream);
  return stream.TakeError();
}

// The message names this file and says `what`.
auto Tells(const char* what) { return AllOf(HasSubstr("rules_test.cc:"), HasSubstr(what)); }

alignas(16) constexpr uint32_t kGlobal[8] = {};

TEST(KernelRulesTest, AsyncCopiesWriteAlignedSharedMemory) {
  EXPECT_THAT(ErrorOf([] {
                uint32_t local[4];
                cp_async_4(local, kGlobal, true);
              }),
              Tells("outside shared memory"));
  EXPECT_THAT(ErrorOf([] {
                K_DYN_SMEM(uint32_t, smem);
                cp_async_8(smem + 1, kGlobal, true);
              }),
              Tells("not a multiple of its size"));
}

TEST(KernelRulesTest, MatrixLoadsReadAlignedSharedMemory) {
  EXPECT_THAT(ErrorOf([] {
                uint32_t tile[1];
                ldsm_x1(tile, kGlobal);
              }),
              Tells("outside shared memory"));
  EXPECT_THAT(ErrorOf([] {
                K_DYN_SMEM(uint32_t, smem);
                uint32_t tile[1];
                ldsm_x1(tile, smem + 1);
              }),
              Tells("not a multiple of 16"));
}

TEST(KernelRulesTest, ShufflesStayInsideTheirMaskAndWidth) {
  EXPECT_THAT(ErrorOf([] {
                if (lane_id() < 16) __shfl_sync(0xffffu, 1, 20);
              }),
              Tells("outside its mask"));
  EXPECT_THAT(ErrorOf([] { __shfl_xor_sync(kFullMask, 1, 1, 12); }), Tells("power of two"));
}

TEST(KernelRulesTest, NoBarrierAfterThreadsHaveReturned) {
  EXPECT_THAT(ErrorOf([] {
                if (threadIdx.x < 32) return;
                __syncthreads();
              }),
              Tells("have returned"));
  EXPECT_THAT(ErrorOf([] {
                if (lane_id() == 0) return;
                __syncwarp();
              }),
              Tells("have returned"));
}

TEST(KernelRulesTest, ThreadsThatWaitForEachOtherAreToldOf) {
  // Warp 0 waits for its own lanes, some of which wait for the block.
  const std::string error = ErrorOf([] {
    if (threadIdx.x < 16) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  });
  EXPECT_THAT(error, AllOf(Tells("16 threads wait in __syncwarp"),
                           HasSubstr("48 threads wait in __syncthreads")));
}

}  // namespace
}  // namespace tandem::kernels::cuda_emu
