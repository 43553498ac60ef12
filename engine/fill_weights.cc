#include "engine/fill_weights.h"

#include <algorithm>
#include <cstring>

namespace tandem::engine {
namespace {

using kernels::Bf16;

size_t ItemBytes(const WeightItem& item) {
  return static_cast<size_t>(NumElements(item)) * sizeof(Bf16);
}

// Gathers the rows of each cluster and packs them into a matrix of their own.
void FillClusters(const WeightItem& item, const TensorSource& source, kernels::CpuBackend& backend,
                  const std::function<void(size_t)>& done) {
  const int64_t cols = item.shape[1];
  const size_t row_bytes = cols * sizeof(Bf16);
  const std::byte* rows = source.rows(item.name, 0, item.shape[0], cols, 0);
  std::vector<std::byte> cluster(item.cluster_rows * row_bytes);
  for (int64_t c = 0; c < item.shape[0] / item.cluster_rows; ++c) {
    const int32_t* order = item.row_order + c * item.cluster_rows;
    for (int j = 0; j < item.cluster_rows; ++j) {
      std::memcpy(cluster.data() + j * row_bytes, rows + order[j] * row_bytes, row_bytes);
    }
    kernels::PackRows(backend, cluster.data(), item.cluster_rows, static_cast<int>(cols), 0,
                      reinterpret_cast<Bf16*>(item.target + c * item.part_bytes));
    done(cluster.size());
  }
}

// Fills one item, a chunk of rows at a time.
absl::Status FillItem(const WeightItem& item, const TensorSource& source,
                      kernels::CpuBackend& backend, const std::function<void(size_t)>& done) {
  Bf16* target = reinterpret_cast<Bf16*>(item.target);
  const int64_t cols = item.shape.back();
  const int64_t rows = item.shape.size() >= 2 ? item.shape[item.shape.size() - 2] : 1;
  // A multiple of 16, so that a chunk of gate rows starts at a tile.
  const int64_t chunk = std::max<int64_t>(16, kFillChunkBytes / (cols * sizeof(Bf16)) / 16 * 16);
  switch (item.kind) {
    case WeightItem::Kind::kVector: {
      float* values = reinterpret_cast<float*>(item.target);
      if (absl::Status s = source.vector(item, values); !s.ok()) return s;
      for (int64_t i = 0; i < cols; ++i) values[i] *= item.scale;
      done(ItemBytes(item));
      break;
    }
    case WeightItem::Kind::kTokenIds:
      if (absl::Status s = source.token_ids(item, reinterpret_cast<int32_t*>(item.target));
          !s.ok()) {
        return s;
      }
      done(ItemBytes(item));
      break;
    case WeightItem::Kind::kMatrix:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        kernels::PackRows(backend, source.rows(item.name, row, count, cols, 0), count,
                          static_cast<int>(cols), static_cast<int>(item.row_begin + row), target);
        done(count * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kGate:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        const std::byte* gate = source.rows(item.name, row, count, cols, 0);
        const std::byte* up = source.rows(item.up_name, row, count, cols, 1);
        kernels::PackGateUp(backend, gate, up, count, static_cast<int>(cols),
                            target + kernels::PackedElements(static_cast<int>(2 * row), cols));
        done(2 * count * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kExpertGateUp:
    case WeightItem::Kind::kExpertDown:
      for (int64_t e = 0; e < item.shape[0]; ++e) {
        Bf16* expert = reinterpret_cast<Bf16*>(item.target + e * item.part_bytes);
        const std::byte* data = source.rows(item.name, e * rows, rows, cols, 0);
        if (item.kind == WeightItem::Kind::kExpertDown) {
          kernels::PackRows(backend, data, static_cast<int>(rows), static_cast<int>(cols), 0,
                            expert);
        } else {
          kernels::PackGateUp(backend, data, data + rows / 2 * cols * sizeof(Bf16),
                              static_cast<int>(rows / 2), static_cast<int>(cols), expert);
        }
        done(rows * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kClusters:
      FillClusters(item, source, backend, done);
      break;
  }
  return absl::OkStatus();
}

}  // namespace

size_t FillBytes(const std::vector<WeightItem>& items) {
  size_t bytes = 0;
  for (const WeightItem& item : items) bytes += ItemBytes(item);
  return bytes;
}

absl::Status FillWeights(const std::vector<WeightItem>& items, const TensorSource& source,
                         kernels::CpuBackend& backend, const LoadProgress& progress, size_t& filled,
                         size_t total) {
  if (progress) progress(filled, total);
  for (const WeightItem& item : items) {
    const absl::Status status = FillItem(item, source, backend, [&](size_t bytes) {
      filled += bytes;
      if (progress) progress(filled, total);
    });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
