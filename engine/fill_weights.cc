#include "engine/fill_weights.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "absl/strings/str_format.h"

namespace tandem::engine {
namespace {

using kernels::Bf16;

size_t ItemBytes(const WeightItem& item) {
  return static_cast<size_t>(NumElements(item)) * sizeof(Bf16);
}

// One matrix behind an item.
struct Matrix {
  kernels::WeightFormat format;
  std::byte* data;
  kernels::F16* scales;
  int in;
};

// That of an expert or a cluster; 0 where there is but one.
Matrix MatrixOf(const WeightItem& item, int64_t part) {
  return {.format = item.format,
          .data = item.target + part * item.part_bytes,
          .scales = item.scales + part * item.part_scales,
          .in = static_cast<int>(item.shape.back())};
}

// From output `row`, a multiple of 16, on.
Matrix Below(Matrix matrix, int row) {
  if (matrix.format == kernels::WeightFormat::kBf16) {
    matrix.data += kernels::PackedElements(row, matrix.in) * sizeof(Bf16);
  } else {
    matrix.data += kernels::PackedCodeBytes(matrix.format, row, matrix.in);
    matrix.scales += kernels::PackedCodeScales(row, matrix.in);
  }
  return matrix;
}

absl::Status Unfit(const WeightItem& item) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "tensor \"%s\"%s holds a value that is not finite, or too large for weights in %s; load it "
      "with weights in bf16",
      item.name, item.up_name.empty() ? "" : absl::StrFormat(" or \"%s\"", item.up_name),
      item.format == kernels::WeightFormat::kInt8 ? "int8" : "int4"));
}

absl::Status PackRows(const WeightItem& item, const kernels::Ops& ops, const std::byte* rows,
                      int out, int row_begin, const Matrix& to) {
  if (to.format == kernels::WeightFormat::kBf16) {
    ops.pack_rows(ops.backend, rows, out, to.in, row_begin, reinterpret_cast<Bf16*>(to.data));
    return absl::OkStatus();
  }
  return ops.pack_code_rows(ops.backend, rows, out, to.in, row_begin,
                            {to.format, to.data, to.scales})
             ? absl::OkStatus()
             : Unfit(item);
}

absl::Status PackGateUp(const WeightItem& item, const kernels::Ops& ops, const std::byte* gate,
                        const std::byte* up, int width, const Matrix& to) {
  if (to.format == kernels::WeightFormat::kBf16) {
    ops.pack_gate_up(ops.backend, gate, up, width, to.in, reinterpret_cast<Bf16*>(to.data));
    return absl::OkStatus();
  }
  return ops.pack_code_gate_up(ops.backend, gate, up, width, to.in, {to.format, to.data, to.scales})
             ? absl::OkStatus()
             : Unfit(item);
}

// Gathers the rows of each cluster and packs them into a matrix of their own.
absl::Status FillClusters(const WeightItem& item, const TensorSource& source,
                          const kernels::Ops& ops, std::span<const int32_t> order,
                          const std::function<void(size_t)>& done) {
  const int64_t cols = item.shape[1];
  const size_t row_bytes = cols * sizeof(Bf16);
  const std::byte* rows = source.rows(item.name, 0, item.shape[0], cols, 0);
  std::vector<std::byte> cluster(item.cluster_rows * row_bytes);
  for (int64_t c = 0; c < item.shape[0] / item.cluster_rows; ++c) {
    const std::span<const int32_t> chosen = order.subspan(c * item.cluster_rows, item.cluster_rows);
    for (int j = 0; j < item.cluster_rows; ++j) {
      std::memcpy(cluster.data() + j * row_bytes, rows + chosen[j] * row_bytes, row_bytes);
    }
    if (absl::Status s =
            PackRows(item, ops, cluster.data(), item.cluster_rows, 0, MatrixOf(item, c));
        !s.ok()) {
      return s;
    }
    done(cluster.size());
  }
  return absl::OkStatus();
}

// Fills one item, a chunk of rows at a time.
//   ids  token ids of the latest such item, which orders the rows of the clusters behind it
absl::Status FillItem(const WeightItem& item, const TensorSource& source, const kernels::Ops& ops,
                      std::vector<int32_t>& ids, const std::function<void(size_t)>& done) {
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
        if (absl::Status s = PackRows(item, ops, source.rows(item.name, row, count, cols, 0), count,
                                      static_cast<int>(item.row_begin + row), MatrixOf(item, 0));
            !s.ok()) {
          return s;
        }
        done(count * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kGate:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        const std::byte* gate = source.rows(item.name, row, count, cols, 0);
        const std::byte* up = source.rows(item.up_name, row, count, cols, 1);
        if (absl::Status s = PackGateUp(item, ops, gate, up, count,
                                        Below(MatrixOf(item, 0), static_cast<int>(2 * row)));
            !s.ok()) {
          return s;
        }
        done(2 * count * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kExpertGateUp:
    case WeightItem::Kind::kExpertDown:
      for (int64_t e = 0; e < item.shape[0]; ++e) {
        const std::byte* data = source.rows(item.name, e * rows, rows, cols, 0);
        absl::Status packed =
            item.kind == WeightItem::Kind::kExpertDown
                ? PackRows(item, ops, data, static_cast<int>(rows), 0, MatrixOf(item, e))
                : PackGateUp(item, ops, data, data + rows / 2 * cols * sizeof(Bf16),
                             static_cast<int>(rows / 2), MatrixOf(item, e));
        if (!packed.ok()) return packed;
        done(rows * cols * sizeof(Bf16));
      }
      break;
    case WeightItem::Kind::kClusters:
      return FillClusters(item, source, ops, ids, done);
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
