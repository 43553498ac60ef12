// Times kernels one by one: graphs of launches over arrays of random values, rotated past the L2
// cache (kernels.md 8).
//
// Cases     linear_cases.cu, attention_cases.cu, row_cases.cu: one function per family, which takes
//           arrays, describes a case and has it run.
// Worlds    On a device with published shapes. Emulated with tiny ones: that proves that a bench
//           works, its times mean nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"

namespace tandem::kernels::K_WORLD {

// The case that says how fast memory is.
inline constexpr char kCopyName[] = "copy on the device";

struct BenchCase {
  std::string name;
  uint64_t bytes = 0;    // that one call has to move, by the formula of its kernel
  double flops = 0.0;    // of one call; 0 where bytes decide
  double gate_us = 0.0;  // what a first release must reach on an H200; 0: not stated
  int calls = 1;         // in a graph, each with arrays of its own
  std::function<void(int call, DeviceStream& stream)> give;
};

struct BenchResult {
  std::string name;
  uint64_t bytes = 0;
  double flops = 0.0;
  double gate_us = 0.0;
  double median_us = 0.0;  // of one call, over the replays
  double min_us = 0.0;
  double max_us = 0.0;
};

enum class Content {
  kValues,  // finite as bf16, f16 and f32, magnitudes up to 2
  kBytes,
  kNothing,  // what was there before
};

class Bench {
 public:
  // Takes most of the device's free memory.
  static absl::StatusOr<Bench> Open(const Device& device, bool tiny);

  bool tiny() const { return tiny_; }
  const DeviceInfo& device() const { return device_.info(); }
  int Size(int published, int tiny) const { return tiny_ ? tiny : published; }

  // How many sets of arrays of `bytes` each keep a graph from finding its inputs in L2.
  int CallsPastL2(uint64_t bytes) const;

  // Device memory, 256-byte aligned, until the case has run. After a failure all are null, and the
  // case is left out.
  template <typename T>
  T* Take(int64_t count, Content content) {
    return reinterpret_cast<T*>(TakeBytes(static_cast<size_t>(count) * sizeof(T), content));
  }
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    return reinterpret_cast<T*>(UploadBytes(values.data(), values.size() * sizeof(T)));
  }

  // Measures; all arrays are free again. Errors of the device end the program's work.
  absl::Status Run(const BenchCase& c);

  const std::vector<BenchResult>& results() const { return results_; }
  const std::vector<std::string>& left_out() const { return left_out_; }

 private:
  Bench(const Device& device, DeviceStream stream, bool tiny)
      : device_(device), stream_(std::move(stream)), tiny_(tiny) {}
  std::byte* TakeBytes(size_t bytes, Content content);
  std::byte* UploadBytes(const void* from, size_t bytes);

  Device device_;
  DeviceStream stream_;
  bool tiny_;
  DeviceMemory memory_;
  size_t used_ = 0;
  bool full_ = false;  // a Take of the case did not fit
  PinnedMemory values_;
  PinnedMemory bytes_;
  PinnedMemory staging_;
  std::vector<Event> events_;  // begin and end of every replay
  std::vector<BenchResult> results_;
  std::vector<std::string> left_out_;  // cases for which there was no memory
};

absl::Status RunRowCases(Bench& bench);  // the copy bandwidth first
absl::Status RunLinearCases(Bench& bench);
absl::Status RunAttentionCases(Bench& bench);

}  // namespace tandem::kernels::K_WORLD
