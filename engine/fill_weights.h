// Fills laid-out weights from a source of tensors: widening, interleaving, packing, progress.
//
// Not here  where the values come from (checkpoint_tensors.h, dummy_weights.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/weight_layout.h"
#include "kernels/ops.h"

namespace tandem::engine {

// Called now and then while loading, on the loading thread; bytes of checkpoint tensors.
using LoadProgress = std::function<void(size_t done_bytes, size_t total_bytes)>;

constexpr size_t kFillChunkBytes = size_t{32} << 20;  // read and packed at once

// Where the values of a tensor come from, by its name in a WeightItem.
struct TensorSource {
  // Rows [row_begin, row_begin + rows) as row-major bf16, at any alignment. They stay valid until
  // the next call with the same `buffer` (0 or 1).
  std::function<const std::byte*(const std::string& name, int64_t row_begin, int64_t rows,
                                 int64_t cols, int buffer)>
      rows;
  // The values of a kVector item, before its scale.
  std::function<absl::Status(const WeightItem& item, float* values)> vector;
  // The values of a kTokenIds item.
  std::function<absl::Status(const WeightItem& item, int32_t* ids)> token_ids;
};

// What progress counts for these items.
size_t FillBytes(const std::vector<WeightItem>& items);

// Fills every item, in order; `target` memory is zeroed before.
//   filled, total  what progress is told; `filled` moves by FillBytes(items)
absl::Status FillWeights(const std::vector<WeightItem>& items, const TensorSource& source,
                         const kernels::Ops& ops, const LoadProgress& progress, size_t& filled,
                         size_t total);

}  // namespace tandem::engine
