// RMSNorm, one row per block.
//
//   y[t,d] = x[t,d] * (sum_d(x[t,d]^2) / dim + eps)^(-1/2) * weight[d]
//
// Shapes    x, y [rows, dim] bf16, weight [dim] bf16; dim % 8 == 0, dim <= 6144.
// Launch    grid = rows, block = 256. Thread i holds vectors i, i + 256, i + 512 of 8 values in
//           registers; kVectors is how many a thread has at most.
// Order     of the sum: a thread's values in ascending order, xor butterfly over the lanes, the
//           eight warps in ascending order. A function of dim alone.
// Traffic   reads 2*rows*dim B of x and 2*rows*dim B of weight (L2 after the first row), writes
//           2*rows*dim B.
// Roofline  memory bound; below about 450 rows of 5376 the launch outweighs it.
// Truth     RmsNormReference (kernels/reference/row_ops_ref.h); tests/emu/norms_test.cc.
#include "kernels/cuda/norms.h"

namespace tandem::kernels::K_WORLD {

constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / kWarp;
constexpr int kVec = 8;  // bf16 in one 16-byte access
constexpr int kMaxVectors = 3;

template <int kVectors>
__global__ void __launch_bounds__(kNormThreads)
    NormRowsKernel(const bf16* x, const bf16* weight, bf16* y, int dim, float eps) {
  K_SHARED(float, warp_sums, kNormWarps);
  const int64_t row = int64_t{blockIdx.x} * dim;
  const int first = static_cast<int>(threadIdx.x) * kVec;
  float values[kVectors][kVec];
  float sum = 0.0f;
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int d = first + v * kNormThreads * kVec;
    if (d < dim) {
      const Bf16x8 in = ld(reinterpret_cast<const Bf16x8*>(x + row + d));
      K_UNROLL
      for (int i = 0; i < kVec; ++i) {
        values[v][i] = bf16_to_f32(in[i]);
        sum = fma_rn(values[v][i], values[v][i], sum);
      }
    }
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) warp_sums[warp_id()] = sum;
  __syncthreads();
  sum = warp_sums[0];
  K_UNROLL
  for (int w = 1; w < kNormWarps; ++w) sum = add_rn(sum, warp_sums[w]);
  const float inverse = div_rn(1.0f, sqrt_rn(add_rn(div_rn(sum, static_cast<float>(dim)), eps)));
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int d = first + v * kNormThreads * kVec;
    if (d < dim) {
      Bf16x8 out;
      if (weight == nullptr) {
        K_UNROLL
        for (int i = 0; i < kVec; ++i) out[i] = f32_to_bf16_rn(mul_rn(values[v][i], inverse));
      } else {
        const Bf16x8 scale = ld_nc(reinterpret_cast<const Bf16x8*>(weight + d));
        K_UNROLL
        for (int i = 0; i < kVec; ++i) {
          out[i] = f32_to_bf16_rn(mul_rn(mul_rn(values[v][i], inverse), bf16_to_f32(scale[i])));
        }
      }
      st(reinterpret_cast<Bf16x8*>(y + row + d), out);
    }
  }
}

bool NormRowsSupports(int dim) {
  return dim > 0 && dim % kVec == 0 && dim <= kMaxVectors * kNormThreads * kVec;
}

void NormRows(const NormRowsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const auto kernel = args.dim <= kNormThreads * kVec       ? NormRowsKernel<1>
                      : args.dim <= 2 * kNormThreads * kVec ? NormRowsKernel<2>
                                                            : NormRowsKernel<3>;
  launch(kernel, args.rows, kNormThreads, 0, stream, args.x, args.weight, args.y, args.dim,
         args.eps);
}

}  // namespace tandem::kernels::K_WORLD
