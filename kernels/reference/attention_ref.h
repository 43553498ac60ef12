// Paged attention as plain loops: what "correct" means for every backend.
//
// Everything between the stored inputs and the one rounding of an output is f64, but for the query
// that meets a K format with a scale: rotated in f32 and rounded to 8 bits, as every level does.
#pragma once

#include "kernels/ops.h"

namespace tandem::kernels {

// True for the (head size, K format, V format) that attention is built for, at every level: head
// sizes 256 and 512, any pair of formats.
bool AttentionSupported(const AttentionShape& shape);

void AttentionReference(const AttentionArgs& args);

}  // namespace tandem::kernels
