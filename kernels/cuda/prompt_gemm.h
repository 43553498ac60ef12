// Products of prompt rows: cuBLASLt where it was found and keeps the promises, else own kernels.
//
// Which of the two multiplies by a matrix is decided once per shape, at start: the library's
// algorithm is chosen for the largest chunk, and used for every number of rows if a test on the
// device finds the same bits for one row, for 17 and for all (kernels.md 3.2.6, INV-2), and values
// that agree with the own kernel's.
//
// Promise   that of p_linear.h.
// Not here  calling the library (cublaslt.h); the own kernels (p_linear.h, dequant_weights.h).
// Threads   one caller at a time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/dequant_weights.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/p_linear.h"

namespace tandem::kernels::K_WORLD {

// A matrix that prompt rows meet. Those of one shape are equivalent.
struct PromptMatrix {
  int out = 0;  // of gate and up together: GateUpRows(width)
  int in = 0;
  bool geglu = false;
};

struct PromptGemmOptions {
  // Where the library may be (CublasLtPaths); empty: own kernels alone.
  std::vector<std::string> libraries;
  std::vector<PromptMatrix> matrices;  // repeated shapes are looked at once
  int max_rows = 0;                    // of one call
  size_t workspace_bytes = size_t{32} << 20;
  // For the library's gate and up values; more rows than fit go one part after the other.
  size_t geglu_bytes = size_t{256} << 20;
};

class PromptGemm {
 public:
  // Own kernels for everything.
  PromptGemm() = default;

  // Waits for `stream`. While it tests it needs memory for the largest matrix in bf16 and for
  // max_rows of the widest inputs in bf16 and outputs in f32. Whatever fails leaves the own kernels
  // and a reason.
  static PromptGemm Open(const PromptGemmOptions& options, const Device& device,
                         DeviceStream* stream);

  // One line for the log: who multiplies, and why not the library where it does not.
  const std::string& description() const { return description_; }

  // How many shapes the library multiplies.
  int planned() const { return static_cast<int>(plans_.size()); }

  // PLinear and its kin, or the library for planned shapes: f32 results; GeGLU of a width and
  // stride that are multiples of 8; codes where the scratch holds the whole matrix. Internal when
  // the library refuses.
  absl::Status Linear(const WLinearArgs& args, Stream stream);
  absl::Status Geglu(const WLinearGegluArgs& args, Stream stream);
  absl::Status LinearCodes(const WLinearCodesArgs& args, const PromptScratch& scratch,
                           Stream stream);
  absl::Status GegluCodes(const WLinearCodesGegluArgs& args, const PromptScratch& scratch,
                          Stream stream);

 private:
  struct Plan {
    int out;
    int in;
    LtAlgorithm algorithm;
  };
  const Plan* PlanOf(int out, int in) const;  // or null

  std::string description_ = "own kernels";
  std::optional<CublasLt> library_;
  DeviceMemory workspace_;
  DeviceMemory gate_up_;  // f32
  std::vector<Plan> plans_;
};

}  // namespace tandem::kernels::K_WORLD
