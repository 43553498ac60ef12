// The routed experts of a layer: only the experts that some row chose are read.
//
// Promise   A row's bits depend on the row, its experts and the shapes alone: not on other rows, on
//           who shares its experts, or on how many rows there are; and on the row's class, where
//           weights are bf16. Both products have the bits of w_linear.h, of w_linear_codes.h or, of
//           prompt rows, of p_linear.h.
// Graphs    Grids follow from rows, shapes and counts; ids and weights are read from device memory.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/types.h"

namespace tandem::kernels::K_WORLD {

// One matrix per expert, all of one shape and format; everything 16-byte aligned.
struct ExpertMatrices {
  WeightFormat format = WeightFormat::kBf16;
  const bf16* w = nullptr;           // kBf16: row-major; else null, and
  const std::byte* codes = nullptr;  // each matrix packed by itself (w_codes_pack.h)
  const f16* scales = nullptr;       // likewise
  int64_t stride = 0;                // to the next matrix: values of w, bytes of codes
  int64_t scale_stride = 0;          // F16
};

// out[t, :] = sum over the row's experts e in the order of ids of weights * down_e(h_e(x[t])),
//   h_e(x)[i] = gelu_tanh(gate_e,i . x) * (up_e,i . x), rounded to bf16
// by fused multiply-adds from 0.
struct ExpertsArgs {
  const bf16* x = nullptr;         // [rows, x_stride], dim values used; 16-byte aligned
  int64_t x_stride = 0;            // a multiple of 8
  ExpertMatrices gate_up;          // [GateUpRows(width), dim] of InterleaveGateUp (w_linear_pack.h)
  ExpertMatrices down;             // [dim, width]
  const int32_t* ids = nullptr;    // [rows, top_k], ascending, each in [0, experts)
  const float* weights = nullptr;  // [rows, top_k]
  float* out = nullptr;            // [rows, dim], 16-byte aligned; not x
  int rows = 0;
  int dim = 0;
  int width = 0;  // of one expert
  int experts = 0;
  int top_k = 0;
  bool prompt = false;  // the rows' class; with int8 or int4 weights both are one
};

// Whether kernels were built for these shapes: dim and width multiples of 8, experts and top_k as
// RouteSupports (route.h). Asked when a model is loaded.
bool ExpertsSupports(int dim, int width, int experts, int top_k);

// Rows that share a read of their experts; more take several passes.
constexpr int kExpertsPassRows = 2048;

// Bytes of device memory between the products, enough for up to `rows` rows: for each pair of a row
// and an expert 2*width + 4*dim + 4, and a list of tiles. Grows until kExpertsPassRows.
size_t ExpertsWorkspaceBytes(int rows, int dim, int width, int experts, int top_k);

// workspace: 16-byte aligned; what it holds before and after does not matter.
void Experts(const ExpertsArgs& args, void* workspace, Stream stream);

}  // namespace tandem::kernels::K_WORLD
