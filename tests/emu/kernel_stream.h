// The stream of a kernel test: emulated, in a given order; compiled by nvcc, of the device.
#pragma once

#include <string>

#include "kernels/cuda/kport.h"
#include "kernels/emu/stream.h"

namespace tandem::kernels {

#if defined(__CUDACC__)

#pragma nv_diag_suppress 128  // loops behind `if (!kCountsTraffic) GTEST_SKIP()`
constexpr bool kCountsTraffic = false;

// The order is the device's own.
class KernelStream {
 public:
  explicit KernelStream(emu::Schedule = {}, int /*os_threads*/ = 1) { cudaStreamCreate(&stream_); }
  ~KernelStream() { cudaStreamDestroy(stream_); }
  KernelStream(const KernelStream&) = delete;
  KernelStream& operator=(const KernelStream&) = delete;

  cuda::Stream get() const { return stream_; }

  // Waits for the kernels.
  std::string TakeError() {
    const std::string launch = cuda::TakeLaunchError(stream_);
    const cudaError_t run = cudaStreamSynchronize(stream_);
    return launch.empty() && run != cudaSuccess ? cudaGetErrorString(run) : launch;
  }
  emu::TrafficBytes TakeTraffic() { return {}; }

 private:
  cudaStream_t stream_ = nullptr;
};

#else

constexpr bool kCountsTraffic = true;  // checks of TakeTraffic mean something

class KernelStream : public emu::Stream {
 public:
  using emu::Stream::Stream;
  cuda_emu::Stream get() { return this; }
};

#endif

}  // namespace tandem::kernels
