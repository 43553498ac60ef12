#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <tuple>

namespace tandem::kernels {
namespace {

constexpr int kTileRows = 16;

// The union of what rows [begin, end) see; {0, 0} when that is nothing.
VisibleInterval UnionOf(std::span<const VisibleInterval> visible, int begin, int end) {
  VisibleInterval all;
  for (int row = begin; row < end; ++row) {
    const VisibleInterval& one = visible[row];
    if (one.begin >= one.end) continue;
    const bool first = all.begin == all.end;
    all.begin = first ? one.begin : std::min(all.begin, one.begin);
    all.end = first ? one.end : std::max(all.end, one.end);
  }
  return all;
}

int UnitTokens(const AttentionPlanArgs& args) {
  return args.chunk_tokens * (args.grain.super_chunks ? kChunksPerSuper : 1);
}

// Rows [row_begin, row_begin + num_rows) of a segment as one part; its items start at item_base.
AttentionPart MakePart(const AttentionPlanArgs& args, int segment, int row_begin, int num_rows,
                       int item_base) {
  const int unit = UnitTokens(args);
  const int tile = kTileRows * args.grain.m_tiles;
  const VisibleInterval all = UnionOf(args.visible, row_begin, row_begin + num_rows);
  AttentionPart part;
  part.row_begin = row_begin;
  part.num_rows = num_rows;
  part.segment = segment;
  part.item_base = item_base;
  part.unit_begin = all.begin / unit;
  part.num_units = all.begin == all.end ? 0 : (all.end + unit - 1) / unit - part.unit_begin;
  part.num_m_tiles = (num_rows * args.group + tile - 1) / tile;
  return part;
}

int64_t Items(const AttentionPart& part) { return int64_t{part.num_units} * part.num_m_tiles; }

// The union of what the packed rows of m tile `m` of a part see, `tile` of them.
VisibleInterval SeenByTile(std::span<const VisibleInterval> visible, const AttentionPart& part,
                           int group, int tile, int m) {
  const int first = m * tile / group;
  const int last = std::min(((m + 1) * tile - 1) / group, part.num_rows - 1);
  return UnionOf(visible, part.row_begin + first, part.row_begin + last + 1);
}

void AppendItems(const AttentionPlanArgs& args, const AttentionPart& part, int part_id,
                 std::vector<AttentionItem>* items) {
  const int unit = UnitTokens(args);
  const int tile = kTileRows * args.grain.m_tiles;
  for (int u = part.unit_begin; u < part.unit_begin + part.num_units; ++u) {
    for (int m = 0; m < part.num_m_tiles; ++m) {
      const VisibleInterval seen = SeenByTile(args.visible, part, args.group, tile, m);
      AttentionItem item = {.part = part_id, .m_tile = m};
      item.begin = std::max(seen.begin, u * unit);
      item.end = std::max(item.begin, std::min(seen.end, (u + 1) * unit));
      items->push_back(item);
    }
  }
}

}  // namespace

bool PlanAttention(const AttentionPlanArgs& args, AttentionPlan* plan) {
  plan->grain = args.grain;
  plan->items.clear();
  plan->parts.clear();
  plan->waves.assign(1, {});
  plan->part_of_row.assign(args.visible.size(), -1);
  for (size_t s = 0; s + 1 < args.cu_rows.size(); ++s) {
    for (int row = args.cu_rows[s]; row < args.cu_rows[s + 1];) {
      const int item_base = static_cast<int>(plan->items.size());
      int rows = args.cu_rows[s + 1] - row;
      AttentionPart part = MakePart(args, static_cast<int>(s), row, rows, item_base);
      while (Items(part) * args.num_kv_heads > args.max_slots) {
        if (rows == 1) {
          *plan = {};
          return false;
        }
        rows = (rows + 1) / 2;
        part = MakePart(args, static_cast<int>(s), row, rows, item_base);
      }
      const int part_id = static_cast<int>(plan->parts.size());
      const int64_t wave_items = item_base - plan->waves.back().item_begin + Items(part);
      if (wave_items * args.num_kv_heads > args.max_slots) {
        plan->waves.push_back({item_base, item_base, part_id, part_id});
      }
      plan->parts.push_back(part);
      AppendItems(args, part, part_id, &plan->items);
      std::fill_n(plan->part_of_row.begin() + row, rows, part_id);
      plan->waves.back().item_end = static_cast<int>(plan->items.size());
      plan->waves.back().part_end = part_id + 1;
      row += rows;
    }
  }
  return true;
}

void PlanDirectAttention(std::span<const int32_t> cu_rows, std::span<const VisibleInterval> visible,
                         int group, AttentionPlan* plan) {
  constexpr int kTile = kTileRows * kDirectMTiles;
  plan->grain = {.m_tiles = kDirectMTiles};
  plan->items.clear();
  plan->parts.clear();
  plan->part_of_row.assign(visible.size(), -1);
  for (size_t s = 0; s + 1 < cu_rows.size(); ++s) {
    if (cu_rows[s] == cu_rows[s + 1]) continue;
    const int part_id = static_cast<int>(plan->parts.size());
    AttentionPart part;
    part.row_begin = cu_rows[s];
    part.num_rows = cu_rows[s + 1] - cu_rows[s];
    part.segment = static_cast<int>(s);
    part.num_m_tiles = (part.num_rows * group + kTile - 1) / kTile;
    plan->parts.push_back(part);
    std::fill_n(plan->part_of_row.begin() + part.row_begin, part.num_rows, part_id);
    for (int m = 0; m < part.num_m_tiles; ++m) {
      const VisibleInterval seen = SeenByTile(visible, part, group, kTile, m);
      plan->items.push_back({part_id, m, seen.begin, seen.end});
    }
  }
  std::sort(plan->items.begin(), plan->items.end(), [](const auto& a, const auto& b) {
    const int a_tokens = a.end - a.begin, b_tokens = b.end - b.begin;
    return std::tie(b_tokens, a.part, a.m_tile) < std::tie(a_tokens, b.part, b.m_tile);
  });
  plan->waves.assign(1, {0, static_cast<int32_t>(plan->items.size()), 0,
                         static_cast<int32_t>(plan->parts.size())});
}

AttentionGrain ChooseAttentionGrain(const AttentionPlanArgs& args, int64_t full_grid) {
  AttentionPlanArgs coarse = args;
  coarse.grain = {.m_tiles = 1, .super_chunks = true};
  for (size_t s = 0; s + 1 < args.cu_rows.size(); ++s) {
    if ((args.cu_rows[s + 1] - args.cu_rows[s]) * args.group > kTileRows) coarse.grain.m_tiles = 2;
  }
  int64_t pieces = 0;
  for (size_t s = 0; s + 1 < args.cu_rows.size(); ++s) {
    const int row = args.cu_rows[s];
    pieces += Items(MakePart(coarse, static_cast<int>(s), row, args.cu_rows[s + 1] - row, 0)) *
              args.num_kv_heads;
  }
  coarse.grain.super_chunks = pieces >= full_grid;
  return coarse.grain;
}

}  // namespace tandem::kernels
