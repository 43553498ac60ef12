// What happens to q, k and v behind their projection, as plain loops: f64 up to the one rounding to
// f32, in which q goes out and K and V rows are encoded (kv_row_ref.h).
#pragma once

#include <cstdint>

#include "kernels/kv_row.h"
#include "kernels/ops.h"

namespace tandem::kernels {

void QkvPostReference(const QkvPostArgs& args);

// Counts how row t of `args` was stored, and marks it where it was not finite; every level tells
// so.
//   side  0 its K, 1 its V
void NoteKvRow(const QkvPostArgs& args, int64_t t, int side, KvRowStatus status);

}  // namespace tandem::kernels
