#include "tests/emu/sample_kernels.h"

namespace tandem::kernels::K_WORLD {

constexpr int kThreads = 256;
constexpr int kTile = 32;

__global__ void __launch_bounds__(kThreads) RowSumsKernel(const float* x, float* sums, int dim) {
  K_SHARED(float, parts, kThreads / kWarp);
  const float* row = x + int64_t{blockIdx.x} * dim;
  float sum = 0.0f;
  for (int d = static_cast<int>(threadIdx.x); d < dim; d += kThreads) {
    sum = add_rn(sum, ld_nc(row + d));
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) parts[warp_id()] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / kWarp; ++w) sum = add_rn(sum, parts[w]);
    st(sums + blockIdx.x, sum);
  }
}

// One 32 x 32 tile per block: rows in, columns out, a padding column against bank conflicts.
__global__ void __launch_bounds__(kThreads)
    TransposeKernel(const float* x, float* y, int rows, int columns) {
  K_SHARED(float, tile, kTile*(kTile + 1));
  const int row0 = static_cast<int>(blockIdx.y) * kTile;
  const int column0 = static_cast<int>(blockIdx.x) * kTile;
  for (int r = warp_id(); r < kTile; r += kThreads / kWarp) {
    if (row0 + r < rows && column0 + lane_id() < columns) {
      tile[r * (kTile + 1) + lane_id()] =
          ld_nc(x + int64_t{row0 + r} * columns + column0 + lane_id());
    }
  }
  __syncthreads();
  for (int c = warp_id(); c < kTile; c += kThreads / kWarp) {
    if (column0 + c < columns && row0 + lane_id() < rows) {
      st(y + int64_t{column0 + c} * rows + row0 + lane_id(), tile[lane_id() * (kTile + 1) + c]);
    }
  }
}

// A block computes 64 x 64 of C with 4 warps, 16 rows each; K goes by in steps of 32 through two
// buffers. Rows are padded by 16 bytes, so that the eight rows of an ldmatrix tile lie in distinct
// banks.
constexpr int kBlock = 64;
constexpr int kStep = 32;
constexpr int kStrideA = kStep + 8;
constexpr int kStrideB = kBlock + 8;
constexpr int kBufferA = kBlock * kStrideA;
constexpr int kBuffer = kBufferA + kStep * kStrideB;
constexpr size_t kMatMulSmem = 2 * kBuffer * sizeof(bf16);

__global__ void __launch_bounds__(128)
    MatMulKernel(const bf16* a, const bf16* b, float* c, int n, int k) {
  K_DYN_SMEM(bf16, smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_id(), warp = warp_id();
  const int m0 = static_cast<int>(blockIdx.y) * kBlock, n0 = static_cast<int>(blockIdx.x) * kBlock;
  const auto fetch = [&](int k0, bf16* buffer) {
    for (int i = thread; i < kBlock * kStep / 8; i += 128) {  // A: 64 rows of 4 vectors
      const int row = i / 4, column = i % 4 * 8;
      cp_async_16(buffer + row * kStrideA + column, a + int64_t{m0 + row} * k + k0 + column, true);
    }
    for (int i = thread; i < kStep * kBlock / 8; i += 128) {  // B: 32 rows of 8 vectors
      const int row = i / 8, column = i % 8 * 8;
      cp_async_16(buffer + kBufferA + row * kStrideB + column,
                  b + int64_t{k0 + row} * n + n0 + column, true);
    }
    cp_commit();
  };

  float acc[8][4] = {};
  fetch(0, smem);
  for (int k0 = 0; k0 < k; k0 += kStep) {
    const bf16* now = smem + k0 / kStep % 2 * kBuffer;
    if (k0 + kStep < k) {
      fetch(k0 + kStep, smem + (k0 / kStep + 1) % 2 * kBuffer);
      cp_wait<1>();
    } else {
      cp_wait<0>();
    }
    __syncthreads();
    K_UNROLL
    for (int s = 0; s < kStep; s += 16) {
      uint32_t fragment_a[4];
      ldsm_x4(fragment_a, now + (16 * warp + lane % 16) * kStrideA + s + lane / 16 * 8);
      K_UNROLL
      for (int tile = 0; tile < 8; ++tile) {
        uint32_t fragment_b[2];
        ldsm_x2_trans(fragment_b, now + kBufferA + (s + lane % 16) * kStrideB + 8 * tile);
        mma_bf16_16816(acc[tile], fragment_a, fragment_b);
      }
    }
    __syncthreads();  // the next turn overwrites this buffer
  }
  K_UNROLL
  for (int tile = 0; tile < 8; ++tile) {
    for (int half = 0; half < 2; ++half) {
      const int64_t row = m0 + 16 * warp + lane / 4 + 8 * half;
      st(reinterpret_cast<float2*>(c + row * n + n0 + 8 * tile + lane % 4 * 2),
         float2{acc[tile][2 * half], acc[tile][2 * half + 1]});
    }
  }
}

void RowSums(const float* x, float* sums, int rows, int dim, Stream stream) {
  launch(RowSumsKernel, rows, kThreads, 0, stream, x, sums, dim);
}

void Transpose(const float* x, float* y, int rows, int columns, Stream stream) {
  const dim3 grid((columns + kTile - 1) / kTile, (rows + kTile - 1) / kTile);
  launch(TransposeKernel, grid, kThreads, 0, stream, x, y, rows, columns);
}

void MatMul(const bf16* a, const bf16* b, float* c, int m, int n, int k, Stream stream) {
  launch(MatMulKernel, dim3(n / kBlock, m / kBlock), 128, kMatMulSmem, stream, a, b, c, n, k);
}

}  // namespace tandem::kernels::K_WORLD
