// Times operations of a backend one by one, through its table alone: the same on every device.
//
//   bytes   what an operation has to move, by formula (kernel_bytes.h)
//   copy    bytes read and written per second by a copy between two large arrays, measured right
//           before each family: what memory gave at that moment
//
// Arrays are random and rotated: a call meets some that no cache still holds. Where that would take
// more than kMostCopies of them the figures are those of a cache, and say so.
// Not here  which operations (bench_kernels_cases.h), the report (bench_kernels_report.h).
// Threads   one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "server/cli/kernel_bytes.h"

namespace tandem::server {

struct KernelCase {
  std::string name;
  int rows = 0;
  bool prompt = false;  // of the class of rows of a prompt
  uint64_t bytes = 0;   // of one call
  int calls = 1;        // on arrays of their own, one behind the other
};

struct KernelResult {
  KernelCase test;
  std::string family;
  bool cached = false;          // all calls together stay within a cache
  std::vector<double> seconds;  // of one call, by repetition
  double copy_bytes_per_s = 0.0;
};

struct LeftOut {
  std::string what;
  std::string why;
};

struct KernelBenchPlan {
  int repetitions = 5;
  double least_run_s = 0.02;                 // what is shorter is repeated within a run
  uint64_t cache_bytes = 0;                  // of the last level
  uint64_t least_rotated_bytes = 128 << 20;  // beyond the caches of devices
  uint64_t most_bytes = 0;                   // of memory for arrays
  uint64_t copy_bytes = 512u << 20;          // of each of the two arrays that are copied
};

class KernelBench {
 public:
  // `done` is told of every result as it is there. `ops` outlives the bench.
  //   errors  kResourceExhausted when the arrays that are copied can not be had
  static absl::StatusOr<KernelBench> Create(const kernels::Ops& ops, const KernelBenchPlan& plan,
                                            std::function<void(const KernelResult&)> done);

  const kernels::Ops& ops() const { return *ops_; }

  // Measures copying; what runs from here on is of this family.
  void StartFamily(std::string_view family);

  // How many sets of arrays of `bytes` each are no longer held by any cache when their turn comes
  // again.
  int Copies(uint64_t bytes) const;

  // Memory of the backend, zeroed, until Reset. Null when it can not be had: cases are left out
  // until then.
  template <typename T>
  T* Take(uint64_t count) {
    return reinterpret_cast<T*>(TakeBytes(count * sizeof(T), ops_->memory));
  }
  std::byte* TakeBytes(uint64_t bytes, const kernels::MemorySource& source);
  // The same full of values around 0 with variance 1.
  float* TakeFloats(uint64_t count);
  const void* TakeOperands(uint64_t count);
  // `count` matrices of one shape, one behind the other.
  std::vector<kernels::WeightView> TakeMatrices(const ProductShape& shape, int count);
  // As TakeBytes, of memory that somebody else allocates: false when it may not be had.
  bool Allow(uint64_t bytes);
  bool failed() const { return !failure_.ok(); }

  // Times give(0), give(1) .. give(calls - 1), in turn.
  //   errors  of the device: kernels::Ops::status
  absl::Status Run(const KernelCase& test, const std::function<void(int call)>& give);

  // Frees what was taken.
  void Reset();

  void LeaveOut(std::string what, std::string why);
  const std::vector<KernelResult>& results() const { return results_; }
  const std::vector<LeftOut>& left_out() const { return left_out_; }

 private:
  KernelBench(const kernels::Ops& ops, const KernelBenchPlan& plan,
              std::function<void(const KernelResult&)> done)
      : ops_(&ops), plan_(plan), done_(std::move(done)) {}

  void Wait() const;
  double MeasureCopy() const;

  const kernels::Ops* ops_;
  KernelBenchPlan plan_;
  std::function<void(const KernelResult&)> done_;
  kernels::Memory copy_from_, copy_to_;
  std::string family_;
  double copy_bytes_per_s_ = 0.0;
  std::vector<kernels::Memory> taken_;
  uint64_t taken_bytes_ = 0;
  absl::Status failure_;
  uint64_t next_stream_ = 0;  // of random values
  std::vector<KernelResult> results_;
  std::vector<LeftOut> left_out_;
};

}  // namespace tandem::server
