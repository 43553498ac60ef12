#include "tests/emu/wrapper_kernels.h"

namespace tandem::kernels::K_WORLD {

__global__ void __launch_bounds__(kWarp) FloatOpsKernel(const float* x, float* y) {
  const float v = ld_nc(x + lane_id());
  int op = 0;
  const auto put = [&](float value) { st(y + op++ * kWarp + lane_id(), value); };
  put(fma_rn(v, v, -1.0f));
  put(mul_rn(v, v));
  put(add_rn(v, 0.1f));
  put(div_rn(1.0f, v));
  put(sqrt_rn(v));
  put(rint_rn(v));
  put(ex2(v));
  put(rcp(v));
  put(rsqrt(v));
  put(tanh_acc(v));
  put(f32_of_bits(f32_bits(v)));
  put(bf16_to_f32(f32_to_bf16_rn(v)));
  put(f16_to_f32(f32_to_f16_rn(v)));
  put(f16_to_f32(f32_to_f16_rn(v * 0x1p-24f)));
  const float2 b = unpack_bf16x2(pack_bf16x2(v, -v));
  put(b.x);
  put(b.y);
  const float2 h = unpack_f16x2(pack_f16x2(v, -v));
  put(h.x);
  put(h.y);
  put(warp_sum(v));
  put(warp_max(v));
}

__global__ void __launch_bounds__(kWarp) BitOpsKernel(const uint32_t* x, uint32_t* y) {
  const uint32_t a = ld(x + lane_id());
  const uint32_t b = ld(x + (lane_id() + 1) % kWarp);
  const uint32_t c = ld(x + (lane_id() + 2) % kWarp);
  int op = 0;
  const auto put = [&](uint32_t value) { st_cs(y + op++ * kWarp + lane_id(), value); };
  put(prmt(a, b, 0x5140));
  put(prmt(a, b, 0x7362));
  put(prmt(a, b, 0xfb80));
  put(lop3<0xe8>(a, b, c));  // majority
  put(lop3<0x96>(a, b, c));  // exclusive or
  put(static_cast<uint32_t>(dp4a(a, b, 7)));
  put(sub_f16x2(0x48004800u | (a & 0x00ff00ffu), 0x48804880u));
  put(sub_bf16x2(0x43004300u | (a & 0x007f007fu), 0x43004300u));
  const uint4 wide = ld_nc_16(x);
  put(wide.x ^ wide.y ^ wide.z ^ wide.w);
  put(ld(reinterpret_cast<const uint2*>(x) + 1).y);
  put(ld(reinterpret_cast<const uint16_t*>(x) + 1));
  put(ld(reinterpret_cast<const uint8_t*>(x) + 3));
}

__global__ void __launch_bounds__(kWarp) ExchangesKernel(const int32_t* x, int32_t* y) {
  const int32_t v = ld(x + lane_id());
  int op = 0;
  const auto put = [&](int32_t value) { st(y + op++ * kWarp + lane_id(), value); };
  put(__shfl_sync(kFullMask, v, 5));
  put(__shfl_sync(kFullMask, v, 3, 8));
  put(__shfl_up_sync(kFullMask, v, 2));
  put(__shfl_up_sync(kFullMask, v, 3, 16));
  put(__shfl_down_sync(kFullMask, v, 2));
  put(__shfl_down_sync(kFullMask, v, 3, 16));
  put(__shfl_xor_sync(kFullMask, v, 9));
  put(__shfl_xor_sync(kFullMask, v, 3, 4));
  put(static_cast<int32_t>(__shfl_xor_sync(kFullMask, static_cast<long long>(v) << 32 | 1, 1) >>
                           32));
  put(static_cast<int32_t>(__ballot_sync(kFullMask, v % 3 == 0)));
  put(__any_sync(kFullMask, v == 7));
  put(__all_sync(kFullMask, v >= 0));
  __syncwarp();
  put(__syncthreads_count(v % 2));
  put(__syncthreads_and(v < 100) != 0);
  put(__syncthreads_or(v > 100) != 0);
  put(warp_id());
}

__global__ void __launch_bounds__(kWarp) MatrixLoadsKernel(const uint16_t* x, uint32_t* y) {
  K_SHARED(uint4, rows, 32);
  rows[lane_id()] = ld_nc_16(x + 8 * lane_id());
  __syncwarp();
  int form = 0;
  const auto put = [&](int reg, uint32_t value) {
    st(y + (form * 4 + reg) * kWarp + lane_id(), value);
  };
  uint32_t one[1], two[2], four[4];
  ldsm_x1(one, &rows[lane_id() % 8]);
  put(0, one[0]);
  const uint32_t tile = one[0];
  ++form;
  ldsm_x1_trans(one, &rows[lane_id() % 8]);
  put(0, one[0]);
  ++form;
  ldsm_x2(two, &rows[lane_id() % 16]);
  K_UNROLL
  for (int i = 0; i < 2; ++i) put(i, two[i]);
  ++form;
  ldsm_x2_trans(two, &rows[lane_id() % 16]);
  K_UNROLL
  for (int i = 0; i < 2; ++i) put(i, two[i]);
  ++form;
  ldsm_x4(four, &rows[lane_id()]);
  K_UNROLL
  for (int i = 0; i < 4; ++i) put(i, four[i]);
  ++form;
  ldsm_x4_trans(four, &rows[lane_id()]);
  K_UNROLL
  for (int i = 0; i < 4; ++i) put(i, four[i]);
  ++form;
  put(0, movmatrix_trans(tile));
}

// The pair of 16-bit values at (row, column) and (row, column + 1), or down a column.
template <typename T>
K_DEVICE uint32_t PairAt(const T* m, int stride, int row, int column, bool down) {
  const uint32_t low = ld(m + row * stride + column).bits;
  const uint32_t high = ld(m + (row + (down ? 1 : 0)) * stride + column + (down ? 0 : 1)).bits;
  return low | high << 16;
}

template <typename T>
__global__ void __launch_bounds__(kWarp) MmaKernel(const T* a, const T* b, float* d) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  uint32_t fragment_a[4], fragment_b[2];
  K_UNROLL
  for (int i = 0; i < 4; ++i) {
    fragment_a[i] = PairAt(a, 16, g + 8 * (i % 2), 2 * t + 8 * (i / 2), false);
  }
  K_UNROLL
  for (int i = 0; i < 2; ++i) fragment_b[i] = PairAt(b, 8, 2 * t + 8 * i, g, true);
  float acc[4] = {};
  if constexpr (std::is_same_v<T, bf16>) {
    mma_bf16_16816(acc, fragment_a, fragment_b);
  } else {
    mma_f16_16816(acc, fragment_a, fragment_b);
  }
  K_UNROLL
  for (int i = 0; i < 4; ++i) st(d + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2, acc[i]);
}

