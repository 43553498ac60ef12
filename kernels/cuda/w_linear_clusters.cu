// Rows times the clusters that they chose, bf16 weights.
//
//   y[t, j*cluster_rows + i] = sum_k W_c[i,k] * x[t,k],  c = ids[t,j]                  f32
//
// Shapes    x [rows, in] bf16, W_c [cluster_rows, in] bf16 row-major, ids [rows, chosen];
//           in % 8 == 0.
// Launch    block = 256: the product of w_linear_tile.h of one row and 32 outputs of one cluster;
//           grid = rows * chosen * ceil(cluster_rows / 32).
// Traffic   reads 2*in*cluster_rows B of weights per row and chosen cluster, 2*in B of x per block
//           and 4 B of ids per thread (a transaction per warp); writes 4 B per value.
// Roofline  latency bound: 32 clusters of 128 x 256 are 2.1 MB per row, 0.5 us at 4.3 TB/s.
// Truth     LinearClustersReference (kernels/reference/linear_ref.h);
//           tests/emu/w_linear_clusters_test.cc.
#include "kernels/cuda/w_linear_clusters.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

constexpr int kClusterTiles = 2;

__global__ void __launch_bounds__(kLinearThreads) WLinearClustersKernel(WLinearClustersArgs a) {
  using Tile = LinearTile<kClusterTiles, 1>;
  K_SHARED(float, partials, Tile::kPartials);
  const int block = static_cast<int>(blockIdx.x);
  const int blocks_of_cluster = (a.cluster_rows + Tile::kOutputs - 1) / Tile::kOutputs;
  const int pair = block / blocks_of_cluster;
  const int64_t row = pair / a.chosen;
  const int first_output = block % blocks_of_cluster * Tile::kOutputs;
  const LinearOperands operands = {.x = a.x + row * a.x_stride,
                                   .x_stride = a.x_stride,
                                   .w = a.w + ld_nc(a.ids + pair) * a.cluster_elements,
                                   .rows = 1,
                                   .in = a.in,
                                   .out = a.cluster_rows};
  SumSegments<kClusterTiles, 1>(operands, {0, first_output}, partials);
  __syncthreads();
  const int output = static_cast<int>(threadIdx.x), i = first_output + output;
  if (output < Tile::kOutputs && i < a.cluster_rows) {
    st(a.y + (row * a.y_stride + pair % a.chosen * a.cluster_rows + i),
       SumOfSegments<kClusterTiles, 1>(partials, 0, output));
  }
}

void WLinearClusters(const WLinearClustersArgs& args, Stream stream) {
  constexpr int kOutputs = LinearTile<kClusterTiles, 1>::kOutputs;
  const int blocks_of_cluster = (args.cluster_rows + kOutputs - 1) / kOutputs;
  const int blocks = args.rows * args.chosen * blocks_of_cluster;
  if (blocks == 0) return;
  launch(WLinearClustersKernel, blocks, kLinearThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
