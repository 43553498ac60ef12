// Where emulated kernels are launched: how they are scheduled, what they moved, what went wrong.
//
// Stands where a cudaStream_t stands on the device. A launch has run to its end when it returns.
// Threads   one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/emu/block_runner.h"

namespace tandem::kernels::emu {

constexpr size_t kMaxSharedBytes = 227u << 10;  // of one block, as on sm_90

class Stream {
 public:
  // Blocks are spread over `os_threads` threads, the caller among them.
  explicit Stream(Schedule schedule = {}, int os_threads = 1);
  ~Stream();

  // Calls kernel once for every thread of every block. After an error the remaining blocks are left
  // out, and so is every launch until the error is taken. Shapes that a device would refuse are
  // errors: no blocks, threads not a multiple of 32 or above 1024, shared memory above 227 KiB.
  void Launch(const Kernel& kernel, const LaunchShape& shape);

  // The first error since the last call, "file:line: what happened"; empty when there was none.
  std::string TakeError();

  // Global memory that all launches since the last call asked for through the wrappers.
  TrafficBytes TakeTraffic();

 private:
  Schedule schedule_;
  std::vector<std::unique_ptr<BlockRunner>> runners_;  // one per OS thread
  std::string error_;
};

}  // namespace tandem::kernels::emu