__global__ void __launch_bounds__(kWarp) AsyncCopiesKernel(const uint32_t* x, uint32_t* y) {
  K_SHARED(uint32_t, words, 96);
  const int lane = lane_id();
  if (lane < 8) cp_async_16(&words[4 * lane], x + 4 * lane, true);
  cp_commit();
  if (lane < 8) cp_async_8(&words[32 + 2 * lane], x + 32 + 2 * lane, true);
  if (lane < 16) cp_async_4(&words[48 + lane], x + 48 + lane, true);
  cp_commit();
  cp_async_4(&words[64 + lane], x, false);
  cp_commit();
  cp_wait<1>();
  __syncwarp();
  st(y + lane, words[lane]);
  st(y + 32 + lane, words[32 + lane]);
  cp_wait<0>();
  __syncwarp();
  st(y + 64 + lane, words[64 + (lane + 1) % kWarp]);
}

__global__ void __launch_bounds__(kWarp)
    CountingKernel(int32_t* counters, uint64_t* wide, int32_t* last) {
  pdl_wait();
  atomic_add_u64(wide, 1);
  atomic_add_i32(counters, 1);
  thread_fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const int32_t before = atomic_add_i32(counters + 1, 1);
    if (before == static_cast<int32_t>(gridDim.x) - 1) st(last, before);
  }
  pdl_launch();
}

void FloatOps(const float* x, float* y, Stream stream) {
  launch(FloatOpsKernel, 1, kWarp, 0, stream, x, y);
}
void BitOps(const uint32_t* x, uint32_t* y, Stream stream) {
  launch(BitOpsKernel, 1, kWarp, 0, stream, x, y);
}
void Exchanges(const int32_t* x, int32_t* y, Stream stream) {
  launch(ExchangesKernel, 1, kWarp, 0, stream, x, y);
}
void MatrixLoads(const uint16_t* x, uint32_t* y, Stream stream) {
  launch(MatrixLoadsKernel, 1, kWarp, 0, stream, x, y);
}
void MmaBf16(const bf16* a, const bf16* b, float* d, Stream stream) {
  launch(MmaKernel<bf16>, 1, kWarp, 0, stream, a, b, d);
}
void MmaF16(const f16* a, const f16* b, float* d, Stream stream) {
  launch(MmaKernel<f16>, 1, kWarp, 0, stream, a, b, d);
}
void AsyncCopies(const uint32_t* x, uint32_t* y, Stream stream) {
  launch(AsyncCopiesKernel, 1, kWarp, 0, stream, x, y);
}
void Counting(int blocks, int32_t* counters, uint64_t* wide, int32_t* last, Stream stream) {
  launch(CountingKernel, blocks, kWarp, 0, stream, counters, wide, last);
}

}  // namespace tandem::kernels::K_WORLD
