// RMSNorm, one row per block.
//
//   inverse[t] = (sum_d(x[t,d]^2) / dim + eps)^(-1/2)
//   NormRows   y[t,d] = (x[t,d] * inverse[t]) * weight[d]
//   NormAdd    h[t,d] = ((a[t,d] * inverse[t]) * weight[d] + h[t,d]) * scale
//
// Shapes    rows of f32 [rows, dim], weight [dim] f32; y bf16 or f32; dim % 8 == 0, dim <= 6144.
// Rounding  f32 throughout, NormAdd's product and sum in one fma, as on the CPU; y once more where
//           it is bf16.
// Launch    grid = rows, block = 32*ceil(dim/128), at most 256. Thread i holds vectors i, i + 256,
//           i + 512, ... of 4 values in registers; kVectors is how many a thread has at most. All
//           loads are under way before the sum.
// Order     of the sum: a thread's values in ascending order, xor butterfly over the lanes, the
//           warps in ascending order. A function of dim alone.
// Traffic   per row: NormRows reads 4*dim B of x and 4*dim B of weight (from L2 after the first
//           row), writes 2*dim or 4*dim B; NormAdd reads 12*dim B and 4 B of scale in each thread
//           (one broadcast), writes 4*dim B.
// Roofline  memory bound: 2048 rows of 5376 move 66 MB (132 MB in NormAdd), 15 us (31 us) at
//           4.3 TB/s. Below about 100 rows the launch outweighs it.
// Truth     RmsNormReference, NormAddReference (kernels/reference/row_ops_ref.h);
//           tests/emu/norms_test.cc.
#include "kernels/cuda/norms.h"

namespace tandem::kernels::K_WORLD {

constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / kWarp;
constexpr int kNormVec = 4;  // f32 in one 16-byte access
constexpr int kNormPass = kNormThreads * kNormVec;
constexpr int kMaxNormVectors = 6;
using NormVec = Vec<float, kNormVec>;

// What a thread holds of a row.
template <int kVectors>
struct NormPart {
  NormVec v[kVectors];
};

// Where vector v of this thread begins.
K_DEVICE int NormColumn(int v) { return static_cast<int>(threadIdx.x) * kNormVec + v * kNormPass; }

// Columns past dim are 0, which leaves a sum of squares as it is.
template <int kVectors>
K_DEVICE void LoadNormPart(const float* row, int dim, NormPart<kVectors>* part) {
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    part->v[v] = {};
    if (NormColumn(v) < dim) {
      part->v[v] = ld(reinterpret_cast<const NormVec*>(row + NormColumn(v)));
    }
  }
}

template <int kVectors>
K_DEVICE void LoadNormWeight(const float* weight, int dim, NormPart<kVectors>* part) {
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    part->v[v] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (weight != nullptr && NormColumn(v) < dim) {
      part->v[v] = ld_nc(reinterpret_cast<const NormVec*>(weight + NormColumn(v)));
    }
  }
}

// `inverse` of the row that the block holds, in every thread; reached by the whole block once.
//   warp_sums  [kNormWarps], shared by the block
template <int kVectors>
K_DEVICE float InverseRms(const NormPart<kVectors>& x, int dim, float eps, float* warp_sums) {
  float sum = 0.0f;
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    K_UNROLL
    for (int i = 0; i < kNormVec; ++i) sum = fma_rn(x.v[v][i], x.v[v][i], sum);
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) warp_sums[warp_id()] = sum;
  __syncthreads();
  sum = warp_sums[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum = add_rn(sum, warp_sums[w]);
  return div_rn(1.0f, sqrt_rn(add_rn(div_rn(sum, static_cast<float>(dim)), eps)));
}

template <int kVectors>
__global__ void __launch_bounds__(kNormThreads) NormRowsKernel(NormRowsArgs args) {
  K_SHARED(float, warp_sums, kNormWarps);
  const int64_t row = int64_t{blockIdx.x} * args.dim;
  NormPart<kVectors> x, weight;
  LoadNormPart(args.x + row, args.dim, &x);
  LoadNormWeight(args.weight, args.dim, &weight);
  const float inverse = InverseRms(x, args.dim, args.eps, warp_sums);
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (NormColumn(v) < args.dim) {
      const int64_t at = row + NormColumn(v);
      NormVec y;
      K_UNROLL
      for (int i = 0; i < kNormVec; ++i) y[i] = mul_rn(mul_rn(x.v[v][i], inverse), weight.v[v][i]);
      if (args.y != nullptr) {
        const Vec<uint32_t, 2> rounded = {pack_bf16x2(y[0], y[1]), pack_bf16x2(y[2], y[3])};
        st(reinterpret_cast<Vec<uint32_t, 2>*>(args.y + at), rounded);
      }
      if (args.y_f32 != nullptr) st(reinterpret_cast<NormVec*>(args.y_f32 + at), y);
    }
  }
}

template <int kVectors>
__global__ void __launch_bounds__(kNormThreads) NormAddKernel(NormAddArgs args) {
  K_SHARED(float, warp_sums, kNormWarps);
  const int64_t row = int64_t{blockIdx.x} * args.dim;
  NormPart<kVectors> a, weight, h;
  LoadNormPart(args.a + row, args.dim, &a);
  LoadNormWeight(args.weight, args.dim, &weight);
  LoadNormPart(args.h + row, args.dim, &h);
  const float scale = args.scale != nullptr ? ld_nc(args.scale) : 1.0f;
  const float inverse = InverseRms(a, args.dim, args.eps, warp_sums);
  K_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if (NormColumn(v) < args.dim) {
      K_UNROLL
      for (int i = 0; i < kNormVec; ++i) {
        const float sum = fma_rn(mul_rn(a.v[v][i], inverse), weight.v[v][i], h.v[v][i]);
        h.v[v][i] = mul_rn(sum, scale);
      }
      st(reinterpret_cast<NormVec*>(args.h + row + NormColumn(v)), h.v[v]);
    }
  }
}

bool NormSupports(int dim) { return dim > 0 && dim % 8 == 0 && dim <= kMaxNormVectors * kNormPass; }

// Enough warps for a vector per thread, or all of them: warps without one would add 0.
static int NormThreads(int dim) {
  const int warps = (dim + kWarp * kNormVec - 1) / (kWarp * kNormVec);
  return kWarp * (warps < kNormWarps ? warps : kNormWarps);
}

void NormRows(const NormRowsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const int vectors = (args.dim + kNormPass - 1) / kNormPass;
  const auto kernel = vectors == 1   ? NormRowsKernel<1>
                      : vectors == 2 ? NormRowsKernel<2>
                      : vectors <= 4 ? NormRowsKernel<4>
                                     : NormRowsKernel<kMaxNormVectors>;
  launch(kernel, args.rows, NormThreads(args.dim), 0, stream, args);
}

void NormAdd(const NormAddArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const int vectors = (args.dim + kNormPass - 1) / kNormPass;
  const auto kernel = vectors == 1   ? NormAddKernel<1>
                      : vectors == 2 ? NormAddKernel<2>
                      : vectors <= 4 ? NormAddKernel<4>
                                     : NormAddKernel<kMaxNormVectors>;
  launch(kernel, args.rows, NormThreads(args.dim), 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
