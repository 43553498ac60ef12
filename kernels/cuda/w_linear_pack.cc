#include "kernels/cuda/w_linear_pack.h"

#include <algorithm>

namespace tandem::kernels {

void InterleaveGateUp(const Bf16* gate, const Bf16* up, int width, int in, Bf16* out) {
  for (int first = 0; first < width; first += kTileOutputs) {
    const int64_t values = int64_t{std::min(kTileOutputs, width - first)} * in;
    for (const Bf16* matrix : {gate, up}) {
      const Bf16* from = matrix + int64_t{first} * in;
      Bf16* end = std::copy(from, from + values, out);
      out += int64_t{kTileOutputs} * in;
      std::fill(end, out, Bf16{});
    }
  }
}

}  // namespace tandem::kernels
