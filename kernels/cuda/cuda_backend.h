// The CUDA backend, and its double for tests: the same operations on emulated kernels.
//
// Numbers   are rounded where the CPU backend rounds: f32 in memory, bf16 what a product reads.
// Work      is queued in one stream; the host waits where something is fetched or collected. Rows
//           of prompts and generated rows are two classes, with products and attention of their own
//           (kernels.md 3.1).
// Memory    Weights, KV and activations are what the engine asks for. Beside them the backend holds
//           the arrays of a step, partial results of attention and what experts work in; these grow
//           to the largest step that ever ran.
// Errors    Status of a call that failed is kept and told by Ops::status: once a device is lost
//           it stays so.
// Threads   one caller at a time; it may change between steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/device_info.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// A shape that a model is made of: kernels were built for some.
struct ShapeNeed {
  enum class Kind { kNorm, kProduct, kRope, kPle, kExperts };
  Kind kind = Kind::kNorm;
  std::string name;  // what the model's configuration calls it: "hidden_size"
  int size = 0;      // values of a row; kRope: of a head; kExperts: experts
  int part = 0;      // kRope: pairs that turn; kExperts: experts chosen
};

// What a model's steps make a backend hold.
struct DeviceLoad {
  int max_step_rows = 0;
  int hidden = 0;
  int64_t ple_row_values = 0;
  int experts = 0;
  int experts_per_token = 0;
  int expert_width = 0;
  bool weight_codes = false;
};

// A product of prompt rows.
struct PromptProduct {
  int out = 0;  // of GeGLU: gate and up together, in whole tiles (LinearGegluArgs)
  int in = 0;
  bool geglu = false;
};

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;
  virtual const Ops& ops() const = 0;
  virtual const DeviceInfo& info() const = 0;
  // Device memory, now.
  virtual absl::StatusOr<size_t> FreeBytes() const = 0;
  // Unimplemented, with name and value, for a shape that no kernel was built for.
  virtual absl::Status CheckShape(const ShapeNeed& need) const = 0;
  // Memory that the backend comes to hold beside what is asked of Ops::memory, but for lists of
  // some MiB.
  virtual size_t OwnBytes(const DeviceLoad& load) const = 0;
  // Looks for a library that multiplies large chunks of prompts faster than the own kernels do, and
  // just as reproducibly; own kernels stay where it does not. To be called once, while memory for
  // the widest rows is still free.
  //   libraries  files to try, in order; see CublasLtPaths (cublaslt.h)
  //   returns    one line for a log: who multiplies
  virtual std::string PreparePrompts(const std::vector<PromptProduct>& products, int max_rows,
                                     const std::vector<std::string>& libraries) = 0;
};

struct DeviceBackendConfig {
  int device = 0;  // index
  // Partial results of attention held at a time; a step that needs more takes several waves.
  size_t attention_bytes = size_t{256} << 20;
};

// Opens a device; `host` does what is left to the host, and outlives the backend. The errors of
// cuda::Device::Open (device.h). Only in programs with the kernels of nvcc.
absl::StatusOr<std::unique_ptr<DeviceBackend>> MakeCudaBackend(const DeviceBackendConfig& config,
                                                               CpuBackend& host);

}  // namespace tandem::kernels
