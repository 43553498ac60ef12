// cos and sin of f32 angles, computed in f64.
//
//   angle = f32(position) * inv_freq, rounded to f32;  n = nearest integer of angle * 2/pi
//   r = angle - n * pi/2 in [-pi/4, pi/4];  cos and sin of angle: those of r, by n modulo 4
//
// Reduction pi/2 in two parts, high of 53 bits: fma rounds angle - n*high once, below 2^-54, and
//           n*low repairs high's own error. n < 2^31, so r is exact to 1e-15: position 262143 is
//           as good as position 1.
// Series    Taylor, |r| <= pi/4: sin to r^13 (relative error 3e-14), cos to r^14 (1e-15), far
//           below the one rounding to f32.
// Launch    a thread per (row, frequency), block = 128.
// Traffic   per value: reads 8 B (position and frequency, from L1), writes 8 B.
// Roofline  of no interest: once per step for all layers of a kind; 2048 rows of 128 frequencies
//           write 2 MB. About 45 f64 operations per value: 12 us where f64 runs at 1/64 of f32.
// Truth     RopeTableReference (kernels/reference/row_ops_ref.h); tests/emu/rope_table_test.cc.
#include "kernels/cuda/rope_table.h"

namespace tandem::kernels::K_WORLD {

constexpr int kRopeThreads = 128;

// The sum of (-s)^k / (kFirst + 2k)! for k < kTerms: sin(r)/r (kFirst 1) or cos(r) (kFirst 0) in
// s = r^2.
template <int kFirst, int kTerms>
K_DEVICE double AlternatingSeries(double s) {
  double sum = 1.0;
  K_UNROLL
  for (int k = kTerms - 1; k > 0; --k) {
    const double step = -1.0 / ((kFirst + 2 * k) * (kFirst + 2 * k - 1));
    sum = fma_rn_f64(mul_rn_f64(s, step), sum, 1.0);
  }
  return sum;
}

__global__ void __launch_bounds__(kRopeThreads) RopeTableKernel(RopeTableArgs args) {
  const int64_t at = int64_t{blockIdx.x} * kRopeThreads + threadIdx.x;
  if (at >= int64_t{args.rows} * args.live) return;
  const int row = static_cast<int>(at) / args.live, j = static_cast<int>(at) % args.live;
  const double angle =
      mul_rn(static_cast<float>(ld_nc(args.positions + row)), ld_nc(args.inv_freq + j));

  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHalfPi = 0x1.921fb54442d18p+0, kHalfPiRest = 0x1.1a62633145c07p-54;
  const double n = rint_rn_f64(mul_rn_f64(angle, kTwoOverPi));
  const double r = fma_rn_f64(-n, kHalfPiRest, fma_rn_f64(-n, kHalfPi, angle));
  const double s = mul_rn_f64(r, r);
  const float sin_r = static_cast<float>(mul_rn_f64(r, AlternatingSeries<1, 7>(s)));
  const float cos_r = static_cast<float>(AlternatingSeries<0, 8>(s));
  const int quarter = static_cast<int>(n) & 3;
  const float cos = quarter % 2 == 0 ? cos_r : sin_r, sin = quarter % 2 == 0 ? sin_r : cos_r;
  st(args.cos + at, quarter == 1 || quarter == 2 ? -cos : cos);
  st(args.sin + at, quarter >= 2 ? -sin : sin);
}

void RopeTable(const RopeTableArgs& args, Stream stream) {
  const int64_t values = int64_t{args.rows} * args.live;
  if (values == 0) return;
  launch(RopeTableKernel, static_cast<unsigned>((values + kRopeThreads - 1) / kRopeThreads),
         kRopeThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
