// The routed experts of a layer: only the experts that some row chose are read.
//
// Promise   A row's bits depend on the row, its experts and the shapes alone: not on other rows, on
//           who shares its experts, or on how many rows there are. Both row classes take the same
//           kernels. Both products are the sums of w_linear.h, bit for bit.
// Graphs    Grids follow from rows, shapes and counts; ids and weights are read from device memory.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// out[t, :] = sum over the row's experts e in the order of ids of weights * down_e(h_e(x[t])),
//   h_e(x)[i] = gelu_tanh(gate_e,i . x) * (up_e,i . x), rounded to bf16
// by fused multiply-adds from 0. All arrays but ids and weights are 16-byte aligned.
struct ExpertsArgs {
  const bf16* x = nullptr;  // [rows, x_stride], dim values used
  int64_t x_stride = 0;     // a multiple of 8
  // Matrix e at gate_up + e * gate_up_stride: [GateUpRows(width), dim] of InterleaveGateUp
  // (w_linear_pack.h).
  const bf16* gate_up = nullptr;
  int64_t gate_up_stride = 0;  // a multiple of 8
  const bf16* down = nullptr;  // likewise, [dim, width] row-major
  int64_t down_stride = 0;
  const int32_t* ids = nullptr;    // [rows, top_k], ascending, each in [0, experts)
  const float* weights = nullptr;  // [rows, top_k]
  float* out = nullptr;            // [rows, dim]
  int rows = 0;
  int dim = 0;
  int width = 0;  // of one expert
  int experts = 0;
  int top_k = 0;
};

// Whether kernels were built for these shapes: dim and width multiples of 8, experts and top_k as
// RouteSupports. Asked when a model is loaded.
bool ExpertsSupports(int dim, int width, int experts, int top_k);

// Rows that share a read of their experts; more take several passes.
constexpr int kExpertsPassRows = 1024;

// Bytes of device memory between the products, for up to `rows` rows: for each pair of a row and
// an expert 2*width + 4*dim + 4, and the list of tiles. Grows until kExpertsPassRows.
size_t ExpertsWorkspaceBytes(int rows, int dim, int width, int experts, int top_k);

// workspace: 16-byte aligned; nothing is kept in it.
void Experts(const ExpertsArgs& args, void* workspace, Stream stream);

}  // namespace tandem::kernels::K_WORLD
