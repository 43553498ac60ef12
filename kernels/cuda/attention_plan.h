// How one step's attention is cut into pieces for the device: a host computation over row counts
// and visible intervals.
//
// In        rows per segment and what each row sees, from the step.
// Out       plain arrays that the kernels read (attention.h); the caller copies them.
// Not here  block tables, q, the cache: nothing of them decides how work is cut.
// Promise   Every cut gives the same bits: which one is taken may depend on the batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::kernels {

// Positions [begin, end) that a row sees.
struct alignas(8) VisibleInterval {
  int32_t begin = 0;
  int32_t end = 0;
};

// Chunks in a super-chunk: partial results are folded inside each, then over them (kernels.md
// 5.1.6).
constexpr int kChunksPerSuper = 8;

// Tokens of one chunk, a function of the layer's shape alone because it fixes the order of sums.
constexpr int AttentionChunkTokens(bool sliding, int num_kv_heads) {
  if (sliding) return num_kv_heads >= 16 ? 128 : 64;
  return num_kv_heads >= 4 ? 512 : 256;
}
constexpr int kMaxChunkTokens = 512;

// How coarse the pieces of split attention are.
struct AttentionGrain {
  int m_tiles = 1;            // 1 or 2: 16 or 32 packed (row, head of the group) pairs per block
  bool super_chunks = false;  // a block walks a super-chunk, not a chunk
};

// Packed rows `m_tile` of a part against positions [begin, end), of split attention one unit (chunk
// or super-chunk) at most; begin == end where none of these rows sees any of the unit.
struct alignas(16) AttentionItem {
  int32_t part = 0;
  int32_t m_tile = 0;
  int32_t begin = 0;
  int32_t end = 0;
};

// Rows of one segment that are worked on together. Item of (unit, m_tile) in split attention:
//   item_base + (unit - unit_begin) * num_m_tiles + m_tile
struct alignas(16) AttentionPart {
  int32_t row_begin = 0;
  int32_t num_rows = 0;
  int32_t segment = 0;
  int32_t item_base = 0;
  int32_t unit_begin = 0;
  int32_t num_units = 0;
  int32_t num_m_tiles = 0;
  int32_t unused = 0;
};

// What one launch works on. Slot of a partial result of split attention, in the wave's workspace:
//   (item - item_begin) * num_kv_heads + kv_head
struct alignas(16) AttentionWave {
  int32_t item_begin = 0;
  int32_t item_end = 0;
  int32_t part_begin = 0;
  int32_t part_end = 0;
};

struct AttentionPlanArgs {
  std::span<const int32_t> cu_rows;          // [segments + 1], ascending from 0
  std::span<const VisibleInterval> visible;  // [rows]
  int group = 0;                             // q heads per KV head
  int num_kv_heads = 0;
  int chunk_tokens = 0;  // a multiple of 32 up to kMaxChunkTokens
  AttentionGrain grain;
  int64_t max_slots = 0;  // partial results that the workspace holds
};

// Arrays for the device. Kept between steps, so that planning stops allocating.
struct AttentionPlan {
  AttentionGrain grain;
  std::vector<AttentionItem> items;
  std::vector<AttentionPart> parts;
  std::vector<int32_t> part_of_row;  // [rows], -1 of rows behind the last segment
  std::vector<AttentionWave> waves;
};

// Cuts a step for split attention, in item order segment, unit, m_tile. Segments are cut by rows
// where their partial results would not fit. False when one row alone has more than max_slots of
// them; the plan is then empty.
bool PlanAttention(const AttentionPlanArgs& args, AttentionPlan* plan);

// The grain for a step: two m tiles where some segment fills more than one, super-chunks where they
// still make at least `full_grid` pieces of work (four per multiprocessor). args.grain is ignored.
AttentionGrain ChooseAttentionGrain(const AttentionPlanArgs& args, int64_t full_grid);

// Packed rows of an item of direct attention, in tiles of 16.
constexpr int kDirectMTiles = 2;

// Cuts a step for direct attention: one wave of an item per 16 * kDirectMTiles packed rows, whose
// positions are all that these rows see, the longest first because blocks take items in turn.
// Arguments as in AttentionPlanArgs.
void PlanDirectAttention(std::span<const int32_t> cu_rows, std::span<const VisibleInterval> visible,
                         int group, AttentionPlan* plan);

}  // namespace tandem::kernels
