// GeGLU of products that another library left in memory.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// y[t, i] = gelu_tanh(gate_up[t, gate i]) * gate_up[t, up i], rounded once
struct GegluRowsArgs {
  const float* gate_up = nullptr;  // [rows, stride]: 16 gates, 16 ups, ... (w_linear_pack.h)
  int64_t stride = 0;              // at least GateUpRows(width), a multiple of 4
  bf16* y = nullptr;               // [rows, y_stride], `width` values written; not gate_up
  int64_t y_stride = 0;            // a multiple of 8
  int rows = 0;
  int width = 0;  // a multiple of 8; rows * width / 8 < 2^31
};

void GegluRows(const GegluRowsArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
