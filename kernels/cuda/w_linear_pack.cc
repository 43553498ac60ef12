#include "kernels/cuda/w_linear_pack.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace tandem::kernels {

void InterleaveGateUp(const void* gate, const void* up, int width, int in, Bf16* out) {
  for (int first = 0; first < width; first += kTileOutputs) {
    const int64_t values = int64_t{std::min(kTileOutputs, width - first)} * in;
    for (const void* matrix : {gate, up}) {
      const std::byte* from =
          static_cast<const std::byte*>(matrix) + int64_t{first} * in * int64_t{sizeof(Bf16)};
      std::memcpy(out, from, values * sizeof(Bf16));
      std::fill(out + values, out + int64_t{kTileOutputs} * in, Bf16{});
      out += int64_t{kTileOutputs} * in;
    }
  }
}

}  // namespace tandem::kernels
