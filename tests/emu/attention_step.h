// Emulated split attention over a batch, or over rows of it in any order, and its truth in f64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/kernels/paged_kv.h"

namespace tandem::kernels {

constexpr double kAttentionTolerance = 4e-3;  // bf16 outputs (kernels.md 11)

// Rows [row_begin, row_begin + num_rows) of a segment, counted within it.
struct StepRows {
  int segment = 0;
  int row_begin = 0;
  int num_rows = 0;
};

inline std::vector<StepRows> AllRows(const AttentionBatch& batch) {
  std::vector<StepRows> pieces;
  const std::vector<AttentionSegment> segments = batch.Segments();
  for (int s = 0; s < batch.num_segments(); ++s) pieces.push_back({s, 0, segments[s].num_rows});
  return pieces;
}

struct StepOptions {
  AttentionGrain grain;
  int chunk_tokens = 64;
  int blocks = 5;  // of the grid
  int64_t max_slots = int64_t{1} << 40;
  emu::Schedule schedule;
};

struct StepResult {
  std::vector<float> out;  // [rows, row_values], values of bf16
  int waves = 0;
  emu::TrafficBytes split;
  emu::TrafficBytes merge;
  std::string error;
};

// What the kernel is given for q, and what that is worth in the model's space.
inline void StoreQuery(const float* q, KvFormat k_format, int dim, uint16_t* operand) {
  std::vector<float> y(q, q + dim);
  if (KvHasScale(k_format)) {
    RotateReference(q, dim, y.data());
    for (float& x : y) x /= std::sqrt(static_cast<float>(dim));
  }
  for (int i = 0; i < dim; ++i) {
    operand[i] = k_format == KvFormat::kBf16 ? ToBf16(y[i]).bits : ToF16(y[i]).bits;
  }
}
inline float QueryValue(float q, KvFormat k_format) {
  return k_format == KvFormat::kBf16 ? ToFloat(ToBf16(q)) : q;
}

// The rows of `pieces`, each piece a segment of its own, one behind the other.
inline StepResult RunStep(const AttentionBatch& batch, const std::vector<StepRows>& pieces,
                          const StepOptions& options) {
  const int dim = batch.shape().head_dim, heads = batch.num_q_heads();
  const int kv_heads = batch.shape().num_kv_heads;
  const int64_t q_head_stride = 2 * dim, q_stride = heads * q_head_stride + 8;
  const std::vector<AttentionSegment> segments = batch.Segments();
  std::vector<int32_t> cu_rows = {0};
  std::vector<VisibleInterval> visible;
  std::vector<uint16_t> q;
  size_t table_stride = 1;
  for (const StepRows& piece : pieces) {
    for (int i = 0; i < piece.num_rows; ++i) {
      const int row = segments[piece.segment].row_begin + piece.row_begin + i;
      visible.push_back({batch.visible(row).begin, batch.visible(row).end});
      q.resize(visible.size() * q_stride, 0x7fff);  // NaN between heads and rows
      for (int n = 0; n < heads; ++n) {
        StoreQuery(batch.q(row) + n * dim, batch.shape().k_format, dim,
                   &q[(visible.size() - 1) * q_stride + n * q_head_stride]);
      }
      const size_t blocks = (batch.visible(row).end >> batch.shape().log2_block_tokens) + 1;
      table_stride = std::max(table_stride, blocks);
    }
    cu_rows.push_back(static_cast<int32_t>(visible.size()));
  }
  // Blocks that no row of a piece sees: an id that must not be read.
  std::vector<int32_t> tables(pieces.size() * table_stride, 1 << 30);
  for (size_t s = 0; s < pieces.size(); ++s) {
    for (int row = cu_rows[s]; row < cu_rows[s + 1]; ++row) {
      for (int p = visible[row].begin; p < visible[row].end; ++p) {
        const size_t i = p >> batch.shape().log2_block_tokens;
        tables[s * table_stride + i] = batch.block(pieces[s].segment, p);
      }
    }
  }

  AttentionPlan plan;
  StepResult result;
  if (!PlanAttention({.cu_rows = cu_rows,
                      .visible = visible,
                      .group = heads / kv_heads,
                      .num_kv_heads = kv_heads,
                      .chunk_tokens = options.chunk_tokens,
                      .grain = options.grain,
                      .max_slots = options.max_slots},
                     &plan)) {
    result.error = "no plan";
    return result;
  }
  int64_t slots = 0;
  for (const AttentionWave& wave : plan.waves) {
    slots = std::max(slots, int64_t{wave.item_end - wave.item_begin} * kv_heads);
  }
  std::vector<emu::float4> partials(
      cuda_emu::AttentionWorkspaceBytes(slots, options.grain.m_tiles, dim) / sizeof(emu::float4) +
          1,
      {NAN, NAN, NAN, NAN});
  std::vector<cuda_emu::Bf16x8> out(visible.size() * batch.row_values() / 8);
  emu::Stream stream(options.schedule, /*os_threads=*/2);
  cuda_emu::AttentionWork work = {.items = plan.items.data(),
                                  .parts = plan.parts.data(),
                                  .part_of_row = plan.part_of_row.data(),
                                  .visible = visible.data(),
                                  .grain = options.grain,
                                  .chunk_tokens = options.chunk_tokens,
                                  .partials = &partials.data()->x,
                                  .max_slots = slots};
  for (const AttentionWave& wave : plan.waves) {
    work.wave = &wave;
    cuda_emu::AttentionSplit({.work = work,
                              .q = q.data(),
                              .q_stride = q_stride,
                              .q_head_stride = q_head_stride,
                              .block_tables = tables.data(),
                              .table_stride = static_cast<int64_t>(table_stride),
                              .num_q_heads = heads,
                              .num_kv_heads = kv_heads,
                              .head_dim = dim,
                              .kv = batch.kv().view(),
                              .blocks = options.blocks},
                             &stream);
    const emu::TrafficBytes split = stream.TakeTraffic();
    cuda_emu::AttentionMerge({.work = work,
                              .out = out.data()->v,
                              .rows = static_cast<int>(visible.size()),
                              .num_q_heads = heads,
                              .num_kv_heads = kv_heads,
                              .head_dim = dim,
                              .v_format = batch.shape().v_format},
                             &stream);
    const emu::TrafficBytes merge = stream.TakeTraffic();
    result.split.read += split.read;
    result.split.written += split.written;
    result.merge.read += merge.read;
    result.merge.written += merge.written;
  }
  result.error = stream.TakeError();
  result.waves = static_cast<int>(plan.waves.size());
  result.out.reserve(out.size() * 8);
  for (const cuda_emu::Bf16x8& eight : out) {
    for (const Bf16 x : eight.v) result.out.push_back(ToFloat(x));
  }
  return result;
}

inline std::vector<float> InModelSpace(std::vector<float> row, KvFormat format) {
  if (KvHasScale(format)) {
    UnrotateReference(row.data(), static_cast<int>(row.size()), row.data());
  }
  return row;
}

// All rows of the batch, [rows, row_values]: rows decoded by the reference and turned back, so that
// what the kernels do with rotations must cancel.
inline std::vector<float> AttentionTruth(const AttentionBatch& batch) {
  const int dim = batch.shape().head_dim, heads = batch.num_q_heads();
  const int group = heads / batch.shape().num_kv_heads;
  std::vector<float> out(size_t(batch.rows()) * batch.row_values());
  const std::vector<AttentionSegment> segments = batch.Segments();
  for (int s = 0; s < batch.num_segments(); ++s) {
    const int row_begin = segments[s].row_begin, row_end = row_begin + segments[s].num_rows;
    for (int head = 0; head < batch.shape().num_kv_heads; ++head) {
      std::vector<std::vector<float>> keys, values;
      for (int row = row_begin; row < row_end; ++row) {
        const Interval seen = batch.visible(row);
        if (static_cast<int>(keys.size()) < seen.end) {
          keys.resize(seen.end);
          values.resize(seen.end);
        }
        for (int p = seen.begin; p < seen.end; ++p) {
          if (!keys[p].empty()) continue;
          const int block = batch.block(s, p), cell = batch.cell(p);
          keys[p] = InModelSpace(batch.kv().ReadK(block, head, cell), batch.shape().k_format);
          values[p] = InModelSpace(batch.kv().ReadV(block, head, cell), batch.shape().v_format);
        }
        for (int n = head * group; n < (head + 1) * group; ++n) {
          std::vector<double> scores, sum(dim);
          double max = -INFINITY, total = 0.0;
          for (int p = seen.begin; p < seen.end; ++p) {
            double score = 0.0;
            for (int d = 0; d < dim; ++d) {
              score += double{QueryValue(batch.q(row)[n * dim + d], batch.shape().k_format)} *
                       keys[p][d];
            }
            scores.push_back(score);
            max = std::max(max, score);
          }
          for (int p = seen.begin; p < seen.end; ++p) {
            const double weight = std::exp(scores[p - seen.begin] - max);
            total += weight;
            for (int d = 0; d < dim; ++d) sum[d] += weight * values[p][d];
          }
          float* to = &out[size_t(row) * batch.row_values() + n * dim];
          for (int d = 0; d < dim; ++d) {
            to[d] = seen.begin < seen.end ? static_cast<float>(sum[d] / total) : 0.0f;
          }
        }
      }
    }
  }
  return out;
}

}  // namespace tandem::kernels
