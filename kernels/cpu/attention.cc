// Spreads attention over the team; the arithmetic is in attention.inc.
//
// Memory    Per thread: the queries, scores and sums of one chunk (200 KiB), and 512 KiB of the
//           partial buffer once something is split. Nothing grows with the context: a split unit
//           with more chunks than the buffer holds takes several rounds, carrying its sums in
//           `out`.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <limits>
#include <span>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/kv_row.h"
#include "kernels/reference/attention_ref.h"

namespace tandem::kernels {
namespace {

// Work (positions x packed rows x head_dim) that one thread does in a few microseconds.
constexpr int64_t kSmallWork = int64_t{1} << 18;
// Reading a K row costs about as much as this many packed rows' products with it.
constexpr int kReadCost = 8;
constexpr size_t kPartialFloatsPerThread = size_t{128} << 10;
static_assert(kPartialFloatsPerThread >= size_t{kMaxPackedRows} * (kMaxHeadDim + 2));

// What one thread works in.
struct ThreadScratch {
  alignas(64) float scores[kMaxPackedRows * kAttentionChunk];
  float o[kMaxPackedRows * kMaxHeadDim];
  alignas(64) int8_t tile[kAttentionTile * kMaxHeadDim];
  AttentionQueries queries;
  const AttentionUnit* prepared;  // whose rows `queries` holds; null: nobody's
};

// Running sums of the packed rows of one unit; the sums over V are in the rows of `out`.
struct RowSums {
  float m[kMaxPackedRows];
  float l[kMaxPackedRows];
};

int GroupSize(const AttentionArgs& args) { return args.num_q_heads / args.num_kv_heads; }

int RowOf(const AttentionArgs& args, const AttentionUnit& unit, int r) {
  return args.segments[unit.segment].row_begin + (unit.packed_begin + r) / GroupSize(args);
}

int HeadOf(const AttentionArgs& args, const AttentionUnit& unit, int r) {
  const int group = GroupSize(args);
  return unit.kv_head * group + (unit.packed_begin + r) % group;
}

float* OutOf(const AttentionArgs& args, const AttentionUnit& unit, int r) {
  return AsF32(args.out) +
         (int64_t{RowOf(args, unit, r)} * args.num_q_heads + HeadOf(args, unit, r)) * args.head_dim;
}

// The K and V rows from `position` (of a tile) on; none where the block is released.
struct TileRows {
  KvRow k, v;
};

TileRows TileAt(const AttentionArgs& args, const AttentionUnit& unit, int position) {
  const KvView& kv = args.kv;
  const int32_t block = args.segments[unit.segment].block_table[position >> kv.log2_block_tokens];
  if (block < 0) return {};
  const int cell = position & ((1 << kv.log2_block_tokens) - 1);
  return {KRowAt(kv, block, unit.kv_head, cell, args.head_dim),
          VRowAt(kv, block, unit.kv_head, cell, args.head_dim)};
}

const float* QueryOf(const AttentionArgs& args, const AttentionUnit& unit, int r) {
  return args.q + RowOf(args, unit, r) * args.q_stride +
         int64_t{HeadOf(args, unit, r)} * args.head_dim;
}

// Makes `scratch` hold the queries of the unit, where its K format needs that.
void Prepare(const AttentionKernels& kernels, const AttentionArgs& args, const AttentionUnit& unit,
             ThreadScratch& scratch) {
  if (!KvHasScale(args.kv.k_format) || scratch.prepared == &unit) return;
  for (int r = 0; r < unit.packed_rows; ++r) {
    kernels.prepare(QueryOf(args, unit, r), args.kv.k_format, args.head_dim, r, &scratch.queries);
  }
  scratch.prepared = &unit;
}

// One chunk of one unit into m [packed_rows], l [packed_rows], o [packed_rows, head_dim].
// `then_next`: this thread goes on with the unit's next chunk, if there is one.
void RunChunk(const AttentionKernels& kernels, const AttentionArgs& args, const AttentionUnit& unit,
              int chunk_index, bool then_next, ThreadScratch& scratch, float* m, float* l,
              float* o) {
  Prepare(kernels, args, unit, scratch);
  const int first = chunk_index * kAttentionChunk;
  AttentionChunk chunk;
  chunk.rows = unit.packed_rows;
  chunk.head_dim = args.head_dim;
  uint32_t seen = 0;  // bit t: some row sees a position of tile t
  int visible_end = 0;
  for (int r = 0; r < unit.packed_rows; ++r) {
    const int t = RowOf(args, unit, r);
    chunk.q[r] = QueryOf(args, unit, r);
    const int begin = std::clamp(args.visible_begin[t] - first, 0, kAttentionChunk);
    const int end = std::clamp(args.visible_end[t] - first, 0, kAttentionChunk);
    visible_end = std::max(visible_end, args.visible_end[t]);
    chunk.begin[r] = begin;
    chunk.end[r] = end;
    if (begin < end) {
      seen |= (2u << ((end - 1) / kAttentionTile)) - (1u << (begin / kAttentionTile));
    }
  }

  for (int t = 0; t < kChunkTiles; ++t) {
    const TileRows rows =
        (seen >> t & 1) != 0 ? TileAt(args, unit, first + t * kAttentionTile) : TileRows{};
    chunk.k[t] = rows.k;
    chunk.v[t] = rows.v;
  }
  const bool next = then_next && chunk_index + 1 < unit.chunk_end;
  for (int t = 0; t < kMaxTilesAhead; ++t) {
    const int ahead = first + kAttentionChunk + t * kAttentionTile;
    chunk.k_ahead[t] = next && ahead < visible_end ? TileAt(args, unit, ahead).k : KvRow{};
  }
  chunk.k_format = args.kv.k_format;
  chunk.v_format = args.kv.v_format;
  chunk.queries = &scratch.queries;
  chunk.scores = scratch.scores;
  chunk.tile = scratch.tile;
  chunk.m = m;
  chunk.l = l;
  chunk.o = o;
  kernels.chunk(chunk);
}

void Clear(RowSums& sums) {
  std::fill_n(sums.m, kMaxPackedRows, -std::numeric_limits<float>::infinity());
  std::fill_n(sums.l, kMaxPackedRows, 0.0f);
}

// All chunks of a unit in turn.
void RunWhole(const AttentionKernels& kernels, const AttentionArgs& args, const AttentionUnit& unit,
              ThreadScratch& scratch) {
  RowSums sums;
  Clear(sums);
  float m[kMaxPackedRows], l[kMaxPackedRows];
  for (int c = unit.chunk_begin; c < unit.chunk_end; ++c) {
    RunChunk(kernels, args, unit, c, /*then_next=*/true, scratch, m, l, scratch.o);
    for (int r = 0; r < unit.packed_rows; ++r) {
      kernels.fold(m[r], l[r], scratch.o + r * args.head_dim, &sums.m[r], &sums.l[r],
                   OutOf(args, unit, r), args.head_dim);
    }
  }
  for (int r = 0; r < unit.packed_rows; ++r) {
    kernels.finish(sums.l[r], OutOf(args, unit, r), args.kv.v_format, args.head_dim);
  }
}

// One chunk of a split unit and where its m, l and o (as RunChunk writes them) wait.
struct Part {
  int unit;
  int chunk;
  float* data;
};

// The parts of one unit in a round: [part_begin, part_end).
struct PartRun {
  int unit;
  int part_begin;
  int part_end;
};

// Folds packed row r of one run, ascending, and finishes it after the unit's last chunk.
void FoldRow(const AttentionKernels& kernels, const AttentionArgs& args, const AttentionUnit& unit,
             std::span<const Part> parts, int r, RowSums& sums) {
  float* out = OutOf(args, unit, r);
  for (const Part& part : parts) {
    const float* m = part.data;
    const float* l = m + unit.packed_rows;
    const float* o = l + unit.packed_rows;
    kernels.fold(m[r], l[r], o + int64_t{r} * args.head_dim, &sums.m[r], &sums.l[r], out,
                 args.head_dim);
  }
  if (parts.back().chunk + 1 == unit.chunk_end) {
    kernels.finish(sums.l[r], out, args.kv.v_format, args.head_dim);
  }
}

// Chunks of split units in rounds of what the partial buffer holds, in order of (unit, chunk).
void RunSplit(const AttentionKernels& kernels, const AttentionArgs& args,
              std::span<const AttentionUnit> units, ThreadTeam& team, ThreadScratch* scratch,
              std::span<float> partials) {
  std::vector<RowSums> sums(units.size());
  for (RowSums& s : sums) Clear(s);
  std::vector<Part> parts;
  std::vector<PartRun> runs;
  int unit = 0, chunk = units.empty() ? 0 : units[0].chunk_begin;
  while (unit < static_cast<int>(units.size())) {
    parts.clear();
    runs.clear();
    size_t used = 0;
    int rows = 0;
    while (unit < static_cast<int>(units.size())) {
      const size_t part_floats = static_cast<size_t>(units[unit].packed_rows) * (args.head_dim + 2);
      const int begin = static_cast<int>(parts.size());
      for (; chunk < units[unit].chunk_end && used + part_floats <= partials.size(); ++chunk) {
        parts.push_back({unit, chunk, partials.data() + used});
        used += part_floats;
      }
      const int end = static_cast<int>(parts.size());
      if (begin < end) {
        runs.push_back({unit, begin, end});
        rows += units[unit].packed_rows;
      }
      if (chunk < units[unit].chunk_end) break;  // the buffer is full
      if (++unit < static_cast<int>(units.size())) chunk = units[unit].chunk_begin;
    }

    const int64_t num_parts = static_cast<int64_t>(parts.size());
    const int64_t piece = std::clamp<int64_t>(num_parts / (4 * team.threads()), 1, 8);
    team.ForEach(num_parts, piece, [&](int thread, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const AttentionUnit& u = units[parts[i].unit];
        float* m = parts[i].data;
        float* l = m + u.packed_rows;
        RunChunk(kernels, args, u, parts[i].chunk, /*then_next=*/i + 1 < end, scratch[thread], m, l,
                 l + u.packed_rows);
      }
    });

    // Rows of all runs, one after the other.
    const int fold_piece = (rows + team.threads() - 1) / team.threads();
    team.ForEach(rows, fold_piece, [&](int, int64_t begin, int64_t end) {
      int64_t row = 0;
      for (const PartRun& run : runs) {
        const AttentionUnit& u = units[run.unit];
        const auto of_run =
            std::span<const Part>(parts).subspan(run.part_begin, run.part_end - run.part_begin);
        for (int r = 0; r < u.packed_rows; ++r, ++row) {
          if (row >= begin && row < end) FoldRow(kernels, args, u, of_run, r, sums[run.unit]);
        }
      }
    });
  }
}

template <const AttentionKernels& kKernels>
void Attention(void* backend, const AttentionArgs& args) {
  CpuBackend& cpu = BackendOf(backend);
  ThreadTeam& team = cpu.team;
  const AttentionPlan plan = PlanAttention(args, team.threads());

  const size_t threads = static_cast<size_t>(team.threads());
  const size_t partial_floats = plan.split.empty() ? 0 : threads * kPartialFloatsPerThread;
  std::byte* memory =
      cpu.attention.Reserve(threads * sizeof(ThreadScratch) + partial_floats * sizeof(float));
  auto* scratch = reinterpret_cast<ThreadScratch*>(memory);
  auto* partials = reinterpret_cast<float*>(memory + threads * sizeof(ThreadScratch));
  for (size_t thread = 0; thread < threads; ++thread) scratch[thread].prepared = nullptr;

  const int64_t units = static_cast<int64_t>(plan.whole.size());
  team.ForEach(units, plan.small ? units : 1, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      RunWhole(kKernels, args, plan.whole[i], scratch[thread]);
    }
  });
  RunSplit(kKernels, args, plan.split, team, scratch, {partials, partial_floats});
}

}  // namespace

