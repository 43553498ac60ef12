#include "kernels/cuda/w_codes_pack.h"

#include "kernels/weight_codes.h"

namespace tandem::kernels {

void PackCodeRow(WeightFormat format, int n, int in, const int8_t* codes, const F16* scales,
                 std::byte* packed, F16* packed_scales) {
  const bool int8 = format == WeightFormat::kInt8;
  const int g = n % 8, r = n % kTileOutputs / 8;
  packed += PackedCodeBytes(format, n / kTileOutputs * kTileOutputs, in);
  packed_scales += PackedCodeScales(n / kTileOutputs * kTileOutputs, in);
  const int groups = WeightGroups(in);
  // Both halves of the last 64 k are written, a group past the end as zeros.
  for (int q = 0; q < (groups + 1) / 2 * 2; ++q) {
    const bool exists = q < groups;
    const int block = q / 2, p = q % 2;
    packed_scales[block * 32 + 4 * g + 2 * p + r] = exists ? scales[q] : F16{};
    const auto code = [&](int k) { return exists ? codes[q * kWeightGroup + k] : int8_t{0}; };
    for (int t = 0; t < 4; ++t) {
      const int lane = 4 * g + t;
      if (int8) {
        std::byte* const to = packed + ((block * 2 + p) * 32 + lane) * 16;
        for (int i = 0; i < 8; ++i) {
          to[i / 2 * 4 + i % 2 * 2 + r] = static_cast<std::byte>(code(8 * t + i));
        }
      } else {
        // Codes k and k + 2 share a byte.
        std::byte* const to = packed + (block * 32 + lane) * 16 + 8 * p;
        for (int s = 0; s < 2; ++s) {
          for (int h = 0; h < 2; ++h) {
            const int k = 8 * t + 4 * s + h;
            to[4 * s + 2 * h + r] = static_cast<std::byte>((code(k) + 8) | (code(k + 2) + 8) << 4);
          }
        }
      }
    }
  }
}

}  // namespace tandem::kernels
