// Emulated attention over a batch, or over rows of it in any order, and its truth in f64.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/kernels/paged_kv.h"

namespace tandem::kernels {

struct FormatPair {
  KvFormat k;
  KvFormat v;
};

// Some with kernels of their own, and mixed ones.
constexpr FormatPair kPairs[] = {
    {KvFormat::kBf16, KvFormat::kBf16},     {KvFormat::kQ8, KvFormat::kQ8},
    {KvFormat::kTurbo4, KvFormat::kTurbo4}, {KvFormat::kTurbo3, KvFormat::kTurbo2},
    {KvFormat::kBf16, KvFormat::kTurbo4},   {KvFormat::kQ8, KvFormat::kF16}};

inline std::string PairName(const testing::TestParamInfo<FormatPair>& info) {
  return std::to_string(static_cast<int>(info.param.k)) + "_" +
         std::to_string(static_cast<int>(info.param.v));
}

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
  AttentionGrain grain;  // of split attention
  int chunk_tokens = 64;
  int blocks = 5;  // of the grid
  int64_t max_slots = int64_t{1} << 40;
  int padding_rows = 0;  // behind the others, of no segment
  emu::Schedule schedule;
};

struct StepResult {
  std::vector<float>
      out;  // [rows, row_values], values of bf16; kUntouched where nothing was stored
  int waves = 0;
  emu::TrafficBytes split;
  emu::TrafficBytes merge;
  emu::TrafficBytes direct;
  std::string error;
};
constexpr float kUntouched = -77.0f;

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

// The arrays of one step over a batch, as the kernels take them.
struct StepArrays {
  const AttentionBatch* batch = nullptr;
  StepOptions options;
  std::vector<int32_t> cu_rows = {0};
  DeviceVector<VisibleInterval> visible;
  int64_t q_head_stride = 0;
  int64_t q_stride = 0;
  DeviceVector<uint16_t> q;
  int64_t table_stride = 1;
  DeviceVector<int32_t> tables;
  DeviceVector<AttentionWave> waves;
  DeviceVector<AttentionItem> items;
  DeviceVector<AttentionPart> parts;
  DeviceVector<int32_t> part_of_row;
  AttentionGrain grain;
  int64_t max_slots = 0;
  DeviceVector<float> partials;
  DeviceVector<K_WORLD::Bf16x8> out;
};

// The rows of `pieces`, each piece a segment of its own, one behind the other; without a plan.
inline StepArrays MakeStepArrays(const AttentionBatch& batch, const std::vector<StepRows>& pieces,
                                 const StepOptions& options) {
  const int dim = batch.shape().head_dim, heads = batch.num_q_heads();
  const int log2_block = batch.shape().log2_block_tokens;
  StepArrays step = {.batch = &batch, .options = options};
  step.q_head_stride = 2 * dim;
  step.q_stride = heads * step.q_head_stride + 8;
  const std::vector<AttentionSegment> segments = batch.Segments();
  for (const StepRows& piece : pieces) {
    for (int i = 0; i < piece.num_rows; ++i) {
      const int row = segments[piece.segment].row_begin + piece.row_begin + i;
      step.visible.push_back({batch.visible(row).begin, batch.visible(row).end});
      // NaN between heads and rows.
      step.q.resize(step.visible.size() * step.q_stride, 0x7fff);
      uint16_t* q_row = &step.q[(step.visible.size() - 1) * step.q_stride];
      for (int n = 0; n < heads; ++n) {
        StoreQuery(batch.q(row) + n * dim, batch.shape().k_format, dim,
                   q_row + n * step.q_head_stride);
      }
      step.table_stride =
          std::max<int64_t>(step.table_stride, (batch.visible(row).end >> log2_block) + 1);
    }
    step.cu_rows.push_back(static_cast<int32_t>(step.visible.size()));
  }
  // Blocks behind and before all that a piece sees: an id that must not be read. Between: -1.
  step.tables.assign(pieces.size() * step.table_stride, 1 << 30);
  for (size_t s = 0; s < pieces.size(); ++s) {
    int32_t* table = &step.tables[s * step.table_stride];
    int first = 1 << 30, last = -1;
    for (int row = step.cu_rows[s]; row < step.cu_rows[s + 1]; ++row) {
      const VisibleInterval& seen = step.visible[row];
      if (seen.begin >= seen.end) continue;
      first = std::min(first, seen.begin >> log2_block);
      last = std::max(last, (seen.end - 1) >> log2_block);
    }
    for (int i = first; i <= last; ++i) table[i] = -1;
    for (int row = step.cu_rows[s]; row < step.cu_rows[s + 1]; ++row) {
      for (int p = step.visible[row].begin; p < step.visible[row].end; ++p) {
        table[p >> log2_block] = batch.block(pieces[s].segment, p);
      }
    }
  }
  step.visible.resize(step.visible.size() + options.padding_rows);
  step.q.resize(step.visible.size() * step.q_stride, 0x7fff);
  step.partials.resize(1);
  K_WORLD::Bf16x8 fill;
  std::fill_n(fill.v, 8, ToBf16(kUntouched));
  step.out.assign(step.visible.size() * batch.row_values() / 8, fill);
  return step;
}

inline void TakePlan(const AttentionPlan& plan, StepArrays* step) {
  step->waves.assign(plan.waves.begin(), plan.waves.end());
  step->items.assign(plan.items.begin(), plan.items.end());
  step->parts.assign(plan.parts.begin(), plan.parts.end());
  step->part_of_row.assign(plan.part_of_row.begin(), plan.part_of_row.end());
  step->grain = plan.grain;
}