AttentionPlan PlanAttention(const AttentionArgs& args, int threads) {
  const int group = GroupSize(args);
  const auto work_of = [&](const AttentionUnit& unit) {
    return int64_t{unit.chunk_end - unit.chunk_begin} * kAttentionChunk *
           (unit.packed_rows + kReadCost) * args.head_dim;
  };

  AttentionPlan plan;
  int64_t total_work = 0;
  for (int s = 0; s < static_cast<int>(args.segments.size()); ++s) {
    const AttentionSegment& segment = args.segments[s];
    const int packed_rows = segment.num_rows * group;
    for (int begin = 0; begin < packed_rows; begin += kMaxPackedRows) {
      AttentionUnit unit{.segment = s, .packed_begin = begin};
      unit.packed_rows = std::min(kMaxPackedRows, packed_rows - begin);
      int first = std::numeric_limits<int>::max(),
          last = 0;  // positions that some row sees
      for (int r = 0; r < unit.packed_rows; ++r) {
        const int t = RowOf(args, unit, r);
        if (args.visible_begin[t] >= args.visible_end[t]) continue;
        first = std::min(first, args.visible_begin[t]);
        last = std::max(last, args.visible_end[t]);
      }
      if (first < last) {
        unit.chunk_begin = first / kAttentionChunk;
        unit.chunk_end = (last - 1) / kAttentionChunk + 1;
      }
      for (unit.kv_head = 0; unit.kv_head < args.num_kv_heads; ++unit.kv_head) {
        plan.whole.push_back(unit);
        total_work += work_of(unit);
      }
    }
  }

  plan.small = total_work <= kSmallWork;
  if (plan.small || threads == 1) return plan;
  const auto stays = [&](const AttentionUnit& unit) {
    return unit.chunk_end - unit.chunk_begin < 2 || 4 * threads * work_of(unit) <= total_work;
  };
  const auto split = std::stable_partition(plan.whole.begin(), plan.whole.end(), stays);
  plan.split.assign(split, plan.whole.end());
  plan.whole.erase(split, plan.whole.end());
  return plan;
}

void FillAttentionOps(CpuIsa isa, Ops& ops) {
  ops.supports = AttentionSupported;
  switch (isa) {
    case CpuIsa::kRef:
      ops.attention = [](void*, const AttentionArgs& args) { AttentionReference(args); };
      return;
    case CpuIsa::kAvx2:
      ops.attention = Attention<kAttentionKernelsAvx2>;
      return;
    case CpuIsa::kAvx512:
      ops.attention = Attention<kAttentionKernelsAvx512>;
      return;
    case CpuIsa::kAvx512Bf16:
      ops.attention = Attention<kAttentionKernelsAvx512Bf16>;
      return;
  }
}

}  // namespace tandem::kernels
