// Int8 or int4 weights as bf16, row-major.
//
//   w[n,k] = scale[n,k/32] * code[n,k]                                   rounded to bf16
//
// Shapes    codes and scales [out, in] as w_codes_pack.h lays them, w [out, in]; in % 8 == 0.
// Launch    block = 256, a warp expands 16 rows x 64 k; grid = ceil(tiles * blocks of k / 8). A
//           lane writes 16 B of a row at a time, four neighbours 64 B.
// Traffic   reads 64*bits*2 B of codes and 64 B of scales per 16 x 64 weights, writes 2*out*in B.
// Roofline  memory bound: 21504 x 5376 of int4 moves 296 MB, 69 us at 4.3 TB/s.
// Truth     DecodeWeight (kernels/weight_codes.h); tests/emu/dequant_weights_test.cc.
#include "kernels/cuda/dequant_weights.h"
#include "kernels/cuda/p_linear.h"
#include "kernels/cuda/w_codes.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels::K_WORLD {

constexpr int kDequantThreads = 256;

// Eight weights of a row, from pairs of codes as exact bf16.
K_DEVICE uint4 ScaledPairs(const uint32_t (&pairs)[4], float scale) {
  uint32_t scaled[4];
  K_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float2 codes = unpack_bf16x2(pairs[i]);
    scaled[i] = pack_bf16x2(mul_rn(scale, codes.x), mul_rn(scale, codes.y));
  }
  return {scaled[0], scaled[1], scaled[2], scaled[3]};
}

template <int kBits>
__global__ void __launch_bounds__(kDequantThreads) DequantWeightsKernel(DequantWeightsArgs a) {
  const int blocks = (a.in + kCodeTileK - 1) / kCodeTileK;
  const int tiles = (a.out + kTileOutputs - 1) / kTileOutputs;
  const int64_t unit = int64_t{blockIdx.x} * (kDequantThreads / kWarp) + warp_id();
  const int tile = static_cast<int>(unit / blocks), block = static_cast<int>(unit % blocks);
  if (tile >= tiles) return;
  const int g = lane_id() / 4, t = lane_id() % 4;
  const std::byte* const codes = a.codes + (unit * (128 * kBits) + 16 * lane_id());
  const uint2 scales = ld_nc(reinterpret_cast<const uint2*>(a.scales + (unit * 32 + 4 * g)));
  uint4 words[kBits / 4];
  K_UNROLL
  for (int v = 0; v < kBits / 4; ++v) words[v] = ld_nc_16(codes + 512 * v);
  K_UNROLL
  for (int p = 0; p < 2; ++p) {
    uint32_t pairs[2][4];  // of rows g and g + 8
    if constexpr (kBits == 4) {
      const uint32_t word[2] = {p == 0 ? words[0].x : words[0].z, p == 0 ? words[0].y : words[0].w};
      K_UNROLL
      for (int s = 0; s < 2; ++s) {
        uint32_t decoded[4];
        DecodeInt4(decoded, word[s]);
        K_UNROLL
        for (int i = 0; i < 4; ++i) pairs[i % 2][2 * s + i / 2] = decoded[i];
      }
    } else {
      const uint32_t word[4] = {words[p].x, words[p].y, words[p].z, words[p].w};
      K_UNROLL
      for (int i = 0; i < 4; ++i) DecodeInt8(pairs[0][i], pairs[1][i], word[i]);
    }
    const float2 scale = unpack_f16x2(p == 0 ? scales.x : scales.y);
    const int k = block * kCodeTileK + 32 * p + 8 * t;
    K_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int n = tile * kTileOutputs + g + 8 * r;
      if (n < a.out && k < a.in) {
        st(reinterpret_cast<uint4*>(a.w + (int64_t{n} * a.in + k)),
           ScaledPairs(pairs[r], r == 0 ? scale.x : scale.y));
      }
    }
  }
}

void DequantWeights(const DequantWeightsArgs& args, Stream stream) {
  if (args.out == 0) return;
  constexpr int kWarps = kDequantThreads / kWarp;
  const size_t units = PackedCodeBlocks(args.out, args.in);
  launch(args.format == WeightFormat::kInt4 ? DequantWeightsKernel<4> : DequantWeightsKernel<8>,
         static_cast<unsigned>((units + kWarps - 1) / kWarps), kDequantThreads, 0, stream, args);
}

void PLinearCodes(const WLinearCodesArgs& args, const PromptScratch& scratch, Stream stream) {
  ForExpandedPieces(args, scratch, stream,
                    [&](const WLinearArgs& piece) { PLinear(piece, stream); });
}

void PLinearCodesGeglu(const WLinearCodesGegluArgs& args, const PromptScratch& scratch,
                       Stream stream) {
  ForExpandedPieces(args, scratch, stream,
                    [&](const WLinearGegluArgs& piece) { PLinearGeglu(piece, stream); });
}

}  // namespace tandem::kernels::K_WORLD
