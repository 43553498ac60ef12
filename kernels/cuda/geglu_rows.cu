// GeGLU over rows of gate and up values in f32.
//
//   y[t,i] = gelu_tanh(gate_up[t, 32*(i/16) + i%16]) * gate_up[t, 32*(i/16) + 16 + i%16]
//
// Shapes    gate_up [rows, stride] f32, y [rows, y_stride] bf16; width % 8 == 0.
// Launch    block = 256, a thread makes 8 values; grid = ceil(rows * width / 2048).
// Traffic   reads 8*rows*width B, writes 2*rows*width B.
// Roofline  memory bound: 4096 rows of 21504 move 881 MB, 205 us at 4.3 TB/s.
// Truth     LinearGegluReference (kernels/reference/linear_ref.h); tests/emu/prompt_gemm_test.cc.
#include "kernels/cuda/geglu_rows.h"
#include "kernels/cuda/gelu.h"

namespace tandem::kernels::K_WORLD {

constexpr int kGegluThreads = 256;
constexpr int kGegluVec = 8;

__global__ void __launch_bounds__(kGegluThreads) GegluRowsKernel(GegluRowsArgs a) {
  const int vectors = a.width / kGegluVec;
  const int64_t unit = int64_t{blockIdx.x} * kGegluThreads + threadIdx.x;
  const int64_t row = unit / vectors;
  if (row >= a.rows) return;
  const int i = static_cast<int>(unit % vectors) * kGegluVec;
  const float* const gates = a.gate_up + row * a.stride + (i / 16 * 32 + i % 16);
  uint32_t pairs[kGegluVec / 2];
  K_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float4 gate = ld(reinterpret_cast<const float4*>(gates) + half);
    const float4 up = ld(reinterpret_cast<const float4*>(gates + 16) + half);
    pairs[2 * half] = pack_bf16x2(mul_rn(gelu_tanh(gate.x), up.x), mul_rn(gelu_tanh(gate.y), up.y));
    pairs[2 * half + 1] =
        pack_bf16x2(mul_rn(gelu_tanh(gate.z), up.z), mul_rn(gelu_tanh(gate.w), up.w));
  }
  st(reinterpret_cast<uint4*>(a.y + row * a.y_stride + i),
     uint4{pairs[0], pairs[1], pairs[2], pairs[3]});
}

void GegluRows(const GegluRowsArgs& args, Stream stream) {
  const int64_t units = int64_t{args.rows} * (args.width / kGegluVec);
  if (units == 0) return;
  launch(GegluRowsKernel, static_cast<unsigned>((units + kGegluThreads - 1) / kGegluThreads),
         kGegluThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