// False when there is no plan.
inline bool PlanSplit(StepArrays* step) {
  const AttentionBatch& batch = *step->batch;
  const int kv_heads = batch.shape().num_kv_heads;
  AttentionPlan plan;
  if (!PlanAttention({.cu_rows = step->cu_rows,
                      .visible = step->visible,
                      .group = batch.num_q_heads() / kv_heads,
                      .num_kv_heads = kv_heads,
                      .chunk_tokens = step->options.chunk_tokens,
                      .grain = step->options.grain,
                      .max_slots = step->options.max_slots},
                     &plan)) {
    return false;
  }
  TakePlan(plan, step);
  const KvShape& shape = batch.shape();
  if (!K_WORLD::AllowAttention({shape.head_dim, shape.k_format, shape.v_format}, plan.grain)) {
    return false;
  }
  for (const AttentionWave& wave : plan.waves) {
    step->max_slots =
        std::max(step->max_slots, int64_t{wave.item_end - wave.item_begin} * kv_heads);
  }
  const size_t bytes =
      K_WORLD::AttentionWorkspaceBytes(step->max_slots, plan.grain.m_tiles, batch.shape().head_dim);
  step->partials.assign(bytes / sizeof(float) + 1, NAN);
  return true;
}

inline void PlanDirect(StepArrays* step) {
  const int group = step->batch->num_q_heads() / step->batch->shape().num_kv_heads;
  AttentionPlan plan;
  PlanDirectAttention(step->cu_rows, step->visible, group, &plan);
  TakePlan(plan, step);
}

inline K_WORLD::AttentionWork WorkOf(StepArrays& step, int wave) {
  return {.wave = &step.waves[wave],
          .items = step.items.data(),
          .parts = step.parts.data(),
          .part_of_row = step.part_of_row.data(),
          .visible = step.visible.data(),
          .grain = step.grain,
          .chunk_tokens = step.options.chunk_tokens,
          .partials = step.partials.data(),
          .max_slots = step.max_slots};
}

inline K_WORLD::AttentionSplitArgs SplitArgsOf(StepArrays& step, int wave) {
  const AttentionBatch& batch = *step.batch;
  return {.work = WorkOf(step, wave),
          .q = step.q.data(),
          .q_stride = step.q_stride,
          .q_head_stride = step.q_head_stride,
          .block_tables = step.tables.data(),
          .table_stride = step.table_stride,
          .num_q_heads = batch.num_q_heads(),
          .num_kv_heads = batch.shape().num_kv_heads,
          .head_dim = batch.shape().head_dim,
          .kv = batch.kv().view(),
          .blocks = step.options.blocks};
}

inline K_WORLD::AttentionMergeArgs MergeArgsOf(StepArrays& step, int wave) {
  const AttentionBatch& batch = *step.batch;
  return {.work = WorkOf(step, wave),
          .out = step.out.data()->v,
          .rows = static_cast<int>(step.visible.size()),
          .num_q_heads = batch.num_q_heads(),
          .num_kv_heads = batch.shape().num_kv_heads,
          .head_dim = batch.shape().head_dim,
          .v_format = batch.shape().v_format};
}

inline K_WORLD::AttentionDirectArgs DirectArgsOf(StepArrays& step) {
  const AttentionBatch& batch = *step.batch;
  return {.work = WorkOf(step, 0),
          .q = step.q.data(),
          .q_stride = step.q_stride,
          .q_head_stride = step.q_head_stride,
          .block_tables = step.tables.data(),
          .table_stride = step.table_stride,
          .num_q_heads = batch.num_q_heads(),
          .num_kv_heads = batch.shape().num_kv_heads,
          .head_dim = batch.shape().head_dim,
          .kv = batch.kv().view(),
          .out = step.out.data()->v,
          .blocks = step.options.blocks};
}

inline std::vector<float> OutputOf(const StepArrays& step) {
  std::vector<float> out;
  out.reserve(step.out.size() * 8);
  for (const K_WORLD::Bf16x8& eight : step.out) {
    for (const Bf16 x : eight.v) out.push_back(ToFloat(x));
  }
  return out;
}

// Split attention over the rows of `pieces`.
inline StepResult RunStep(const AttentionBatch& batch, const std::vector<StepRows>& pieces,
                          const StepOptions& options) {
  StepResult result;
  StepArrays step = MakeStepArrays(batch, pieces, options);
  if (!PlanSplit(&step)) {
    result.error = "no plan";
    return result;
  }
  result.waves = static_cast<int>(step.waves.size());
  KernelStream stream(options.schedule, /*os_threads=*/2);
  for (int wave = 0; wave < result.waves; ++wave) {
    K_WORLD::AttentionSplit(SplitArgsOf(step, wave), stream.get());
    const emu::TrafficBytes split = stream.TakeTraffic();
    K_WORLD::AttentionMerge(MergeArgsOf(step, wave), stream.get());
    const emu::TrafficBytes merge = stream.TakeTraffic();
    result.split.read += split.read;
    result.split.written += split.written;
    result.merge.read += merge.read;
    result.merge.written += merge.written;
  }
  result.error = stream.TakeError();
  result.out = OutputOf(step);
  return result;
}

// Direct attention over the rows of `pieces`.
inline StepResult RunDirectStep(const AttentionBatch& batch, const std::vector<StepRows>& pieces,
                                const StepOptions& options) {
  StepResult result;
  StepArrays step = MakeStepArrays(batch, pieces, options);
  PlanDirect(&step);
  KernelStream stream(options.schedule, /*os_threads=*/2);
  K_WORLD::AttentionDirect(DirectArgsOf(step), stream.get());
  result.direct = stream.TakeTraffic();
  result.error = stream.TakeError();
  result.out = OutputOf(step);
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
