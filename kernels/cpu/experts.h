// The routed experts of a layer: only the experts that some row chose are read.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/product.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// Memory of Experts, kept between calls.
struct ExpertScratch {
  std::vector<int32_t> ends;   // [experts + 1]
  std::vector<int32_t> rows;   // [pairs] row of each (row, expert), grouped by expert
  std::vector<float> weights;  // [pairs] its weight
  std::vector<Product> products;
};

// Ops::experts at every level with instructions.
//
// Rows are grouped by expert, row order kept; a group is one GeGLU product and one down product
// that adds to `out`. Both are the chains of linear, and experts add in ascending id,
//   out[t, i] = fma(weight_j, down_j[t, i], out[t, i]), from 0,
// so a row's bits do not depend on its neighbours or on their experts.
void Experts(void* backend, const ExpertsArgs& args);

}  // namespace tandem::kernels
