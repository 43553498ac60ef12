// Rows times the few clusters that each of them chose of a large matrix.
//
// Promise   a value has the bits of WLinear (w_linear.h) with its cluster.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// y[t, j * cluster_rows + i] = sum_k W_c[i, k] * x[t, k] with c = ids[t, j]
struct WLinearClustersArgs {
  const bf16* x = nullptr;  // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;     // a multiple of 8
  const bf16* w = nullptr;  // cluster c is [cluster_rows, in] at w + c * cluster_elements; likewise
  int64_t cluster_elements = 0;  // a multiple of 8
  const int32_t* ids = nullptr;  // [rows, chosen] clusters, on the device
  int chosen = 0;
  float* y = nullptr;  // [rows, y_stride], chosen * cluster_rows values written
  int64_t y_stride = 0;
  int rows = 0;  // any number
  int in = 0;    // WLinearSupports it
  int cluster_rows = 0;
};

void WLinearClusters(const WLinearClustersArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
