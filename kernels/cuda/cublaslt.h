// cuBLASLt, loaded at run time: the one product that prompt rows need of it.
//
//   y[t, n] = sum_k w[n, k] * x[t, k]          bf16 operands, f32 sums and results, no split of k
//
// Never linked: without the library there are own kernels. Its types are declared in
// cublaslt_abi.h, so that no header of the toolkit is needed either.
//
// Errors    name the library and what it said; one line each.
// Not here  whether an algorithm keeps our promises (prompt_gemm.h).
// Threads   one caller at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/types.h"

namespace tandem::kernels {

// Where to look for libraries of CUDA; empty: not there.
struct CudaLibraryDirs {
  std::string own;            // TANDEM_CUDA_LIB_DIR
  std::string cuda_home;      // CUDA_HOME
  std::string python_prefix;  // of a Python environment with NVIDIA's packages
};

// What CublasLt::Load tries, in order; a bare file name stands for the loader's own search.
std::vector<std::string> CublasLtPaths(const CudaLibraryDirs& dirs);

// How the library goes about a product; opaque.
struct LtAlgorithm {
  uint64_t data[8];
};

struct LtProduct {
  const Bf16* x = nullptr;  // [rows, x_stride], 16-byte aligned
  int64_t x_stride = 0;     // a multiple of 8
  const Bf16* w = nullptr;  // [out, in], 16-byte aligned
  float* y = nullptr;       // [rows, y_stride], 16-byte aligned
  int64_t y_stride = 0;     // a multiple of 4
  int rows = 0;
  int in = 0;
  int out = 0;
};

// Device memory of the library's own; 256-byte aligned.
struct LtWorkspace {
  void* data = nullptr;
  size_t bytes = 0;
};

class CublasLt {
 public:
  // The first path that can be loaded. A device is in use by this thread. NotFound without a
  // library, Unimplemented for one without a function we need or of another major version,
  // Unavailable when it does not start.
  static absl::StatusOr<CublasLt> Load(const std::vector<std::string>& paths);

  // "cuBLASLt 13.0.2".
  const std::string& name() const;

  // Algorithms without split of k for this product, the fastest first, at most eight; pointers are
  // not looked at. NotFound when there is none.
  absl::StatusOr<std::vector<LtAlgorithm>> Algorithms(const LtProduct& product,
                                                      size_t workspace_bytes);

  // Whether an algorithm can do this product with so much workspace.
  bool Can(const LtAlgorithm& algorithm, const LtProduct& product, size_t workspace_bytes);

  // `stream` is a cudaStream_t. Internal when the library refuses.
  absl::Status Multiply(const LtProduct& product, const LtAlgorithm& algorithm,
                        const LtWorkspace& workspace, void* stream);

 private:
  struct State;
  struct Destroy {
    void operator()(State* state) const;
  };
  explicit CublasLt(std::unique_ptr<State, Destroy> state) : state_(std::move(state)) {}

  std::unique_ptr<State, Destroy> state_;
};

}  // namespace tandem::kernels
