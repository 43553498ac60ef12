// Weights from the host's row-major bf16 to where and how the device keeps them, through pinned
// memory, while a model is loaded.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/host_ring.h"
#include "kernels/ops.h"

namespace tandem::kernels::K_WORLD {

struct WeightWriter {
  HostRing* ring = nullptr;
  DeviceStream* stream = nullptr;
  const Ops* host = nullptr;  // whose threads quantise
};

// Ops::pack_rows and its kin. Of codes: false where a value does not fit the format.
absl::Status WriteRows(const WeightWriter& writer, const std::byte* rows, int out, int in,
                       int row_begin, Bf16* packed);
absl::Status WriteGateUp(const WeightWriter& writer, const std::byte* gate, const std::byte* up,
                         int width, int in, Bf16* packed);
absl::StatusOr<bool> WriteCodeRows(const WeightWriter& writer, const std::byte* rows, int out,
                                   int in, int row_begin, const CodeTarget& packed);
absl::StatusOr<bool> WriteCodeGateUp(const WeightWriter& writer, const std::byte* gate,
                                     const std::byte* up, int width, int in,
                                     const CodeTarget& packed);

}  // namespace tandem::kernels::K_WORLD
