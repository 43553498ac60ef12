#include "engine/step_rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"

namespace tandem::engine {

absl::Status CheckSegments(const StepBatch& batch, const BlockTokens& block_tokens) {
  const int rows = static_cast<int>(batch.ids.size());
  int covered = 0;
  for (const Segment& segment : batch.segments) {
    if (segment.row_begin != covered || segment.num_rows < 1 ||
        segment.row_begin + segment.num_rows > rows || segment.num_prompt_rows < 0 ||
        segment.num_prompt_rows > segment.num_rows) {
      return absl::InternalError("the segments of a step do not cover its rows in order");
    }
    covered += segment.num_rows;
    for (const KvGroup group : {kSliding, kFull}) {
      if (block_tokens[group] == 0) continue;
      const std::span<const int32_t> table = segment.block_table[group];
      for (int t = segment.row_begin; t < covered; ++t) {
        const int32_t position = batch.positions[t];
        const size_t logical = position / block_tokens[group];
        if (logical >= table.size() || table[logical] < 0) {
          return absl::InternalError(
              absl::StrFormat("position %d of a step has no block in the block table", position));
        }
      }
    }
  }
  if (covered != rows) {
    return absl::InternalError("the segments of a step do not cover its rows in order");
  }
  return absl::OkStatus();
}

void FindRows(const StepBatch& batch, RowClass row_class, int window,
              const BlockTokens& block_tokens, StepRows& rows) {
  rows.batch_rows.clear();
  rows.ids.clear();
  rows.positions.clear();
  for (StepRows::Group& g : rows.groups) {
    g.cells.clear();
    g.begin.clear();
    g.end.clear();
    g.segments.clear();
  }
  for (const Segment& segment : batch.segments) {
    const int prompt_end = segment.row_begin + segment.num_prompt_rows;
    const int begin = row_class == RowClass::kGenerated ? prompt_end : segment.row_begin;
    const int end =
        row_class == RowClass::kPrompt ? prompt_end : segment.row_begin + segment.num_rows;
    if (begin == end) continue;
    for (const KvGroup group : {kSliding, kFull}) {
      if (block_tokens[group] == 0) continue;
      StepRows::Group& g = rows.groups[group];
      const std::span<const int32_t> table = segment.block_table[group];
      g.segments.push_back({rows.size(), end - begin, table.data()});
      for (int t = begin; t < end; ++t) {
        const int32_t position = batch.positions[t];
        g.cells.push_back(table[position / block_tokens[group]] * block_tokens[group] +
                          position % block_tokens[group]);
        g.begin.push_back(group == kFull ? 0 : std::max(0, position - window + 1));
        g.end.push_back(position + 1);
      }
    }
    for (int t = begin; t < end; ++t) {
      rows.batch_rows.push_back(t);
      rows.ids.push_back(batch.ids[t]);
      rows.positions.push_back(batch.positions[t]);
    }
  }
}

void KeepRows(const std::vector<int>& keep, StepRows& rows) {
  std::vector<int> new_index(rows.size() + 1, 0);  // kept rows before each old row
  for (const int row : keep) new_index[row + 1] = 1;
  std::partial_sum(new_index.begin(), new_index.end(), new_index.begin());
  const auto keep_values = [&](auto& values) {
    if (values.empty()) return;
    for (size_t i = 0; i < keep.size(); ++i) values[i] = values[keep[i]];
    values.resize(keep.size());
  };
  for (StepRows::Group& g : rows.groups) {
    std::vector<kernels::AttentionSegment> segments;
    for (const kernels::AttentionSegment& segment : g.segments) {
      const int begin = new_index[segment.row_begin];
      const int count = new_index[segment.row_begin + segment.num_rows] - begin;
      if (count > 0) segments.push_back({begin, count, segment.block_table});
    }
    g.segments = std::move(segments);
    keep_values(g.cells);
    keep_values(g.begin);
    keep_values(g.end);
  }
  keep_values(rows.batch_rows);
  keep_values(rows.ids);
  keep_values(rows.positions);
}

absl::Status FindHeadCounts(const std::vector<LayerDesc>& layers,
                            std::array<HeadCounts, kNumKvGroups>& heads) {
  for (size_t i = 0; i < layers.size(); ++i) {
    HeadCounts& group = heads[layers[i].group()];
    if (group.q == 0) group = {layers[i].num_q_heads, layers[i].num_kv_heads};
    if (group.q != layers[i].num_q_heads || group.kv != layers[i].num_kv_heads) {
      return absl::UnimplementedError(absl::StrFormat(
          "layer %d has %d query and %d KV heads, others of its kind %d and %d; they have to be "
          "alike",
          i, layers[i].num_q_heads, layers[i].num_kv_heads, group.q, group.kv));
    }
  }
  return absl::OkStatus();
}

kernels::RowsArgs RowsToStage(const StepRows& rows, const BlockTokens& block_tokens,
                              const std::array<HeadCounts, kNumKvGroups>& heads) {
  kernels::RowsArgs args;
  args.ids = rows.ids;
  args.positions = rows.positions;
  for (int group = 0; group < kNumKvGroups; ++group) {
    const StepRows::Group& g = rows.groups[group];
    args.groups[group] = {.cells = g.cells,
                          .visible_begin = g.begin,
                          .visible_end = g.end,
                          .segments = g.segments,
                          .block_tokens = block_tokens[group],
                          .num_q_heads = heads[group].q,
                          .num_kv_heads = heads[group].kv};
  }
  return args;
}

}  // namespace tandem::engine
