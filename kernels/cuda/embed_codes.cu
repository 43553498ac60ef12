// Rows of an int8 table by id.
//
//   out[t,k] = (table_scale[id,k/32] * code[id,k]) * scale,  id = ids[t]       f32 or bf16
//
// Shapes    codes and scales [vocab, dim] of w_codes_pack.h, out [rows, dim]; dim % 8 == 0.
// Launch    grid = rows, block = 256; a thread makes 8 values from one 16-byte load.
// Traffic   reads 2*rows*dim B of codes (half of them of the row that shares words with this one),
//           2 B of scale per 8 values (16 of 32 B of a sector are another row's) and 4 B of ids per
//           thread (one transaction), and writes 4 or 2 B per value.
// Roofline  latency bound: a row of 5376 is 11 KB.
// Truth     DecodeWeight (kernels/weight_codes.h); tests/emu/embed_codes_test.cc.
#include "kernels/cuda/embed_codes.h"

namespace tandem::kernels::K_WORLD {

constexpr int kEmbedThreads = 256;
constexpr int kEmbedVec = 8;

__global__ void __launch_bounds__(kEmbedThreads) EmbedCodesKernel(EmbedCodesArgs a) {
  const int64_t t = blockIdx.x;
  const int id = ld_nc(a.ids + t);
  const int g = id % 8, r = id % 16 / 8;
  const int64_t first_block = int64_t{id / 16} * ((a.dim + kCodeTileK - 1) / kCodeTileK);
  const std::byte* const codes = a.codes + (first_block * 1024 + 64 * g);
  const f16* const scales = a.scales + (first_block * 32 + 4 * g + r);
  for (int k = static_cast<int>(threadIdx.x) * kEmbedVec; k < a.dim;
       k += kEmbedThreads * kEmbedVec) {
    const int group = k / 32;
    const uint4 words = ld_nc_16(codes + (group * 512 + k % 32 / 8 * 16));
    const float scale = f16_to_f32(ld_nc(scales + (group / 2 * 32 + group % 2 * 2)));
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
    float value[kEmbedVec];
    K_UNROLL
    for (int i = 0; i < kEmbedVec; ++i) {
      // Byte 2h + r of word w is k + 2w + h.
      const int code = static_cast<int8_t>(word[i / 2] >> (16 * (i % 2) + 8 * r));
      value[i] = mul_rn(mul_rn(scale, static_cast<float>(code)), a.scale);
    }
    const int64_t to = t * a.out_stride + k;
    if (a.out_f32 != nullptr) {
      st(reinterpret_cast<float4*>(a.out_f32 + to), float4{value[0], value[1], value[2], value[3]});
      st(reinterpret_cast<float4*>(a.out_f32 + to) + 1,
         float4{value[4], value[5], value[6], value[7]});
    } else {
      st(reinterpret_cast<uint4*>(a.out + to),
         uint4{pack_bf16x2(value[0], value[1]), pack_bf16x2(value[2], value[3]),
               pack_bf16x2(value[4], value[5]), pack_bf16x2(value[6], value[7])});
    }
  }
}

void EmbedCodes(const EmbedCodesArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(EmbedCodesKernel, args.rows, kEmbedThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
