// Paged attention, in a way of its own for each class of rows.
//
//   out[t, n, :] = sum_p softmax_p(q[t, n] . K[p, n/g]) V[p, n/g], p in the row's visible interval
//
// Generated  split over chunks of positions, then merged: PlanAttention on the host, once per step
//            and layer kind; then for every layer and wave of the plan AttentionSplit,
//            AttentionMerge.
// Prompt     one running softmax over all positions: PlanDirectAttention; then for every layer
//            AttentionDirect.
// Bits       of a row depend on its class, its q and what it sees: never on the plan, on `blocks`
//            or on other rows. The two classes differ in last bits.
// Graphs     Kernels and grids follow from head size, formats, grain, `blocks` and `rows`; waves,
//            items, intervals and tables are read from device memory. A recorded launch serves
//            every later step of the same grain and of at most `rows` rows; an empty wave does
//            nothing.
// Rows       that see nothing become 0. Rows of no part (padding, the other class) keep the bytes
//            that they have.
#pragma once

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/kport.h"
#include "kernels/ops.h"

namespace tandem::kernels::K_WORLD {

// A wave of a plan and, for split attention, where its partial results go; in device memory.
struct AttentionWork {
  const AttentionWave* wave = nullptr;
  const AttentionItem* items = nullptr;      // of the plan, as are
  const AttentionPart* parts = nullptr;      // these
  const int32_t* part_of_row = nullptr;      // [rows], -1 of rows in no part; not read by direct
  const VisibleInterval* visible = nullptr;  // [rows]
  AttentionGrain grain;
  // Not used by direct attention:
  int chunk_tokens = 0;
  float* partials = nullptr;  // AttentionWorkspaceBytes; 16-byte aligned
  int64_t max_slots = 0;
};

// Bytes of partial results: max_slots of them, each 16 * m_tiles rows of head_dim values, their
// maximum and their sum.
size_t AttentionWorkspaceBytes(int64_t max_slots, int m_tiles, int head_dim);

struct AttentionSplitArgs {
  AttentionWork work;
  // Head n of row r at q + r * q_stride + n * q_head_stride: bits of bf16 where K is stored in
  // bf16, else of f16; rotated where K is. (QkvPost writes them over f32 heads, so that
  // q_head_stride is 2 * head_dim.) 16-byte aligned, strides multiples of 8.
  const uint16_t* q = nullptr;
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  // [segments, table_stride] block id of position p at p / block_tokens, or -1 of a block that was
  // released, whose bytes are not read. Only entries with a position of some item are read.
  const int32_t* block_tables = nullptr;
  int64_t table_stride = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  // Between the intervals of one segment's rows (which have no gap in ordinary use) 16-bit values
  // must be finite; outside of them all bytes may be anything.
  KvView kv;
  int blocks = 0;  // of the grid: multiprocessors times what one holds; any number from 1 on does
};

struct AttentionMergeArgs {
  AttentionWork work;
  bf16* out = nullptr;  // [rows, num_q_heads * head_dim], 16-byte aligned
  int rows = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  KvFormat v_format = KvFormat::kBf16;  // decides whether the output is turned back
};

struct AttentionDirectArgs {
  AttentionWork work;           // the wave of a direct plan
  const uint16_t* q = nullptr;  // this and the next as in AttentionSplitArgs
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  const int32_t* block_tables = nullptr;
  int64_t table_stride = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  KvView kv;
  bf16* out = nullptr;  // [rows, num_q_heads * head_dim], 16-byte aligned
  int blocks = 0;
};

// Head sizes 256 and 512, every pair of formats but kF32. Asked when a model is loaded.
bool AttentionSupports(const AttentionShape& shape);

// Asks the device for the shared memory that a grain needs; once, when a model is loaded. False
// where it has too little, and that grain must not be planned: super-chunks of two m tiles at head
// size 512 take 116 KiB.
bool AllowAttention(const AttentionShape& shape, AttentionGrain grain);

void AttentionSplit(const AttentionSplitArgs& args, Stream stream);
void AttentionMerge(const AttentionMergeArgs& args, Stream stream);
void AttentionDirect(const AttentionDirectArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
