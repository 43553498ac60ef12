#include "engine/fill_weights.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace tandem::engine {
namespace {

using kernels::Bf16;

size_t ItemBytes(const WeightItem& item) {
  return static_cast<size_t>(NumElements(item)) * sizeof(Bf16);
}

// Gathers the rows of each cluster and packs them into a matrix of their own.
void FillClusters(const WeightItem& item, const TensorSource& source, const kernels::Ops& ops,
                  std::span<const int32_t> order, const std::function<void(size_t)>& done) {
  const int64_t cols = item.shape[1];
  const size_t row_bytes = cols * sizeof(Bf16);
  const std::byte* rows = source.rows(item.name, 0, item.shape[0], cols, 0);
  std::vector<std::byte> cluster(item.cluster_rows * row_bytes);
  for (int64_t c = 0; c < item.shape[0] / item.cluster_rows; ++c) {
    const std::span<const int32_t> chosen = order.subspan(c * item.cluster_rows, item.cluster_rows);
    for (int j = 0; j < item.cluster_rows; ++j) {
      std::memcpy(cluster.data() + j * row_bytes, rows + chosen[j] * row_bytes, row_bytes);
    }
    ops.pack_rows(ops.backend, cluster.data(), item.cluster_rows, static_cast<int>(cols), 0,
                  reinterpret_cast<Bf16*>(item.target + c * item.part_bytes));
    done(cluster.size());
  }
}

// Fills one item, a chunk of rows at a time.
//   ids  token ids of the latest such item, which orders the rows of the clusters behind it
absl::Status FillItem(const WeightItem& item, const TensorSource& source, const kernels::Ops& ops,
                      std::vector<int32_t>& ids, const std::function<void(size_t)>& done) {
  Bf16* target = reinterpret_cast<Bf16*>(item.target);
  const int64_t cols = item.shape.back();
  const int64_t rows = item.shape.size() >= 2 ? item.shape[item.shape.size() - 2] : 1;
  // A multiple of 16, so that a chunk of gate rows starts at a tile.
  const int64_t chunk = std::max<int64_t>(16, kFillChunkBytes / (cols * sizeof(Bf16)) / 16 * 16);
  switch (item.kind) {
    case WeightItem::Kind::kVector: {
      std::vector<float> values(cols);
      if (absl::Status s = source.vector(item, values.data()); !s.ok()) return s;
      for (float& value : values) value *= item.scale;
      ops.write(ops.backend, item.target, values.data(), values.size() * sizeof(float));
      done(ItemBytes(item));
      break;
    }
    case WeightItem::Kind::kTokenIds:
      ids.resize(cols);
      if (absl::Status s = source.token_ids(item, ids.data()); !s.ok()) return s;
      ops.write(ops.backend, item.target, ids.data(), ids.size() * sizeof(int32_t));
      done(ItemBytes(item));
      break;
    case WeightItem::Kind::kMatrix:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        ops.pack_rows(ops.backend, source.rows(item.name, row, count, cols, 0), count,
                      static_cast<int>(cols), static_cast<int>(item.row_begin + row), target);
        done(count * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kGate:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        const std::byte* gate = source.rows(item.name, row, count, cols, 0);
        const std::byte* up = source.rows(item.up_name, row, count, cols, 1);
        ops.pack_gate_up(ops.backend, gate, up, count, static_cast<int>(cols),
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
          ops.pack_rows(ops.backend, data, static_cast<int>(rows), static_cast<int>(cols), 0,
                        expert);
        } else {
          ops.pack_gate_up(ops.backend, data, data + rows / 2 * cols * sizeof(Bf16),
                           static_cast<int>(rows / 2), static_cast<int>(cols), expert);
        }
        done(rows * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kClusters:
      FillClusters(item, source, ops, ids, done);
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
                         const kernels::Ops& ops, const LoadProgress& progress, size_t& filled,
                         size_t total) {
  if (progress) progress(filled, total);
  std::vector<int32_t> ids;
  for (const WeightItem& item : items) {
    const absl::Status status = FillItem(item, source, ops, ids, [&](size_t bytes) {
      filled += bytes;
      if (progress) progress(filled, total);
    });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
