// The router's product: f32 rows times bf16 weights.
//
//   y[t,e] = sum_k w[e,k] * x[t,k]                                       f32
//
// Shapes    x [rows, in] f32, w [experts, in] bf16 row-major, y [rows, experts] f32; in % 8 == 0.
// Launch    block = 256. A warp makes kExperts outputs of kRows rows, the warps of a block
//           neighbouring experts of the same rows; grid = ceil(rows / kRows) *
//           ceil(experts / (8*kExperts)). One of each for few rows, four of each for many.
// Order     of the sum: lane l adds k = 8l .. 8l + 7, 8l + 256 .. 8l + 263, ... in ascending order
//           by fused multiply-adds, then an xor butterfly over the lanes. A function of `in` alone.
// Traffic   reads 4*in*rows B of x per kExperts experts and 2*in*experts B of weights per kRows
//           rows, from L1 or L2 after the first; writes 4 B per value.
// Roofline  one row of 128 experts of 2816: 0.72 MB, 0.17 us; latency bound.
// Truth     LinearReference (kernels/reference/linear_ref.h); tests/emu/router_logits_test.cc.
#include "kernels/cuda/router_logits.h"

namespace tandem::kernels::K_WORLD {

constexpr int kRouterThreads = 256;
constexpr int kRouterWarps = kRouterThreads / kWarp;
constexpr int kRouterVec = 8;  // consecutive k of a lane

struct RouterRow {
  float4 low;
  float4 high;
};

// Eight values, or zeros.
K_DEVICE RouterRow LoadRouterRow(const float* p, bool valid) {
  const float4 zero = {0.0f, 0.0f, 0.0f, 0.0f};
  const float4* from = reinterpret_cast<const float4*>(p);
  return valid ? RouterRow{ld(from), ld(from + 1)} : RouterRow{zero, zero};
}

// sum + the products of eight values, ascending.
K_DEVICE float AddRouterProducts(float sum, const RouterRow& x, const uint4& w) {
  const float2 w0 = unpack_bf16x2(w.x), w1 = unpack_bf16x2(w.y);
  const float2 w2 = unpack_bf16x2(w.z), w3 = unpack_bf16x2(w.w);
  sum = fma_rn(w0.x, x.low.x, sum);
  sum = fma_rn(w0.y, x.low.y, sum);
  sum = fma_rn(w1.x, x.low.z, sum);
  sum = fma_rn(w1.y, x.low.w, sum);
  sum = fma_rn(w2.x, x.high.x, sum);
  sum = fma_rn(w2.y, x.high.y, sum);
  sum = fma_rn(w3.x, x.high.z, sum);
  return fma_rn(w3.y, x.high.w, sum);
}

template <int kRows, int kExperts>
__global__ void __launch_bounds__(kRouterThreads) RouterLogitsKernel(RouterLogitsArgs a) {
  static_assert(kRows * kExperts <= kWarp);
  constexpr int kOfBlock = kRouterWarps * kExperts;
  const int block = static_cast<int>(blockIdx.x);
  const int expert_blocks = (a.experts + kOfBlock - 1) / kOfBlock;
  const int first_row = block / expert_blocks * kRows;
  const int first_expert = block % expert_blocks * kOfBlock + warp_id() * kExperts;

  float sum[kRows][kExperts] = {};
  for (int k = lane_id() * kRouterVec; k < a.in; k += kWarp * kRouterVec) {
    uint4 w[kExperts];
    K_UNROLL
    for (int e = 0; e < kExperts; ++e) {
      const int expert = first_expert + e;
      w[e] =
          expert < a.experts ? ld_nc_16(a.w + (int64_t{expert} * a.in + k)) : uint4{0u, 0u, 0u, 0u};
    }
    K_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int row = first_row + r;
      const RouterRow x =
          LoadRouterRow(a.x + (row * a.x_stride + k), row < a.rows && first_expert < a.experts);
      K_UNROLL
      for (int e = 0; e < kExperts; ++e) sum[r][e] = AddRouterProducts(sum[r][e], x, w[e]);
    }
  }
  K_UNROLL
  for (int r = 0; r < kRows; ++r) {
    K_UNROLL
    for (int e = 0; e < kExperts; ++e) {
      const int row = first_row + r, expert = first_expert + e;
      const float y = warp_sum(sum[r][e]);
      if (lane_id() == r * kExperts + e && row < a.rows && expert < a.experts) {
        st(a.y + (int64_t{row} * a.experts + expert), y);
      }
    }
  }
}

template <int kRows, int kExperts>
static void LaunchRouterLogits(const RouterLogitsArgs& args, Stream stream) {
  constexpr int kOfBlock = kRouterWarps * kExperts;
  launch(RouterLogitsKernel<kRows, kExperts>,
         (args.rows + kRows - 1) / kRows * ((args.experts + kOfBlock - 1) / kOfBlock),
         kRouterThreads, 0, stream, args);
}

void RouterLogits(const RouterLogitsArgs& args, Stream stream) {
  // Fewer, larger warps' worth of work only where enough of them remain to fill a device.
  constexpr int kManyRows = 33;
  if (args.rows == 0 || args.experts == 0) return;
  if (args.rows < kManyRows) {
    LaunchRouterLogits<1, 1>(args, stream);
  } else {
    LaunchRouterLogits<4, 4>(args, stream);
  }
}

}  // namespace tandem::kernels::K_WORLD
