#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/staged_rows.h"

namespace tandem::kernels::K_WORLD {

struct RowStage::Arrays {
  int32_t* ids = nullptr;
  int32_t* positions = nullptr;
  struct Group {
    int32_t* cells = nullptr;
    VisibleInterval* visible = nullptr;
    int32_t* part_of_row = nullptr;
    AttentionWave* waves = nullptr;
    AttentionPart* parts = nullptr;
    AttentionItem* items = nullptr;
    int32_t* table = nullptr;
  };
  std::array<Group, kNumStagedGroups> groups;
};

namespace {

// Entries of a block table that some row of the segment may read.
int64_t TableEntries(const RowsArgs::Group& group, const AttentionSegment& segment) {
  const int last = segment.row_begin + segment.num_rows - 1;
  return (group.visible_end[last] + group.block_tokens - 1) / group.block_tokens;
}

// Rows that operations run on. Generated rows come in many numbers, of which only some are
// recorded.
int PaddedRows(const RowsArgs& args) {
  const int rows = static_cast<int>(args.ids.size());
  if (args.prompt) return rows;
  int bucket = rows;
  if (rows > 16) {
    int step = 4;  // four buckets to an octave
    while (rows > 8 * step) step *= 2;
    bucket = (rows + step - 1) / step * step;
  } else if (rows > 4) {
    bucket = (rows + 3) / 4 * 4;
  }
  return std::max(rows, std::min(bucket, args.max_rows));
}

size_t RoundUp(size_t count) {
  size_t power = 16;
  while (power < count) power *= 2;
  return power;
}

}  // namespace

size_t RowStage::LayOut(std::byte* base, Arrays* arrays) const {
  size_t used = 0;
  const auto take = [&](size_t count, auto*& place) {
    using T = std::remove_reference_t<decltype(*place)>;
    place = reinterpret_cast<T*>(base + used);
    used += (count * sizeof(T) + 63) / 64 * 64;
  };
  take(capacity_.rows, arrays->ids);
  take(capacity_.rows, arrays->positions);
  for (int g = 0; g < kNumStagedGroups; ++g) {
    Arrays::Group& group = arrays->groups[g];
    take(capacity_.rows, group.cells);
    take(capacity_.rows, group.visible);
    take(capacity_.rows, group.part_of_row);
    take(capacity_.waves[g], group.waves);
    take(capacity_.parts[g], group.parts);
    take(capacity_.items[g], group.items);
  }
  // Tables last: the copy ends with the last entry in use.
  for (int g = 0; g < kNumStagedGroups; ++g) take(capacity_.table[g], arrays->groups[g].table);
  return used;
}

absl::Status RowStage::Plan(const RowsArgs& args, const AttentionLimits& limits) {
  for (int g = 0; g < kNumStagedGroups; ++g) {
    const RowsArgs::Group& group = args.groups[g];
    AttentionPlan& plan = plans_[g];
    strides_[g] = 0;
    visible_[g].clear();
    attention_[g] = {};
    if (group.segments.empty()) {
      plan.items.clear();
      plan.parts.clear();
      plan.waves.clear();
      plan.part_of_row.clear();
      continue;
    }
    cu_rows_.assign(1, 0);
    for (const AttentionSegment& segment : group.segments) {
      cu_rows_.push_back(segment.row_begin + segment.num_rows);
      strides_[g] = std::max(strides_[g], TableEntries(group, segment));
    }
    strides_[g] = static_cast<int64_t>(RoundUp(strides_[g]));
    for (size_t t = 0; t < group.visible_end.size(); ++t) {
      visible_[g].push_back({group.visible_begin[t], group.visible_end[t]});
    }
    visible_[g].resize(rows_);  // rows that there are not see nothing
    if (args.prompt) {
      PlanDirectAttention(cu_rows_, visible_[g], group.num_q_heads / group.num_kv_heads, &plan);
      continue;
    }
    AttentionPlanArgs wanted = {.cu_rows = cu_rows_,
                                .visible = visible_[g],
                                .group = group.num_q_heads / group.num_kv_heads,
                                .num_kv_heads = group.num_kv_heads,
                                .chunk_tokens = AttentionChunkTokens(g == 0, group.num_kv_heads),
                                .max_slots = limits.max_slots};
    wanted.grain = ChooseAttentionGrain(wanted, int64_t{4} * limits.multiprocessors);
    if (!limits.super_chunks[wanted.grain.m_tiles - 1]) wanted.grain.super_chunks = false;
    bool fits = PlanAttention(wanted, &plan);
    if (!fits && limits.super_chunks[wanted.grain.m_tiles - 1]) {
      wanted.grain.super_chunks = true;  // an eighth of the partial results
      fits = PlanAttention(wanted, &plan);
    }
    if (!fits) {
      return absl::InternalError(absl::StrCat("the memory for partial results of attention holds ",
                                              limits.max_slots,
                                              " of them, too few for one row of this context"));
    }
    attention_[g].chunk_tokens = wanted.chunk_tokens;
  }
  return absl::OkStatus();
}

bool RowStage::Grow(const RowsArgs& args) {
  const Capacity before = capacity_;
  const auto at_least = [](size_t& capacity, size_t count) {
    if (count > capacity) capacity = RoundUp(count);
  };
  at_least(capacity_.rows, rows_);
  for (int g = 0; g < kNumStagedGroups; ++g) {
    at_least(capacity_.waves[g], plans_[g].waves.size());
    at_least(capacity_.parts[g], plans_[g].parts.size());
    at_least(capacity_.items[g], plans_[g].items.size());
    at_least(capacity_.table[g], args.groups[g].segments.size() * strides_[g]);
  }
  return !(capacity_ == before);
}

absl::Status RowStage::Stage(const RowsArgs& args, const AttentionLimits& limits,
                             const Device& device, HostRing* ring, DeviceStream* stream) {
  args_ = args;
  rows_ = PaddedRows(args);
  if (absl::Status s = Plan(args, limits); !s.ok()) return s;
  Arrays there;
  if (Grow(args)) {
    ++generation_;
    if (absl::Status s = stream->Synchronize(); !s.ok()) return s;
    memory_ = {};
    absl::StatusOr<DeviceMemory> memory =
        device.Allocate(LayOut(nullptr, &there), "rows of a step");
    if (!memory.ok()) {
      capacity_ = {};
      return memory.status();
    }
    memory_ = *std::move(memory);
  }
  const size_t total = LayOut(memory_.data(), &there);
  size_t end = total;
  for (int g = kNumStagedGroups - 1; g >= 0; --g) {
    const size_t entries = args.groups[g].segments.size() * strides_[g];
    end = reinterpret_cast<std::byte*>(there.groups[g].table + entries) - memory_.data();
    if (entries > 0) break;
  }
  if (end > ring->half_bytes()) {
    return absl::InternalError(
        absl::StrCat("the rows of a step take ", end, " bytes, more than ", ring->half_bytes()));
  }
  const absl::StatusOr<std::byte*> room = ring->Take(end, stream);
  if (!room.ok()) return room.status();
  Arrays here;
  LayOut(*room, &here);
  const auto fill = [](auto* to, const auto& values) {
    if (!values.empty()) std::memcpy(to, values.data(), values.size() * sizeof(*to));
  };
  const size_t given = args.ids.size();
  fill(here.ids, args.ids);
  fill(here.positions, args.positions);
  std::fill(here.ids + given, here.ids + rows_, 0);
  std::fill(here.positions + given, here.positions + rows_, 0);
  ids_ = there.ids;
  positions_ = there.positions;
  for (int g = 0; g < kNumStagedGroups; ++g) {
    const RowsArgs::Group& group = args.groups[g];
    Arrays::Group& to = here.groups[g];
    const AttentionPlan& plan = plans_[g];
    fill(to.cells, group.cells);
    std::fill(to.cells + group.cells.size(), to.cells + rows_, -1);
    fill(to.visible, visible_[g]);
    fill(to.part_of_row, plan.part_of_row);
    fill(to.waves, plan.waves);
    fill(to.parts, plan.parts);
    fill(to.items, plan.items);
    for (size_t s = 0; s < group.segments.size(); ++s) {
      std::memcpy(to.table + s * strides_[g], group.segments[s].block_table,
                  TableEntries(group, group.segments[s]) * sizeof(int32_t));
    }
    const Arrays::Group& at = there.groups[g];
    cells_[g] = group.cells.empty() ? nullptr : at.cells;
    const int chunk_tokens = attention_[g].chunk_tokens;
    attention_[g] = {.grain = plan.grain,
                     .chunk_tokens = chunk_tokens,
                     .num_waves = static_cast<int>(plan.waves.size()),
                     .waves = at.waves,
                     .items = at.items,
                     .parts = at.parts,
                     .part_of_row = at.part_of_row,
                     .visible = at.visible,
                     .block_tables = at.table,
                     .table_stride = strides_[g]};
  }
  return stream->CopyToDevice(memory_.data(), *room, end);
}

}  // namespace tandem::kernels::K_WORLD
